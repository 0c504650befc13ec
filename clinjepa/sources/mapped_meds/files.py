"""Files of a mapped MEDS data set: which are read, their columns and types, and their rows in blocks of bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.clinical.code_maps import CodeMap
from clinjepa.errors import SourceError
from clinjepa.sources.files.arrow_types import plain_decimals
from clinjepa.sources.files.text_files import found_columns
from clinjepa.sources.meds.columns import whole_numbers
from clinjepa.storage import Folder

_MEDS: dict[str, tuple[tuple[str, ...], pl.DataType]] = {
    "subject_id": (("subject_id", "patient_id"), pl.Int64()),
    "time": (("time",), pl.Datetime("us")),
    "code": (("code",), pl.String()),
    "numeric_value": (("numeric_value",), pl.Float64()),
    "text_value": (("text_value",), pl.String()),
}
_MORE: dict[str, pl.DataType] = {
    "stay": pl.String(),
    "hospitalization": pl.String(),
    "unit": pl.String(),
    "order": pl.String(),
    "stored": pl.Datetime("us"),
    "care_unit": pl.String(),
}
_IDS = ("stay", "hospitalization", "order")
"""Columns of ids that may be texts; `structure` makes numbers of those of stays and hospitalisations."""
_NEEDED = ("subject_id", "time", "code")
_DEFAULT = ("data/*.parquet",)
_ROWS_A_FILE = 10**12
"""Row numbers of the k-th file start at k times this."""


@dataclass(frozen=True)
class MedsFiles:
    """Files of a data set, by their names from the data set's folder. rows: readings and treatments. stays: stays and people."""

    rows: tuple[str, ...]
    stays: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """All files, each once, sorted."""
        return tuple(sorted({*self.rows, *self.stays}))

    @classmethod
    def find(cls, folder: Folder, code_map: CodeMap, subsets: Sequence[str] | None) -> MedsFiles:
        """The files that the map's patterns name.

        Args:
            folder: The data set.
            code_map: Its map.
            subsets: Data sets of the folder to read (`{set}` of the patterns); None is all of them.

        Raises:
            SourceError: There is no such file or data set, or the folder holds several data sets and none was chosen.
        """
        if not folder.exists():
            raise SourceError(f"{folder.address}: no such folder; set source.path to the root of the MEDS data set")
        names = list(folder.files())
        patterns = {kind: code_map.files.get(kind, ()) for kind in ("rows", "stays")}
        patterns = {"rows": patterns["rows"] or _DEFAULT, "stays": patterns["stays"] or patterns["rows"] or _DEFAULT}
        found = {kind: _matching(names, own) for kind, own in patterns.items()}
        sets = sorted({each for matches in found.values() for each in matches.values() if each is not None})
        chosen = _chosen(folder, sets, subsets)
        kept = {kind: tuple(name for name, each in sorted(of.items()) if each is None or each in chosen) for kind, of in found.items()}
        for kind, what in (("rows", "readings"), ("stays", "stays")):
            if not kept[kind]:
                raise SourceError(
                    f"{folder.address}: no file with {what} matches {', '.join(patterns[kind])} of {code_map.where}; "
                    "set source.path to the folder that these patterns start from, or name your files under `files` of a map of your own"
                )
        return cls(kept["rows"], kept["stays"])


def _matching(names: list[str], patterns: Sequence[str]) -> dict[str, str | None]:
    """File -> the data set that a pattern finds in its name (None: the pattern has no `{set}`)."""
    found: dict[str, str | None] = {}
    for pattern in patterns:
        parts = re.split(r"(\*|\{set\})", pattern)
        words = {"*": ".*", "{set}": "(?P<set>[^/]+)"}
        expression = "".join(words.get(part, re.escape(part)) for part in parts)
        for name in names:
            match = re.fullmatch(expression, name) if name not in found else None
            if match is not None:
                found[name] = match.groupdict().get("set")
    return found


def _chosen(folder: Folder, sets: list[str], subsets: Sequence[str] | None) -> set[str]:
    unknown = sorted(set(subsets or ()) - set(sets))
    if unknown:
        raise SourceError(f"{folder.address}: source.subsets names {unknown}, found are {sets}")
    if subsets is None and len(sets) > 1:
        raise SourceError(
            f"{folder.address}: {len(sets)} data sets ({', '.join(sets[:6])}), whose patients may have equal ids; choose one, "
            f"such as source.subsets=[{sets[0]}]"
        )
    return set(subsets or sets)


