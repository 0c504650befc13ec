"""Labels that were made elsewhere (ACES, MEDS-DEV, a query) as labels of hours: rows of MEDS's LabelSchema to (stay, hour, label).

A row has subject_id, prediction_time and a label. In MEDS a prediction may use data up to and including prediction_time. Here the
prediction of hour h is made at intime + (h + 1) h and uses what lies before that instant. So a prediction time p becomes the last hour that
has ended at p: the largest h with intime + (h + 1) h <= p + 1 microsecond, MEDS's resolution. Nothing is used that MEDS does not allow.
A time between two hours is floored to the earlier one, so that up to an hour of data is not used.

The times of a file follow the convention of the data that it is about: instants in UTC beside CLIF (a time without a zone is UTC), else the
hospital's clock (a zone is dropped).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TypedDict

import polars as pl

from clinjepa.clinical import LabelColumn, Task, given_task
from clinjepa.errors import SourceError
from clinjepa.sources.clif.clocks import as_utc, offsets_of_read
from clinjepa.sources.meds.columns import MOST_DIGITS
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.grid import HOUR_US

_KNOWN = ("subject_id", "prediction_time", "boolean_value", "integer_value", "float_value", "categorical_value")
_WIDER_THAN_INT64 = (pl.UInt64, pl.Int128, pl.UInt128)
_READING = 2
"""Version of how rows become labels. It is in the digest of every label file, and so in the keys of what is made of it."""
_AFTER_US = 1
"""What lies this long after a prediction time is the first that MEDS does not allow."""


class GivenCounts(TypedDict):
    """What became of the rows of a label file. `num_rows` = `num_labels` and all that were left out; `off_hour` are among the labels.

    without_value: subject, time or label is empty or not finite. duplicate: the same row again. other_subject: the subject has no kept
    stay. before_first_hour: in the first hour of a stay, before it has ended. outside_stays: before, between or after the subject's kept
    stays, or in hours that the cohort cut off. same_hour: a later time of an hour that has a label already. off_hour: floored to the hour
    before.
    """

    num_rows: int
    num_labels: int
    without_value: int
    duplicate: int
    other_subject: int
    before_first_hour: int
    outside_stays: int
    unknown_clock: int
    same_hour: int
    off_hour: int


@dataclass(frozen=True)
class LabelFile:
    """The label file of a task: `name` of the task, address of a Parquet file or of a folder of them, column of the labels.

    time_zone: of the hospital, where the data's times are instants in UTC (CLIF); None where they are the hospital's clock.
    """

    name: str
    path: str
    column: LabelColumn
    time_zone: str | None = None

    @property
    def task(self) -> Task:
        """The task whose labels these are."""
        return given_task(self.name, self.column)

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files, and the version of how they are read.

        Raises:
            SourceError: There is no file, or one is not in MEDS's LabelSchema.
        """
        folder, names = self._files()
        sha = hashlib.sha256(f"{_READING};".encode())
        for name in names:
            with folder.local_copy(name) as path:
                self._check(path, f"{folder.address}/{name}")
            sha.update(f"{name}:{folder.digest(name)};".encode())
        return sha.hexdigest()

    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(int(frame.select(pl.len()).collect().item()) for frame in self._frames())

    def rows(self, subjects: pl.Series) -> pl.DataFrame:
        """subject_id int64, prediction_time (microseconds), label float32 of some subjects; null where empty or not finite.

        With `time_zone` the times are UTC, else those of the hospital's clock.

        Raises:
            SourceError: A file cannot be read, or is not in MEDS's LabelSchema.
        """
        label = pl.col(self.column).cast(pl.Float32)
        time = pl.col("prediction_time")
        wanted = pl.col("subject_id").is_in(subjects.unique().implode())
        found = []
        for frame in self._frames():
            instant = as_utc(time, frame.collect_schema()["prediction_time"]) if self.time_zone is not None else time
            columns = (
                pl.col("subject_id").cast(pl.Int64),
                instant.dt.replace_time_zone(None).cast(pl.Datetime("us")),
                pl.when(label.is_finite()).then(label).alias("label"),
            )
            found.append(frame.select(columns).filter(wanted).collect())
        return pl.concat(found)

    def placed(self, stays: pl.DataFrame) -> tuple[pl.DataFrame, GivenCounts]:
        """`place_labels` of the rows of the subjects of `stays`.

        Args:
            stays: Kept stays: the columns that `place_labels` needs; with `time_zone` also those of `offsets_of_read`.

        Raises:
            SourceError: A file cannot be read, is not in MEDS's LabelSchema, or has two labels of a subject at one time.
        """
        rows = self.rows(stays["subject_id"])
        return place_labels(rows, stays if self.time_zone is None else offsets_of_read(stays, self.time_zone), self.path)

    def _files(self) -> tuple[Folder, list[str]]:
        """The folder and the names of the Parquet files in it."""
        parent, slash, last = self.path.rstrip("/").rpartition("/")
        folder = Folder(self.path)
        names = [name for name in folder.files() if name.endswith(".parquet")]
        beside = Folder(parent or slash or ".")
        if not names and last.endswith(".parquet") and beside.exists(last):
            return beside, [last]
        if not names:
            raise SourceError(
                f"{folder.address}: no .parquet file there; set labels.files.{self.name}.path to a label file of ACES or MEDS-DEV, or to "
                "the folder with its shards"
            )
        return folder, names

    def _frames(self) -> Iterator[pl.LazyFrame]:
        folder, names = self._files()
        for name in names:
            where = f"{folder.address}/{name}"
            with folder.local_copy(name) as path, _readable(where):
                self._check(path, where)
                yield pl.scan_parquet(path, glob=False)

    def _check(self, path: Path, where: str) -> None:
        """Raise SourceError unless a file has the columns of MEDS's LabelSchema in their types."""
        with _readable(where):
            schema = pl.scan_parquet(path, glob=False).collect_schema()
        needed = ("subject_id", "prediction_time", self.column)
        if missing := [name for name in needed if name not in schema]:
            there = ", ".join(name for name in schema.names() if name in _KNOWN) or "none of MEDS's"
            raise SourceError(
                f"{where}: column {missing[0]!r} is missing (found: {there}); write MEDS's LabelSchema, or name the labels' column in "
                f"labels.files.{self.name}.column"
            )
        wanted = {"subject_id": "int64", "prediction_time": "timestamp[us]", self.column: self.column.removesuffix("_value")}
        fits = {
            "subject_id": schema["subject_id"].is_integer(),
            "prediction_time": isinstance(schema["prediction_time"], pl.Datetime),
            self.column: _fits(self.column, schema[self.column]),
        }
        if wrong := [name for name, is_right in fits.items() if not is_right]:
            raise SourceError(f"{where}: column {wrong[0]!r} is {schema[wrong[0]]}, MEDS has {wanted[wrong[0]]}; convert it")
        if schema["subject_id"] in _WIDER_THAN_INT64:
            _check_range(path, where, schema["subject_id"])


