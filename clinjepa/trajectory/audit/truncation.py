"""Truncation tests: a sample of stays as recorded at the end of an hour, built again and compared with the finished artifact.

An hour's texts and grid must not change when everything after the hour is removed: events at or after the cut, the end of running
infusions, discharge, outcomes. The same holds for labels whose whole horizon lies before the cut. A feature or label that changes under
truncation has looked ahead. Everything is built in memory; no patient data are written to disk. Part of the leak audit.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.config.schema import CohortConfig, Config, SplitConfig
from clinjepa.sources.schema import EVENTS_SCHEMA, TIMES_OF_STATICS, SourceTables
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.grid import HOUR_US, at_store_time
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.hours.numbers import last_place
from clinjepa.trajectory.settings import IngestSettings

Read = Callable[[Any], SourceTables]
"""One of the source's partitions -> its tables."""

KNOWN_AT_ADMISSION = frozenset(
    """stay_id subject_id hadm_id intime outtime age_years sex race height_cm weight_kg admission_type care_unit
    stay_number_in_admission hospital_admission_time chronic_dialysis height_time weight_time""".split()
)
"""Columns of `stays` that a cut chart keeps; all others are set to null. Height and weight may be charted after the cut: labels use them
regardless (urine per kg), texts and features only from the time they were charted (`cut_chart`)."""

_TOLERANCE = 1e-5
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?(?:e[-+]\d+)?)")


@dataclass(frozen=True)
class Chart:
    """Some stays of one partition: the source's tables, and `cuts` (stay_id, cut_hour: the last hour that is kept)."""

    part: str
    tables: SourceTables
    cuts: pl.DataFrame


@dataclass(frozen=True)
class Comparison:
    """Differences of two builds of the same stays in hours 0 to the cut."""

    num_texts: int = 0
    num_texts_differ: int = 0
    num_cells: int = 0
    num_cells_differ: int = 0
    columns: tuple[str, ...] = ()
    """Grid columns that differ."""

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.num_texts + other.num_texts,
            self.num_texts_differ + other.num_texts_differ,
            self.num_cells + other.num_cells,
            self.num_cells_differ + other.num_cells_differ,
            tuple(dict.fromkeys((*self.columns, *other.columns))),
        )


class Scratch:
    """A folder in this process's memory, removed at the end of the `with` block."""

    def __enter__(self) -> Folder:
        self.folder = Folder(f"memory://clinjepa-audit-{uuid.uuid4().hex}")
        return self.folder

    def __exit__(self, *_: object) -> None:
        self.folder.remove()


class _GivenTables:
    """A source with one partition, whose tables are given."""

    def __init__(self, tables: SourceTables) -> None:
        self._tables = tables

    def read(self, partition: object) -> SourceTables:
        return self._tables


def build(charts: list[Chart], config: Config, out: Folder, finish: bool = False) -> Folder:
    """Write the charts as an ingest artifact without cohort rules; `finish` joins the parts, which needs at least three patients."""
    lenient = CohortConfig(
        preset="custom", min_age_years=None, min_stay_hours=0, max_stay_hours=None, first_stay_of_admission=False, min_vitals_records=0
    )
    free = IngestSettings(source=config.source, cohort=lenient, split=SplitConfig(), text=config.text)
    for chart in charts:
        build_partition(_GivenTables(chart.tables), {}, free, out, chart.part)
    if finish:
        finish_ingest(out, free)
    return out


