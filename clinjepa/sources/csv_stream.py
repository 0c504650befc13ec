"""A csv or csv.gz of any size as polars frames, block by block, in bounded memory.

One thread unpacks and cuts the text where a row ends (a line break inside quotes is none), others parse the blocks; at most
`ScanPlan.in_flight` blocks exist at a time. Frames come in the file's order. What cannot be read is refused with file, row,
column and remedy; messages never quote a value.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import polars as pl
from isal import igzip, isal_zlib

from clinjepa.errors import SourceError, StorageError
from clinjepa.storage import Folder
from clinjepa.storage.faults import translated

_POLARS_TYPES = {"integer": pl.Int64, "number": pl.Float64, "text": pl.String, "time": pl.String}
_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d", "%Y-%m-%d %H:%M")
_MB = 1024 * 1024
_PROCESS_MB = 300
"""What a Python process with polars and Arrow holds before it reads anything."""

LONGEST_HEADER = 2**20
"""Bytes in which a header must end."""
MOST_LINES = 100
"""Lines that a field in quotes may go over; beyond that two stray quotation marks have swallowed rows."""
_CHECKED_BYTES = 2**20
"""Text whose commas are counted at a time, so that their places take little memory."""

csv.field_size_limit(2**31 - 1)  # diagnosis of a broken file must not break on it

_QUOTED = re.compile(rb'"[^"]*"')
_WHOLE_NUMBER = re.compile(r"\s*[+-]?\d{1,18}\s*")
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, isal_zlib.error)


@dataclass(frozen=True)
class ScanPlan:
    """How a memory budget is spent: bytes of one block of text, blocks at a time, bytes of rows kept before they are written."""

    block_bytes: int
    in_flight: int
    buffer_bytes: int

    @classmethod
    def within(cls, memory_mb: int, threads: int | None = None) -> ScanPlan:
        """The largest plan whose peak stays inside the budget; SourceError when the budget is too small for any."""
        in_flight = min(8, pl.thread_pool_size() if threads is None else threads) + 1
        free = (memory_mb - _PROCESS_MB) * _MB
        block = min(16 * _MB, int(free * 0.4) // (4 * (in_flight + 2)))
        if block < _MB // 4:
            raise SourceError(
                f"{memory_mb} MB are too little to read a table (a process holds {_PROCESS_MB} MB before it begins); "
                "raise execution.memory_mb, or extract fewer tables at a time with execution.local_num_cpus"
            )
        return cls(block, in_flight, min(128 * _MB, int(free * 0.6) // 2))

    @property
    def peak_mb(self) -> int:
        """Estimate of the peak: a block counts four times (text, strings, frame, what is kept), a buffer twice (kept, packed)."""
        return _PROCESS_MB + (4 * self.block_bytes * (self.in_flight + 2) + 2 * self.buffer_bytes) // _MB


def process_mb() -> int:
    """What a process holds before it reads anything."""
    return _PROCESS_MB


def least_memory_mb() -> int:
    """A budget in which any table can be read at a good pace."""
    return _PROCESS_MB + 400


@dataclass(frozen=True)
class CsvFile:
    """A file and its columns. `columns`: name -> integer | number | text | time of the columns to read; others are passed over."""

    folder: Folder
    name: str
    header: list[str]
    columns: dict[str, str]

    @property
    def where(self) -> str:
        return f"{self.folder.address}/{self.name}"


Keep = Callable[[pl.DataFrame, Counter[str]], pl.DataFrame]
"""Chooses rows (and columns) of a block's frame, counting what it leaves out; runs in several threads at once."""


def scan(file: CsvFile, plan: ScanPlan, keep: Keep, counts: Counter[str]) -> Iterator[tuple[pl.DataFrame, int]]:
    """Pairs of (what `keep` leaves of a block, rows of that block), in the file's order.

    Frames have the columns asked for, with times as strings (see `parse_times`), and `row` int64, the row's place in the file from 0.
    Counted: `invalid_utf8:<file>`, rows with bytes that are not UTF-8; these bytes are replaced.
    """
    with ThreadPoolExecutor(1) as unpacker, ThreadPoolExecutor(plan.in_flight) as parsers, open_stream(file.folder, file.name) as stream:
        blocks = _blocks(file, stream, plan.block_bytes)
        pending: deque[Future[tuple[pl.DataFrame, int, Counter[str]]]] = deque()
        first_row = 0
        coming: Future[bytes] | None = unpacker.submit(next, blocks, b"")
        try:
            while coming is not None or pending:
                if coming is not None and len(pending) < plan.in_flight:
                    block = _unpacked(coming, file, first_row)
                    coming = unpacker.submit(next, blocks, b"") if block else None
                    if block:
                        pending.append(parsers.submit(_parse, file, block, keep))
                    continue
                try:
                    frame, num_rows, found = pending.popleft().result()
                except _BadRow as fault:
                    raise SourceError(f"{file.where}, row {first_row + fault.row + 2}: {fault.what}") from None
                counts.update(found)
                yield frame.with_columns(pl.col("row") + first_row), num_rows
                first_row += num_rows
        finally:
            for future in (*pending, *([coming] if coming else [])):
                future.cancel()