def blocks(folder: Folder, name: str, code_map: CodeMap, place: int, num_rows: int) -> Iterator[pl.DataFrame]:
    """The rows of a file in blocks of at most `num_rows`: the columns of MEDS and of the map, and `row`, unique in the data set.

    Args:
        folder: The data set.
        name: The file.
        code_map: Names the columns beside MEDS's own; those that the file lacks are null.
        place: The file's place among all files.
        num_rows: Rows of a block.

    Raises:
        SourceError: The file cannot be read, a column is missing or of a wrong type, or an id of a number's type is no whole number.
    """
    where = f"{folder.address}/{name}"
    try:
        with folder.local_copy(name) as path, pq.ParquetFile(path) as file:
            chosen = _columns(file.schema_arrow, code_map.columns, where)
            first = place * _ROWS_A_FILE
            for batch in file.iter_batches(batch_size=num_rows, columns=sorted({column for column in chosen.values() if column})):
                frame = _typed(pl.DataFrame(plain_decimals(batch)), chosen, where)
                yield frame.with_columns(pl.int_range(first, first + frame.height, dtype=pl.Int64).alias("row"))
                first += frame.height
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{where}: not a readable Parquet file ({type(error).__name__}); it was cut or altered, get the file again"
        ) from None


def _columns(schema: pa.Schema, more: Mapping[str, tuple[str, ...]], where: str) -> dict[str, str | None]:
    """Column here -> its name in the file; None for an optional one that the file lacks."""
    repeated = [name for name in schema.names if schema.names.count(name) > 1]
    if repeated:
        raise SourceError(f"{where}: column {repeated[0]!r} occurs twice; remove one")
    spellings = {name: own for name, (own, _) in _MEDS.items()} | {name: more.get(name, ()) for name in _MORE}
    chosen = {name: next((one for one in own if one in schema.names), None) for name, own in spellings.items()}
    missing = [name for name in _NEEDED if chosen[name] is None]
    if missing:
        known = {one for own in spellings.values() for one in own}
        raise SourceError(f"{where}: column {missing[0]!r} is missing ({found_columns(schema.names, known)}); is this a MEDS data set?")
    for name, column in chosen.items():
        if column is not None:
            _check_type(name, column, schema.field(column).type, where)
    return chosen


def _check_type(name: str, column: str, dtype: pa.DataType, where: str) -> None:
    inner = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    whole, number = pa.types.is_integer(inner), pa.types.is_integer(inner) or pa.types.is_floating(inner)
    fits = {
        "subject_id": number,
        "time": pa.types.is_timestamp(inner),
        "numeric_value": number or pa.types.is_decimal(inner),
        "stay": number or text,
        "hospitalization": number or text,
        "order": number or text,
        "stored": pa.types.is_timestamp(inner) or text,
    }.get(name, text or whole)
    if not fits and not pa.types.is_null(inner):
        remedy = {"subject_id": "an integer", "time": "timestamp[us]", "stored": "timestamp[us]", "numeric_value": "a number"}.get(
            name, "text"
        )
        raise SourceError(f"{where}: column {column!r} is {dtype}, MEDS has {remedy}; convert it")


def _typed(frame: pl.DataFrame, chosen: dict[str, str | None], where: str) -> pl.DataFrame:
    """The columns in their types; a blank text is null. A zone is dropped and the clock kept, as in `meds.columns`."""
    types = {name: dtype for name, (_, dtype) in _MEDS.items()} | _MORE
    series = []
    for name, column in chosen.items():
        dtype = types[name]
        if column is None:
            series.append(pl.Series(name, [None], dtype).new_from_index(0, frame.height))
            continue
        given = frame[column]
        if name in _IDS:
            series.append(_id_texts(given, where).rename(name))
        elif dtype == pl.Int64:
            series.append(whole_numbers(given, where).rename(name))
        elif isinstance(given.dtype, pl.Datetime):
            series.append(given.dt.replace_time_zone(None).cast(dtype).rename(name))
        elif name == "stored":
            series.append(given.cast(pl.String).str.to_datetime(time_unit="us", strict=False).rename(name))
        else:
            series.append(given.cast(dtype).rename(name))
    table = pl.DataFrame(series)
    texts = [name for name, dtype in types.items() if dtype == pl.String and name != "code"]
    said = (pl.when(pl.col(name).str.strip_chars() != "").then(pl.col(name)).alias(name) for name in texts)
    return table.with_columns(*said, pl.col("numeric_value").fill_nan(None))


def _id_texts(ids: pl.Series, where: str) -> pl.Series:
    """A column of ids as text. Whole numbers are written without a point, also those that pandas made `500.0`; 0 and less are none."""
    if ids.dtype.is_numeric():
        numbers = whole_numbers(ids, where)
        return pl.select(pl.when(numbers > 0).then(numbers.cast(pl.String))).to_series()
    text = pl.col(ids.name)
    table = ids.cast(pl.String).to_frame().select(text.str.strip_chars().str.replace(r"^([+-]?\d+)\.0+$", "${1}"))
    return table.select(pl.when(~text.str.contains(r"^(?:-\d+|0+)$")).then(text)).to_series()
