"""Clocks of CLIF: instants are UTC, and every hospitalisation has one clock whose offset from UTC does not change.

The offset is that of the hospital's zone at the hospitalisation's first ICU admission. Hours and durations inside a stay are therefore
real, also where summer time begins or ends in it. A date without a time is the hospital's own day; no offset moves it.
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from clinjepa.sources.calendar import is_date_only

_Reading = Literal["earliest", "latest"]
_READINGS: tuple[_Reading, ...] = get_args(_Reading)
"""Which one a time means that a clock shows twice."""

_HALF_YEAR = 183
"""Days between two times that a zone with summer time shows with different offsets."""


def with_offsets(stays: pl.DataFrame, zone: str) -> pl.DataFrame:
    """`stays` with `offset`, local time minus UTC on the clock of the stay's hospitalisation, and `patient_offset`.

    `patient_offset` is the offset at the patient's last ICU admission. On that clock all hospitalisations of a patient are compared.

    Args:
        stays: All usable stays: hadm_id, subject_id and intime (UTC).
        zone: Name of the hospital's zone.
    """
    utc = pl.col("intime").dt.replace_time_zone("UTC")
    stays = stays.with_columns((utc.dt.convert_time_zone(zone).dt.replace_time_zone(None) - pl.col("intime")).alias("here"))
    return stays.with_columns(
        pl.col("here").sort_by("intime").first().over("hadm_id").alias("offset"),
        pl.col("here").sort_by("intime").last().over("subject_id").alias("patient_offset"),
    ).drop("here")


def offsets_of_read(stays: pl.DataFrame, zone: str) -> pl.DataFrame:
    """`stays` that were read, with `offset`: local time minus UTC on the clock of their hospitalisation, as `with_offsets` chose it.

    Null where the times do not tell it: the first kept stay of the hospitalisation begins in the hour that comes twice when summer time
    ends, or it is not the first one and the clock may have changed since the hospitalisation began.

    Args:
        stays: hadm_id, intime, hospital_admission_time and stay_number_in_admission, on the stays' clocks.
        zone: Name of the hospital's zone.
    """
    earlier = pl.coalesce("hospital_admission_time", pl.col("intime") - pl.duration(days=_HALF_YEAR))
    times = pl.col("intime"), earlier
    begin, again, admission, once_more = (_offset(time, zone, which) for time in times for which in _READINGS)
    is_told = begin == again
    held = (pl.col("stay_number_in_admission") == 1) | ((begin == admission) & (begin == once_more))
    own = stays.with_columns(pl.when((is_told & held).fill_null(False)).then(begin).alias("offset"))
    return own.with_columns(pl.col("offset").sort_by("intime").first().over("hadm_id").alias("offset"))


def _offset(local: pl.Expr, zone: str, ambiguous: _Reading) -> pl.Expr:
    """Local time minus UTC where a clock of the zone shows a time; null for times that it skips."""
    local = local.cast(pl.Datetime("us"))
    shown = local.dt.replace_time_zone(zone, ambiguous=ambiguous, non_existent="null")
    return local - shown.dt.convert_time_zone("UTC").dt.replace_time_zone(None)


def on_clock(rows: pl.DataFrame, column: str, offset: str, zone: str) -> pl.Expr:
    """A column of instants, or of dates, on the clock of the column `offset`.

    Instants have the zone UTC; those that are dates without a time (`is_date_only`) on the hospital's civil clock stay that day. A column
    without a zone holds dates.
    """
    time = pl.col(column)
    dtype = rows.schema[column]
    if not (isinstance(dtype, pl.Datetime) and dtype.time_zone is not None):
        return time.cast(pl.Datetime("us"))
    shown = civil(time, zone)
    return pl.when(is_date_only(shown)).then(shown).otherwise(time.dt.replace_time_zone(None) + pl.col(offset)).alias(column)


def civil(time: pl.Expr, zone: str) -> pl.Expr:
    """Instants with a zone as the hospital's civil clock shows them, without a zone."""
    return time.dt.convert_time_zone(zone).dt.replace_time_zone(None)


def days_on_clock(people: pl.DataFrame, seen: pl.DataFrame) -> pl.DataFrame:
    """`people` whose deaths that are dates stand on the clock of their patient; deaths with a time of day stay as they are.

    A date is a day of the civil clock. Where that clock was changed since, a discharge near midnight is on another day there.
    The date becomes the day of the last time at which the patient was seen on that civil day, if there is one.

    Args:
        people: subject_id, death_time and any other columns.
        seen: subject_id, civil and clock: times of admissions and discharges on the civil clock and on that of the patient.
    """
    day = pl.col("death_time").dt.truncate("1d")
    last = seen.drop_nulls().group_by("subject_id", pl.col("civil").dt.truncate("1d").alias("day")).agg(pl.col("clock").max())
    found = people.with_columns(day.alias("day")).join(last, on=["subject_id", "day"], how="left", maintain_order="left")
    there = pl.col("clock").dt.truncate("1d")
    moves = is_date_only(pl.col("death_time")) & (there != day)
    return found.with_columns(pl.when(moves).then(there).otherwise("death_time").alias("death_time")).drop("day", "clock")


def shifted(rows: pl.DataFrame, by: pl.Expr, keep_dates: bool = False) -> pl.DataFrame:
    """`rows` with all their times moved by a duration. keep_dates: whether dates without a time stay where they are."""
    moved = []
    for name, dtype in rows.schema.items():
        if isinstance(dtype, pl.Datetime):
            time = pl.col(name)
            moved.append(pl.when(is_date_only(time)).then(time).otherwise(time + by).alias(name) if keep_dates else (time + by).alias(name))
    return rows.with_columns(moved)


def date_columns(rows: pa.Table) -> dict[str, str]:
    """Columns that hold dates: name -> the zone on whose clock they are read (`UTC` for a column of the type Date).

    A column of timestamps holds dates where all of its times are one without a time of day, in UTC or else in the column's own zone: sites
    that know only the day of a death write it as midnight.
    """
    found = {}
    for name, times in zip(rows.column_names, pl.DataFrame(rows), strict=True):
        if times.dtype == pl.Date:
            found[name] = "UTC"
        if not isinstance(times.dtype, pl.Datetime) or times.null_count() == len(times):
            continue
        for zone in (times.dtype.time_zone or "UTC", "UTC"):
            clock = times.to_frame().select(as_utc(pl.col(name), times.dtype).dt.convert_time_zone(zone).dt.replace_time_zone(None))
            if clock.select(is_date_only(pl.col(name)).all()).item():
                found[name] = zone
    return found


def as_utc(time: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """A column of timestamps with the zone UTC; one without a zone is UTC, as CLIF prescribes."""
    aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
    return time.cast(pl.Datetime("us", "UTC")) if aware else time.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
