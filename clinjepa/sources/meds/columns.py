"""Columns of a MEDS shard: their names in different exports, their types, and ids that pandas turned into floating-point numbers.

pandas writes a column of whole numbers as float64 as soon as one is missing (NaN). Such ids are read as the integers that they were; ids
that a float cannot hold exactly are refused, since two of them may have become one.
"""

from __future__ import annotations

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.files.text_files import found_columns

COLUMNS: dict[str, tuple[tuple[str, ...], pl.DataType]] = {
    "subject_id": (("subject_id", "patient_id"), pl.Int64()),
    "time": (("time",), pl.Datetime("us")),
    "code": (("code",), pl.String()),
    "numeric_value": (("numeric_value",), pl.Float64()),
    "icustay_id": (("icustay_id", "stay_id"), pl.Int64()),
    "text_value": (("text_value",), pl.String()),
    "hadm_id": (("hadm_id",), pl.Int64()),
    "order_id": (("order_id",), pl.Int64()),
    "unit": (("unit",), pl.String()),
    "race": (("race",), pl.String()),
    "order_category": (("ordercategorydescription",), pl.String()),
}
"""Column -> its names in MEDS exports, and its type here."""

NEEDED = ("subject_id", "time", "code", "numeric_value", "icustay_id")
"""Columns without which no ICU stay can be read; the others are missing in some exports."""

MOST_DIGITS = 38
"""Digits of the longest decimal that polars reads (decimal128)."""

_KNOWN = frozenset(spelling for spellings, _ in COLUMNS.values() for spelling in spellings)
_OPTIONAL_IDS = ("icustay_id", "hadm_id", "order_id")
_IDS = ("subject_id", *_OPTIONAL_IDS)


def find_columns(columns: tuple[str, ...], schema: pl.Schema, where: str) -> dict[str, str | None]:
    """Column -> its name in the file, None where an optional one is missing.

    Raises:
        SourceError: A needed column is missing, or a column's type is not that of MEDS.
    """
    chosen = {}
    for column in columns:
        found = next((spelling for spelling in COLUMNS[column][0] if spelling in schema), None)
        if found is None and column in NEEDED:
            raise SourceError(
                f"{where}: column {column!r} is missing ({found_columns(schema.names(), _KNOWN)}); "
                "this source reads MIMIC-IV converted to MEDS 0.3.3 or 0.4"
            )
        if found is not None:
            _check_type(column, found, schema[found], where)
        chosen[column] = found
    return chosen


def typed(frame: pl.DataFrame, chosen: dict[str, str | None], where: str) -> pl.DataFrame:
    """The columns of `chosen` in their types. An id of NaN, 0 or less is none; SourceError for ids that are no exact whole numbers."""
    series = []
    for column, found in chosen.items():
        dtype = COLUMNS[column][1]
        if found is None:
            series.append(pl.Series(column, [None], dtype).new_from_index(0, frame.height))
        elif column in _IDS:
            series.append(whole_numbers(frame[found], where).rename(column))
        else:
            # A zone is dropped and the clock kept: MEDS's times are the hospital's, and midnight stands for a date without a time.
            given = frame[found].dt.replace_time_zone(None) if isinstance(frame.schema[found], pl.Datetime) else frame[found]
            series.append(given.cast(dtype).rename(column))
    table = pl.DataFrame(series)
    return table.with_columns(pl.when(pl.col(name) > 0).then(pl.col(name)) for name in _OPTIONAL_IDS if name in table.columns)


def whole_numbers(ids: pl.Series, where: str) -> pl.Series:
    """A column of ids as int64, with NaN as null; SourceError when one is no whole number or too large to be exact in its type."""
    if not ids.dtype.is_float():
        whole = ids.cast(pl.Int64, strict=False)
        lost = (ids.is_not_null() & ~(whole.cast(ids.dtype, strict=False) == ids).fill_null(False)).sum()
        if lost:
            raise SourceError(
                f"{where}: column {ids.name!r} is {ids.dtype}, and {lost} of its ids are not whole numbers of at most 2^63 - 1, the "
                "largest of MEDS's int64; give these subjects or stays smaller ids in every file, and write the column as int64"
            )
        return whole
    limit = 2**24 if ids.dtype == pl.Float32 else 2**53
    known = ids.fill_nan(None)
    wrong = known.filter(~(known.is_finite() & (known.floor() == known) & (known.abs() <= limit)).fill_null(True))
    if wrong.len():
        raise SourceError(
            f"{where}: column {ids.name!r} is {ids.dtype}, and {wrong.len()} of its ids are not whole numbers of at most {limit} "
            "(larger ones are rounded in this type); write it as nullable int64"
        )
    return known.cast(pl.Int64)


def _check_type(column: str, found: str, dtype: pl.DataType, where: str) -> None:
    if column == "time" and not isinstance(dtype, pl.Datetime):
        raise SourceError(f"{where}: column 'time' is {dtype}, MEDS requires timestamp[us]; convert it")
    if dtype.is_nested() or dtype == pl.Binary:
        raise SourceError(f"{where}: column {found!r} is {dtype}, MEDS has one value in a row; convert it")
    if isinstance(dtype, pl.Decimal) and (dtype.precision or 0) > MOST_DIGITS:
        raise SourceError(f"{where}: column {found!r} is {dtype}, and at most {MOST_DIGITS} digits can be read; write it as float64")
    if column in ("numeric_value", *_IDS) and not dtype.is_numeric() and dtype != pl.Null:
        raise SourceError(f"{where}: column {found!r} is {dtype}, a number is needed; convert it")
