"""One block of csv text to a polars frame, and which row of a block that cannot be read is at fault.

`csv_stream` cuts a file into blocks and calls `parse_block` in several threads. A fault is a `BadRow` with the row's place in its
block; messages never quote a value.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl

from clinjepa.sources.files.text_files import whole_number
from clinjepa.storage import Folder

_POLARS_TYPES = {"integer": pl.Int64(), "number": pl.Float64(), "text": pl.String(), "time": pl.String()}
_KINDS = {"integer": "an integer", "number": "a number"}
_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M")

MOST_LINES = 100
"""Lines that a quoted field may span. A longer one means that two stray quotation marks have swallowed rows."""
_CHECKED_BYTES = 2**20
"""Size of the pieces of text in which commas are counted, which bounds the memory for their positions."""

csv.field_size_limit(2**31 - 1)  # the diagnosis of a broken file must not fail on a long field

_BLANKS = (b", ", b" ,", b",\t", b"\t,")
"""Blanks around a comma outside quotes: texts of such a block are stripped. Polars skips blanks before a number, not behind it."""

_QUOTED = re.compile(rb'"[^"]*"')
_WHOLE_NUMBER = re.compile(r"[+-]?\d{1,18}|[+-]?\d{1,15}\.0*")


@dataclass(frozen=True)
class CsvFile:
    """A csv file. `columns`: the columns to read, name -> integer | number | text | time; the others of `header` are skipped."""

    folder: Folder
    name: str
    header: list[str]
    columns: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.folder.address}/{self.name}"


Keep = Callable[[pl.DataFrame, Counter[str]], pl.DataFrame]
"""Selects rows (and columns) of a block's frame and counts the rows it drops. It is called from several threads at once."""