def _fits(column: LabelColumn, dtype: pl.DataType) -> bool:
    if column == "boolean_value":
        return dtype == pl.Boolean
    return dtype.is_numeric() and not (isinstance(dtype, pl.Decimal) and (dtype.precision or 0) > MOST_DIGITS)


def _check_range(path: Path, where: str, dtype: pl.DataType) -> None:
    """Raise SourceError when a subject id is none of int64."""
    ids = pl.col("subject_id")
    with _readable(where):
        lost = ids.is_not_null() & ids.cast(pl.Int64, strict=False).is_null()
        number = int(pl.scan_parquet(path, glob=False).select(lost.sum()).collect().item())
    if number:
        raise SourceError(
            f"{where}: column 'subject_id' is {dtype}, and {number} of its ids are larger than 2^63 - 1, the largest of MEDS's int64; "
            "give these subjects the ids that the data set has, and write the column as int64"
        )


def place_labels(rows: pl.DataFrame, stays: pl.DataFrame, where: str) -> tuple[pl.DataFrame, GivenCounts]:
    """Labels of hours from rows of a label file.

    Where two stays of a subject hold a time, the one that began last has the label. Of several times in one hour the earliest counts: it is
    nearest to the hour that has ended.

    Args:
        rows: subject_id, prediction_time, label, of subjects that `stays` has.
        stays: stay_id, subject_id, intime, outtime, num_hours of the kept stays; `offset` as in `place_times`.
        where: The file, for messages.

    Returns:
        (stay_id, hour int32, label float32, sorted by stay and hour; the counts).

    Raises:
        SourceError: A subject has two labels at one time.
    """
    known = rows.drop_nulls()
    distinct = known.unique(maintain_order=True)
    if clashing := distinct.height - distinct.select("subject_id", "prediction_time").n_unique():
        raise SourceError(
            f"{where}: {clashing} rows have the subject_id and prediction_time of another row and another label; keep one label"
        )
    placed = place_times(distinct.with_row_index("row"), stays)
    inside = placed.filter(pl.col("hour") >= 0)
    labels = inside.sort("stay_id", "hour", "prediction_time").unique(["stay_id", "hour"], keep="first", maintain_order=True)
    early = int(placed["is_early"].sum())
    left = placed.filter((pl.col("hour") < 0) & ~pl.col("is_early"))
    unknown = left.join(stays.filter(pl.col("offset").is_null()), on="subject_id", how="semi").height if "offset" in stays.columns else 0
    counts: GivenCounts = {
        "num_rows": rows.height,
        "num_labels": labels.height,
        "without_value": rows.height - known.height,
        "duplicate": known.height - distinct.height,
        "other_subject": 0,
        "before_first_hour": early,
        "outside_stays": left.height - unknown,
        "unknown_clock": unknown,
        "same_hour": inside.height - labels.height,
        "off_hour": int(labels["is_off_hour"].sum()),
    }
    return labels.select("stay_id", "hour", "label"), counts


