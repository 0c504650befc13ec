"""Two sources of the same patients beside each other: which stays, readings and hourly values agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.config.schema import CohortConfig, SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.extraction import extract_all, read_partition
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.aggregates import aggregate_hours
from clinjepa.trajectory.hours.cohort import apply_stay_rules, cohort_rules
from clinjepa.trajectory.hours.grid import place_events

STAY_COLUMNS = (
    *("age_years", "sex", "died_in_hospital", "died_in_icu", "death_time", "hospital_admission_time", "hospital_discharge_time"),
    *("next_icu_admission_time", "next_hospital_admission_time", "chronic_dialysis", "race"),
)
"""Columns of stays that are compared."""

_RELATIVE = 1e-4


class Agreement(TypedDict):
    """Readings (or hours) of one variable in stays that both have, with the same value at the same time."""

    num_ours: int
    num_raw: int
    share_same: float
    """Same readings over ours."""
    share_of_raw: float
    """Same readings over the raw ones."""


class StayAgreement(TypedDict):
    """Stays of both. different: column -> matched stays of the same window in which it differs."""

    num_stays: int
    num_stays_raw: int
    num_matched: int
    num_same_window: int
    different: dict[str, int]


@dataclass(frozen=True, repr=False)
class Read:
    """Everything of a source in one partition."""

    stays: pl.DataFrame
    events: pl.DataFrame

    @classmethod
    def of(cls, config: SourceConfig, scratch: Path) -> Read:
        """Read a source; scratch: an empty folder for its extraction."""
        source, extracted = open_source(config.model_copy(update={"num_partitions": 1})), Folder(scratch)
        extract_all(source, extracted, 1024)
        (partition,) = source.partitions()
        tables = read_partition(source, partition, extracted)
        return cls(pl.DataFrame(tables.stays), pl.DataFrame(tables.events).with_columns(pl.col("variable").cast(pl.String)))


@dataclass(frozen=True, repr=False)
class Comparison:
    """`ours` beside `raw`. keys: columns of a stay that pair it. rounded: variable -> difference that rounding makes; relative: variable ->
    the same as a share of the value.

    from_admission: whether readings before ICU admission are left out.
    """

    ours: Read
    raw: Read
    keys: Sequence[str]
    rounded: Mapping[str, float] = field(default_factory=dict)
    relative: Mapping[str, float] = field(default_factory=dict)
    from_admission: bool = False

    def stays(self) -> StayAgreement:
        """How far the stays agree."""
        matched = self._matched()
        same = matched.filter(self._same_window())
        differing = {name: same.filter(pl.col(name).ne_missing(pl.col(f"{name}_raw"))).height for name in STAY_COLUMNS}
        return {
            "num_stays": self.ours.stays.height,
            "num_stays_raw": self.raw.stays.height,
            "num_matched": matched.height,
            "num_same_window": same.height,
            "different": {name: number for name, number in differing.items() if number},
        }

    def readings(self, only_ours: Sequence[str] = ()) -> tuple[dict[str, Agreement], dict[str, int]]:
        """(agreement of every variable that both have, raw readings of those that ours lacks), in stays of the same window."""
        pairs = self._pairs()
        ours = self._events(self.ours).join(pairs, on="stay_id").with_columns(stay_id=pl.col("stay_id_raw"))
        raw = self._events(self.raw).join(pairs.select(stay_id="stay_id_raw"), on="stay_id")
        found: dict[str, Agreement] = {}
        absent: dict[str, int] = {}
        for name in sorted({*ours["variable"].unique(), *raw["variable"].unique()} - set(only_ours)):
            mine, theirs = (
                events.filter(pl.col("variable") == name).select("stay_id", "time", "value", "text").unique() for events in (ours, raw)
            )
            if not mine.height:
                absent[name] = theirs.height
            else:
                found[name] = self._compared(name, mine, theirs, ["stay_id", "time"])
        return found, absent

    def hours(self) -> dict[str, Agreement]:
        """Agreement of the hourly values of every variable that both have, in stays of the same window."""
        pairs = self._pairs()
        grids = []
        for read, key in ((self.ours, "stay_id"), (self.raw, "stay_id_raw")):
            stays = read.stays.filter(pl.col("stay_id").is_in(pairs[key].implode()))
            rules = cohort_rules(CohortConfig(preset="custom", min_age_years=None, min_stay_hours=0, first_stay_of_admission=False))
            kept = apply_stay_rules(stays, rules).stays.sort("stay_id")
            placed, _ = place_events(read.events.to_arrow(), kept, load_variables())
            grids.append(aggregate_hours(placed, kept, load_variables()))
        mine = grids[0].join(pairs, on="stay_id").with_columns(stay_id=pl.col("stay_id_raw"))
        found = {}
        for name in sorted(set(grids[0].columns) - {"stay_id", "hour"}):
            column = pl.col(name)
            number = load_variables()[name].kind != "category"
            value, text = (column, pl.lit(None, pl.String)) if number else (pl.lit(None, pl.Float64), column)
            tables = [
                grid.filter(column.is_not_null()).select("stay_id", "hour", value.cast(pl.Float64).alias("value"), text.alias("text"))
                for grid in (mine, grids[1])
            ]
            if all(table.height for table in tables):
                found[name] = self._compared(name, tables[0], tables[1], ["stay_id", "hour"])
        return found

    def _compared(self, name: str, mine: pl.DataFrame, theirs: pl.DataFrame, at: list[str]) -> Agreement:
        joined = mine.join(theirs, on=at, suffix="_raw")
        name = load_variables()[name].of or name if name in load_variables() else name
        allowed = pl.col("value_raw").abs() * self.relative.get(name, _RELATIVE) + self.rounded.get(name, 0.0)
        near = (pl.col("value") - pl.col("value_raw")).abs() <= allowed
        same_words = pl.col("value").is_null() & (pl.col("text").str.strip_chars() == pl.col("text_raw").str.strip_chars())
        same = joined.filter(near.fill_null(False) | same_words).select(*at, "value", "text").unique().height
        return {
            "num_ours": mine.height,
            "num_raw": theirs.height,
            "share_same": same / mine.height,
            "share_of_raw": same / max(1, theirs.height),
        }

    def _events(self, read: Read) -> pl.DataFrame:
        if not self.from_admission:
            return read.events
        return read.events.join(read.stays.select("stay_id", "intime"), on="stay_id").filter(pl.col("time") >= pl.col("intime"))

    def _matched(self) -> pl.DataFrame:
        joined = self.ours.stays.join(self.raw.stays, on=list(self.keys), suffix="_raw")
        return joined if "stay_id_raw" in joined.columns else joined.with_columns(pl.col("stay_id").alias("stay_id_raw"))

    def _pairs(self) -> pl.DataFrame:
        return self._matched().filter(self._same_window()).select("stay_id", "stay_id_raw")

    @staticmethod
    def _same_window() -> pl.Expr:
        return (pl.col("intime") == pl.col("intime_raw")) & (pl.col("outtime") == pl.col("outtime_raw"))