def choose_cuts(stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, cut_hour int32: a quarter, a half or three quarters of the stay's hours, in turn. stays: stay_id, num_hours."""
    share = (pl.int_range(pl.len()) % 3 + 1) / 4
    cut = (pl.col("num_hours") * share).floor().cast(pl.Int32) - 1
    return stays.sort("stay_id").select("stay_id", pl.max_horizontal(cut, pl.lit(0, pl.Int32)).alias("cut_hour"))


def pick(tables: SourceTables, stay_ids: list[int]) -> SourceTables:
    """The tables of some stays only."""
    stays = pl.DataFrame(tables.stays).filter(pl.col("stay_id").is_in(stay_ids))
    return _with_changed(tables, stays, lambda events: events.filter(pl.col("stay_id").is_in(stay_ids)))


def _with_changed(tables: SourceTables, stays: pl.DataFrame, change: Callable[[pl.DataFrame], pl.DataFrame]) -> SourceTables:
    """The tables with other stays, and with changed events, also those of the labels."""
    measured = None if tables.measured is None else _as(change(_plain(tables.measured)), EVENTS_SCHEMA)
    return SourceTables(_as(stays, tables.stays.schema), _as(change(_plain(tables.events)), EVENTS_SCHEMA), measured=measured)


def cut_chart(chart: Chart, late_statics: bool = True) -> Chart:
    """The chart as recorded at the end of each stay's `cut_hour`.

    There are no events at or after that time. A running interval ends then, and an amount is the share given until then. Discharge and
    outcomes are unknown.

    Args:
        chart: The stays and their cuts.
        late_statics: Keep a height and a weight that were charted after the cut, which labels use for the whole stay.
    """
    end = pl.duration(microseconds=(pl.col("cut_hour").cast(pl.Int64) + 1) * HOUR_US)
    stays = pl.DataFrame(chart.tables.stays).join(chart.cuts, on="stay_id").with_columns((pl.col("intime") + end).alias("now"))
    now = stays.select("stay_id", "now")
    stays = stays.with_columns(pl.min_horizontal("outtime", "now").alias("outtime"))
    for static, charted in () if late_statics else TIMES_OF_STATICS.items():
        late = (pl.col(charted) >= pl.col("now")).fill_null(False)
        stays = stays.with_columns(pl.when(~late).then(pl.col(name)).alias(name) for name in (static, charted))
    unknown = [name for name in chart.tables.stays.schema.names if name not in KNOWN_AT_ADMISSION]
    stays = stays.with_columns(pl.lit(None, stays.schema[name]).alias(name) for name in unknown)
    return Chart(chart.part, _with_changed(chart.tables, stays, lambda events: _until(events, now)), chart.cuts)


def _until(events: pl.DataFrame, now: pl.DataFrame) -> pl.DataFrame:
    """Events before their stay's `now`; what runs ends then, with the share of its amount. now: stay_id, now."""
    sums = [name for name, variable in load_variables().items() if variable.aggregation == "sum"]
    events = events.join(now, on="stay_id").filter(pl.col("time") < pl.col("now"))
    given = (pl.min_horizontal("end_time", "now") - pl.col("time")) / (pl.col("end_time") - pl.col("time"))
    is_amount = pl.col("variable").is_in(sums) & (pl.col("end_time") > pl.col("now"))
    return events.with_columns(
        pl.when(is_amount).then(pl.col("value") * given).otherwise(pl.col("value")).alias("value"),
        pl.when(pl.col("end_time").is_not_null()).then(pl.min_horizontal("end_time", "now")).alias("end_time"),
    )


def on_the_boundary(chart: Chart, event_time: str = "measured") -> Chart:
    """The same stays with a later admission (by less than an hour), so that one event of each lies exactly at the end of `cut_hour`.

    Stays without an event after their first hour are left out. The result serves only to compare two builds of these charts.

    Args:
        chart: the stays.
        event_time: `source.event_time`, which decides the time that an event counts by.
    """
    stays = pl.DataFrame(chart.tables.stays)
    if event_time == "stored":
        chart = Chart(chart.part, SourceTables(chart.tables.stays, at_store_time(chart.tables.events)), chart.cuts)
    after = (pl.col("time") - pl.col("intime")).dt.total_microseconds()
    inside = (
        _plain(chart.tables.events)
        .join(stays.select("stay_id", "intime", "outtime"), on="stay_id")
        .filter((after >= HOUR_US) & (pl.col("time") < pl.col("outtime")))
        .sort("stay_id", "time", "row")
        .group_by("stay_id", maintain_order=True)
        .agg(pl.col("time").get(pl.len() // 2), after.get(pl.len() // 2).alias("after_us"))
    )
    cuts = inside.select("stay_id", (pl.col("after_us") // HOUR_US - 1).cast(pl.Int32).alias("cut_hour"))
    moved = inside.select("stay_id", (pl.col("time") - pl.duration(microseconds=pl.col("after_us") // HOUR_US * HOUR_US)).alias("moved"))
    stays = stays.join(moved, on="stay_id").with_columns(pl.col("moved").alias("intime"))
    events = _plain(chart.tables.events).join(cuts, on="stay_id", how="semi")
    return Chart(chart.part, SourceTables(_as(stays, chart.tables.stays.schema), _as(events, EVENTS_SCHEMA)), cuts)


def compare(whole: Folder, cut: Folder, part: str, cuts: pl.DataFrame, max_decimals: int) -> Comparison:
    """Compare texts and grid of hours 0 to cut_hour of the stays in `cuts`; numbers may differ by rounding only."""
    return _compare_texts(whole, cut, part, cuts, max_decimals) + _compare_grids(whole, cut, part, cuts)


def _compare_texts(whole: Folder, cut: Folder, part: str, cuts: pl.DataFrame, max_decimals: int) -> Comparison:
    first, second = (pl.DataFrame(folder.read_table(f"hours/{part}.parquet")).join(cuts, on="stay_id") for folder in (whole, cut))
    num_texts = differ = 0
    both = first.join(second, on="stay_id", suffix="_cut")
    differ += first.height - both.height
    for row in both.iter_rows(named=True):
        for kind in ("state_texts", "action_texts"):
            upto = row["cut_hour"] + 1
            num_texts += upto
            pairs = zip(row[kind][:upto], row[f"{kind}_cut"][:upto], strict=False)
            missing = upto - min(len(row[kind][:upto]), len(row[f"{kind}_cut"][:upto]))
            differ += missing + sum(1 for one, other in pairs if one != other and not _same_but_rounding(one, other, max_decimals))
        num_texts += 1
        differ += row["static_text"] != row["static_text_cut"]
    return Comparison(num_texts, differ)


def _compare_grids(whole: Folder, cut: Folder, part: str, cuts: pl.DataFrame) -> Comparison:
    first, second = (pl.DataFrame(folder.read_table(f"grid/{part}.parquet")).join(cuts, on="stay_id") for folder in (whole, cut))
    both = first.filter(pl.col("hour") <= pl.col("cut_hour")).join(second, on=["stay_id", "hour"], how="left", suffix="_cut")
    names = [name for name in first.columns if name not in ("stay_id", "hour", "cut_hour")]
    schema = both.schema
    counts = both.select(_differs(name, schema[name].is_float()).sum().alias(name) for name in names).row(0, named=True)
    differing = tuple(name for name, count in counts.items() if count)
    return Comparison(0, 0, both.height * len(names), int(sum(counts.values())), differing)


def _differs(name: str, is_number: bool) -> pl.Expr:
    one, other = pl.col(name), pl.col(f"{name}_cut")
    if not is_number:
        return one.ne_missing(other)
    close = (one - other).abs() <= _TOLERANCE * pl.max_horizontal(one.abs(), other.abs(), pl.lit(1e-6))
    return (one.is_null() != other.is_null()) | ~close.fill_null(True)


def _same_but_rounding(one: str, other: str, max_decimals: int) -> bool:
    """Equal except for the last place: with a cut interval, the share of an amount is computed in a different order."""
    left, right = _NUMBER.split(one), _NUMBER.split(other)
    if len(left) != len(right) or left[::2] != right[::2]:
        return False
    digits = min(variable.digits for variable in load_variables().values())
    pairs = ((float(a), float(b)) for a, b in zip(left[1::2], right[1::2], strict=True))
    return all(abs(a - b) <= 1.01 * max(last_place(a, digits, max_decimals), last_place(b, digits, max_decimals)) for a, b in pairs)


def _plain(events: pa.Table) -> pl.DataFrame:
    """Events with `variable` as strings."""
    return pl.DataFrame(events).with_columns(pl.col("variable").cast(pl.String))


def _as(frame: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """An Arrow table of `schema`; dictionary columns are built from strings."""
    plain = pa.schema([(field.name, pa.string() if pa.types.is_dictionary(field.type) else field.type) for field in schema])
    return frame.select(schema.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(plain).cast(schema)