def place_times(rows: pl.DataFrame, stays: pl.DataFrame) -> pl.DataFrame:
    """The stay and hour of each row's prediction time.

    A time after ICU discharge is in no stay, also in the hour in which the stay ends. The end of that hour itself is the last hour's: there
    this project writes its own labels.

    Args:
        rows: row (distinct numbers), subject_id, prediction_time, and any other columns.
        stays: stay_id, subject_id, intime, outtime, num_hours. An optional `offset` is what the stay's clock shows more than that of the
            prediction times; a stay whose offset is null holds no time.

    Returns:
        `rows` in their order with stay_id, hour int32 (−1: in no stay, then stay_id is null), is_early (in a stay's first hour, before it
        has ended) and is_off_hour (not at the end of an hour).
    """
    offset = pl.col("offset") if "offset" in stays.columns else pl.duration()
    of_stays = rows.select("row", "subject_id", "prediction_time").join(
        stays.with_columns(offset.alias("offset")).select("stay_id", "subject_id", "intime", "outtime", "num_hours", "offset"),
        on="subject_id",
        how="inner",
    )
    time, intime = pl.col("prediction_time") + pl.col("offset"), pl.col("intime").cast(pl.Datetime("us"))
    since_us, stay_us = (time - intime).dt.total_microseconds(), (pl.col("outtime") - intime).dt.total_microseconds()
    allowed_us, kept_us = since_us + _AFTER_US, pl.col("num_hours").cast(pl.Int64) * HOUR_US
    at_end = (allowed_us >= kept_us) & (since_us <= kept_us)
    seen = of_stays.with_columns(
        (allowed_us // HOUR_US - 1).alias("hour"),
        ((since_us % HOUR_US != 0) & (allowed_us % HOUR_US != 0)).alias("is_off_hour"),
        (((since_us <= pl.min_horizontal(kept_us, stay_us)) | at_end).fill_null(False)).alias("not_over"),
        since_us.alias("since_us"),
    )
    since_us = pl.col("since_us")
    inside = seen.filter((pl.col("hour") >= 0) & pl.col("not_over")).sort("row", "intime", "stay_id")
    chosen = inside.unique("row", keep="last", maintain_order=True).select("row", "stay_id", pl.col("hour").cast(pl.Int32), "is_off_hour")
    early = seen.filter((pl.col("hour") == -1) & pl.col("not_over") & (since_us >= 0)).select("row", is_early=True).unique("row")
    joined = rows.join(chosen, on="row", how="left", maintain_order="left").join(early, on="row", how="left", maintain_order="left")
    return joined.with_columns(
        pl.col("hour").fill_null(-1),
        pl.col("is_off_hour").fill_null(False),
        (pl.col("is_early").fill_null(False) & pl.col("hour").is_null()).alias("is_early"),
    )


def sum_counts(parts: list[GivenCounts], num_rows: int) -> GivenCounts:
    """Counts of a whole file from those of the parts' subjects. num_rows: rows of the file."""

    def add(one: GivenCounts, other: GivenCounts) -> GivenCounts:
        return {name: one[name] + other[name] for name in one}  # type: ignore[return-value,literal-required]  # the names of the class

    total = reduce(add, parts)
    total["other_subject"] = num_rows - total["num_rows"]
    total["num_rows"] = num_rows
    return total


def in_words(name: str, counts: Mapping[str, int]) -> str:
    """One line on what became of the rows of a task's label file."""
    left_out = {what: number for what, number in counts.items() if number and what not in ("num_rows", "num_labels", "off_hour")}
    words = ", ".join(f"{what} {number}" for what, number in left_out.items()) or "none"
    return (
        f"labels of {name}: {counts['num_labels']} of {counts['num_rows']} rows of the label file, {counts['off_hour']} of them "
        f"floored to an hour; left out: {words}"
    )


@contextlib.contextmanager
def _readable(where: str) -> Iterator[None]:
    """Turn the faults of a file that is no whole Parquet file into a SourceError."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SourceError(f"{where}: cannot be read ({type(error).__name__}); it was cut or altered, get the file again") from None