class BadRow(Exception):
    """A row that cannot be read (`row`: 0 is the first of its block) and the reason (`what`)."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


def parse_block(file: CsvFile, block: bytes, keep: Keep) -> tuple[pl.DataFrame, int, Counter[str]]:
    """Parse one block of whole rows.

    Args:
        file: The file that the block is from.
        block: Text that starts and ends at the border of a row.
        keep: Selects the rows to keep.

    Returns:
        The kept rows with `row` int64 (0 is the first of the block), the number of rows of the block, and the counts of `keep` and of
        `invalid_utf8:<file>`.

    Raises:
        BadRow: A row cannot be read.
    """
    counts: Counter[str] = Counter()
    block = block.lstrip(b"\r\n")
    try:
        frame = _read(file, block, "utf8")
    except pl.exceptions.PolarsError as error:
        frame = _read_again(file, block, error, counts)
    # polars fills short rows with nulls. Of long rows it drops the surplus fields when not all columns are read.
    if _is_ragged(block, len(file.header)) and (fault := _bad_row(file, block)):
        raise fault
    if _is_padded(block):
        frame = frame.with_columns(pl.col(pl.String).str.strip_chars())
    frame = frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    return keep(frame, counts), frame.height, counts


def _is_padded(block: bytes) -> bool:
    """Whether blanks stand around a comma that is outside quotes."""
    if not any(blank in block for blank in _BLANKS):
        return False
    text = _QUOTED.sub(b"", block) if b'"' in block else block
    return any(blank in text for blank in _BLANKS)


def _is_ragged(block: bytes, num_fields: int) -> bool:
    """Whether a line has a different number of commas outside quotes than the header (also true for a blank line).

    Raises:
        BadRow: A quoted field spans more than MOST_LINES lines.
    """
    text = block
    if b'"' in block:
        text = _QUOTED.sub(b"", block)
        if block.count(b"\n") - text.count(b"\n") > MOST_LINES:
            for quoted in _QUOTED.finditer(block):
                lines = quoted.group().count(b"\n")
                if lines > MOST_LINES:
                    what = f"a field in quotation marks spans {lines} lines; one of the marks is probably stray, export the table again"
                    raise BadRow(block.count(b"\n", 0, quoted.start()), what)
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + _CHECKED_BYTES) + 1 or text.find(b"\n", start) + 1 or len(text)
        if _differ(np.frombuffer(text, np.uint8, end - start, start), num_fields - 1):
            return True
        start = end
    return False


def _differ(characters: np.ndarray, num_commas: int) -> bool:
    """Whether some line of a text does not have exactly `num_commas` commas."""
    commas, ends = (np.flatnonzero(characters == ord(each)) for each in (",", "\n"))
    if len(characters) and characters[-1] != ord("\n"):
        ends = np.append(ends, len(characters))
    if len(commas) != num_commas * len(ends):
        return True
    places = commas.reshape(len(ends), num_commas)
    return num_commas > 0 and bool((places[:, -1] > ends).any() or (places[1:, 0] < ends[:-1]).any())


def _read(file: CsvFile, block: bytes, encoding: Literal["utf8", "utf8-lossy"]) -> pl.DataFrame:
    # Skipped columns may have any names, also the same name twice.
    names = [name if name in file.columns else f"{place} skipped" for place, name in enumerate(file.header)]
    types = {name: _POLARS_TYPES[file.columns.get(name, "text")] for name in names}
    wanted = [place for place, name in enumerate(file.header) if name in file.columns]
    if not block:
        return pl.DataFrame(schema={names[place]: types[names[place]] for place in wanted})
    return pl.read_csv(block, has_header=False, schema=types, columns=wanted, encoding=encoding)


def _read_as_text(file: CsvFile, block: bytes, encoding: Literal["utf8", "utf8-lossy"]) -> pl.DataFrame:
    """As `_read`, with numbers converted from text: slower, but blanks around a value and the `.0` of a whole number do not matter."""
    found = _read(replace(file, columns=dict.fromkeys(file.columns, "text")), block, encoding).with_columns(pl.all().str.strip_chars())
    exact: list[pl.Expr] = []
    for name in [column for column, kind in file.columns.items() if kind in _KINDS]:
        text = pl.col(name)
        given = pl.when((text != "") & (text.str.to_lowercase() != "nan")).then(text)
        number = whole_number(given) if file.columns[name] == "integer" else given.cast(pl.Float64, strict=False)
        if found.select((given.is_not_null() & number.is_null()).any()).item():
            raise pl.exceptions.ComputeError(f"column {name} holds text")
        exact.append(number.alias(name))
    return found.with_columns(exact)


def _read_again(file: CsvFile, block: bytes, error: Exception, counts: Counter[str]) -> pl.DataFrame:
    """A block that polars refused, read with invalid UTF-8 replaced, and numbers without the blanks around them or the `.0` behind a whole
    one, if these are its only faults; otherwise raises BadRow."""
    try:
        block.decode("utf-8")
        readable = False
    except UnicodeDecodeError:
        readable = True
    if readable:
        counts[f"invalid_utf8:{file.name.rsplit('/', 1)[-1].partition('.')[0]}"] += sum(not _is_utf8(line) for line in block.split(b"\n"))
    for read in (_read, _read_as_text) if readable else (_read_as_text,):
        try:
            return read(file, block, "utf8-lossy" if readable else "utf8")
        except pl.exceptions.PolarsError as second:
            error = second
    raise (
        _bad_row(file, block)
        or _stray_mark(block)
        or BadRow(0, f"cannot be parsed from here on ({type(error).__name__}); get the file again")
    )


def _stray_mark(block: bytes) -> BadRow | None:
    """The first line with an odd number of quotation marks."""
    for place, line in enumerate(block.split(b"\n")):
        if line.count(b'"') % 2:
            return BadRow(place, "this line has a single quotation mark, or one inside a field; export the table as PhysioNet publishes it")
    return None


def _bad_row(file: CsvFile, block: bytes) -> BadRow | None:
    """The first row of a block that cannot be read, and the reason. A blank line is skipped, not reported as a short row."""
    numbers = {"integer": _whole_number, "number": _number}
    rows = csv.reader(io.StringIO(block.decode("utf-8", errors="replace"), newline=""))
    for place, fields in enumerate(rows):
        if fields and len(fields) != len(file.header):
            return BadRow(place, f"{len(fields)} fields, the header has {len(file.header)}; get the file again")
        for name, field in zip(file.header, fields, strict=False):
            convert = numbers.get(file.columns.get(name, ""))
            try:
                if convert is not None and field.strip():
                    convert(field.strip())
            except ValueError:
                return BadRow(
                    place,
                    f"the value of column {name!r} is not {_KINDS[file.columns[name]]}; export the table as PhysioNet publishes it",
                )
    return None


def _whole_number(field: str) -> None:
    """Raises ValueError for text that is no integer for `_read_as_text`, such as `1_000`, `1.5` or twenty digits."""
    if field.casefold() != "nan" and not _WHOLE_NUMBER.fullmatch(field):
        raise ValueError


def _number(field: str) -> None:
    if "_" in field:
        raise ValueError
    float(field)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def parse_times(frame: pl.DataFrame, file: CsvFile) -> pl.DataFrame:
    """`frame` with its time columns as timestamps. `row` is needed for messages.

    Raises:
        BadRow: A text is not a time.
    """
    for name in [column for column, kind in file.columns.items() if kind == "time" and column in frame.columns]:
        text = pl.col(name)
        parsed = frame.select(text.str.to_datetime(_TIME_FORMATS[0], time_unit="us", strict=False))[name]
        if parsed.null_count() > frame[name].null_count():
            text = text.str.strip_chars()
            others = [text.str.to_datetime(spelling, time_unit="us", strict=False) for spelling in _TIME_FORMATS]
            parsed = frame.select(pl.coalesce(others))[name]
            bad = frame.filter(
                parsed.is_null() & frame[name].is_not_null() & (frame[name].str.strip_chars() != "")
            )  # some exports write "" for a missing time
            if bad.height:
                raise BadRow(
                    bad["row"][0],
                    f"the value of column {name!r} is not a time of the form YYYY-MM-DD HH:MM:SS; "
                    "export the table as PhysioNet publishes it",
                )
        frame = frame.with_columns(parsed)
    return frame