def parse_times(frame: pl.DataFrame, file: CsvFile) -> pl.DataFrame:
    """`frame` with its time columns as timestamps; SourceError for text that is no time. Needs `row` for the message."""
    for name in [column for column, kind in file.columns.items() if kind == "time" and column in frame.columns]:
        text = pl.col(name)
        parsed = frame.select(text.str.to_datetime(_TIME_FORMATS[0], time_unit="us", strict=False))[name]
        if parsed.null_count() > frame[name].null_count():
            others = [text.str.to_datetime(spelling, time_unit="us", strict=False) for spelling in _TIME_FORMATS]
            parsed = frame.select(pl.coalesce(others))[name]
            bad = frame.filter(parsed.is_null() & frame[name].is_not_null() & (frame[name] != ""))  # "" is how some write no time
            if bad.height:
                raise _BadRow(
                    bad["row"][0], f"column {name!r} holds no time of the form YYYY-MM-DD HH:MM:SS; export the table as PhysioNet has it"
                )
        frame = frame.with_columns(parsed)
    return frame


@contextmanager
def open_stream(folder: Folder, name: str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a csv or csv.gz."""
    with _opened(folder, name) as raw:
        if not name.endswith(".gz"):
            yield raw
            return
        try:
            with igzip.IGzipFile(fileobj=raw, mode="rb") as unpacked:
                yield unpacked
        except _BROKEN as error:
            raise _broken(f"{folder.address}/{name}", error, None) from None


def read_line(stream: IO[bytes], where: str) -> bytes:
    """The first line, LONGEST_HEADER bytes at most. StorageError or SourceError where it cannot be read."""
    try:
        return stream.readline(LONGEST_HEADER)
    except _BROKEN as error:
        raise _broken(where, error, None) from None
    except OSError as error:
        raise StorageError(f"{where}: cannot be read ({type(error).__name__}); check the disk or the network") from None


def _opened(folder: Folder, name: str) -> IO[bytes]:
    try:
        return folder.fs.open(folder.path(name), "rb")
    except Exception as error:
        fault = translated(f"{folder.address}/{name}", error, folder.is_local, writes=False)
        if fault is None:
            raise
        raise fault from None


class _BadRow(Exception):
    """A row (0 = first of its block) that cannot be read, and why."""

    def __init__(self, row: int, what: str) -> None:
        super().__init__(what)
        self.row, self.what = row, what


def _blocks(file: CsvFile, stream: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Pieces of about `block_bytes` that end where a row ends."""
    stream.readline(LONGEST_HEADER)  # the header
    rest = b""
    while chunk := stream.read(block_bytes):
        block = rest + chunk
        cut = _last_row_end(block)
        if cut == 0 and len(block) > 8 * block_bytes:
            raise SourceError(
                f"{file.where}: a quotation mark is never closed, or a row is longer than {8 * block_bytes // _MB} MB; get the file again"
            )
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest.strip():
        yield _whole_last_row(file, rest)


def _last_row_end(block: bytes) -> int:
    """Bytes up to and with the last line break that lies outside of quotes; 0 when there is none."""
    end = block.rfind(b"\n") + 1
    quotes = block.count(b'"', 0, end)
    while end and quotes % 2:
        before = block.rfind(b"\n", 0, end - 1) + 1
        quotes -= block.count(b'"', before, end)
        end = before
    return end


def _whole_last_row(file: CsvFile, rest: bytes) -> bytes:
    fault = SourceError(f"{file.where}: the last row ends in the middle; the file was cut short, get it again")
    if rest.count(b'"') % 2:
        raise SourceError(f"{file.where}: a quotation mark is never closed, or the file was cut short; get it again")
    try:
        fields = list(csv.reader(io.StringIO(rest.decode("utf-8", errors="replace"), newline="")))
    except csv.Error:
        raise fault from None
    if len(fields[-1]) < len(file.header):
        raise fault
    return rest


def _parse(file: CsvFile, block: bytes, keep: Keep) -> tuple[pl.DataFrame, int, Counter[str]]:
    counts: Counter[str] = Counter()
    block = block.lstrip(b"\r\n")
    try:
        frame = _read(file, block, "utf8")
    except pl.exceptions.PolarsError as error:
        frame = _read_again(file, block, error, counts)
    # polars fills short rows up with nulls, and of long ones, where not all columns are read, it drops what is too much.
    if _is_ragged(block, len(file.header)) and (fault := _bad_row(file, block)):
        raise fault
    frame = frame.with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    return keep(frame, counts), frame.height, counts


def _is_ragged(block: bytes, num_fields: int) -> bool:
    """Whether a line has another number of commas outside of quotes than the header (a blank line has). Raises _BadRow for a field in
    quotes that goes over more than MOST_LINES lines."""
    text = block
    if b'"' in block:
        text = _QUOTED.sub(b"", block)
        if block.count(b"\n") - text.count(b"\n") > MOST_LINES:
            for quoted in _QUOTED.finditer(block):
                lines = quoted.group().count(b"\n")
                if lines > MOST_LINES:
                    what = f"a field in quotation marks goes over {lines} lines; one of the marks is a stray one, export the table again"
                    raise _BadRow(block.count(b"\n", 0, quoted.start()), what)
    start = 0
    while start < len(text):
        end = text.rfind(b"\n", start, start + _CHECKED_BYTES) + 1 or text.find(b"\n", start) + 1 or len(text)
        if _differ(np.frombuffer(text, np.uint8, end - start, start), num_fields - 1):
            return True
        start = end
    return False


def _differ(characters: np.ndarray, num_commas: int) -> bool:
    """Whether the lines of a text do not all have so many commas."""
    commas, ends = (np.flatnonzero(characters == ord(each)) for each in (",", "\n"))
    if len(characters) and characters[-1] != ord("\n"):
        ends = np.append(ends, len(characters))
    if len(commas) != num_commas * len(ends):
        return True
    places = commas.reshape(len(ends), num_commas)
    return num_commas > 0 and bool((places[:, -1] > ends).any() or (places[1:, 0] < ends[:-1]).any())


def _read(file: CsvFile, block: bytes, encoding: Any) -> pl.DataFrame:
    # Columns that are passed over may have any names, the same one twice too.
    names = [name if name in file.columns else f"{place} passed over" for place, name in enumerate(file.header)]
    types = {name: _POLARS_TYPES[file.columns.get(name, "text")] for name in names}
    wanted = [place for place, name in enumerate(file.header) if name in file.columns]
    if not block:
        return pl.DataFrame(schema={names[place]: types[names[place]] for place in wanted})
    return pl.read_csv(block, has_header=False, schema=types, columns=wanted, encoding=encoding)


def _read_again(file: CsvFile, block: bytes, error: Exception, counts: Counter[str]) -> pl.DataFrame:
    """A block that polars refused: read with invalid UTF-8 replaced, if that was all; else _BadRow says which row and why."""
    try:
        block.decode("utf-8")
        readable = False
    except UnicodeDecodeError:
        readable = True
    if readable:
        counts[f"invalid_utf8:{file.name.rsplit('/', 1)[-1].partition('.')[0]}"] += sum(not _is_utf8(line) for line in block.split(b"\n"))
        try:
            return _read(file, block, "utf8-lossy")
        except pl.exceptions.PolarsError as second:
            error = second
    raise (
        _bad_row(file, block)
        or _stray_mark(block)
        or _BadRow(0, f"cannot be parsed from here on ({type(error).__name__}); get the file again")
    )


def _stray_mark(block: bytes) -> _BadRow | None:
    """The first line with an odd number of quotation marks."""
    for place, line in enumerate(block.split(b"\n")):
        if line.count(b'"') % 2:
            return _BadRow(place, "a quotation mark stands alone in this line or inside a field; export the table as PhysioNet has it")
    return None


def _bad_row(file: CsvFile, block: bytes) -> _BadRow | None:
    """The first row of a block that cannot be read, and what is wrong with it. A blank line is no row that lacks its fields."""
    numbers = {"integer": _whole_number, "number": _number}
    rows = csv.reader(io.StringIO(block.decode("utf-8", errors="replace"), newline=""))
    for place, fields in enumerate(rows):
        if fields and len(fields) != len(file.header):
            return _BadRow(place, f"{len(fields)} fields, the header has {len(file.header)}; get the file again")
        for name, field in zip(file.header, fields, strict=False):
            convert = numbers.get(file.columns.get(name, ""))
            try:
                if convert is not None and field:
                    convert(field)
            except ValueError:
                return _BadRow(place, f"column {name!r} holds no {file.columns[name]}; export the table as PhysioNet has it")
    return None


def _whole_number(field: str) -> None:
    """Raises ValueError for what polars does not take for one, as `1_000` or twenty digits."""
    if not _WHOLE_NUMBER.fullmatch(field):
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


def _unpacked(coming: Future[bytes], file: CsvFile, first_row: int) -> bytes:
    try:
        return coming.result()
    except _BROKEN as error:
        raise _broken(file.where, error, first_row) from None
    except OSError as error:
        raise StorageError(
            f"{file.where}: reading stopped after row {first_row + 1} ({type(error).__name__}); check the disk or the network "
            "and run again, finished tables are kept"
        ) from None


def _broken(where: str, error: BaseException, row: int | None) -> SourceError:
    after = "" if row is None else f" after row {row + 1}"
    return SourceError(f"{where}: not a whole gzip file{after} ({type(error).__name__}); it was cut short or altered, get it again")
