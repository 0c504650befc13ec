"""Cohort rules: which stays are kept, by rules in a fixed order, each one row of the attrition table.

A stay with an unknown value (an unknown age) does not satisfy a rule on that value. Source of the defaults: Clin-JEPA (arXiv
2605.10840); other presets: `clinjepa/clinical/cohorts.yaml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypedDict

import polars as pl

from clinjepa.clinical import Variable, load_cohort
from clinjepa.config.schema import CohortConfig
from clinjepa.trajectory.hours.grid import HOUR_US, hour_frame


def cohort_rules(config: CohortConfig) -> CohortConfig:
    """The rules of a preset of `clinical/cohorts.yaml`, or those of the configuration (`clin_jepa`, `custom`)."""
    return config if config.preset in ("clin_jepa", "custom") else CohortConfig(preset="custom", **load_cohort(config.preset))


class AttritionRow(TypedDict):
    """Stays and patients that are left after a rule."""

    rule: str
    num_stays: int
    num_patients: int


class Attrition:
    """Stays under the cohort's rules, with the counts of stays and patients after each rule."""

    def __init__(self, stays: pl.DataFrame) -> None:
        self.stays = stays
        self.rows: list[AttritionRow] = []
        self._note("all stays of the source")

    def keep(self, rule: str, condition: pl.Expr) -> None:
        """Keep the stays for which `condition` is true; null counts as false."""
        self.stays = self.stays.filter(condition.fill_null(False))
        self._note(rule)

    def _note(self, rule: str) -> None:
        self.rows.append({"rule": rule, "num_stays": self.stays.height, "num_patients": self.stays["subject_id"].n_unique()})


def apply_stay_rules(stays: pl.DataFrame, rules: CohortConfig) -> Attrition:
    """Apply the rules on the stay itself. Kept stays gain num_hours int32: T = ceil(hours of the stay), at most `max_stay_hours`."""
    attrition = Attrition(stays)
    length_us = pl.col("outtime").cast(pl.Datetime("us")).cast(pl.Int64) - pl.col("intime").cast(pl.Datetime("us")).cast(pl.Int64)
    attrition.keep("ICU admission and discharge times are valid", length_us > 0)
    if rules.min_age_years is not None:
        attrition.keep(f"age at least {rules.min_age_years:g} years", pl.col("age_years") >= rules.min_age_years)
    if rules.first_stay_of_admission:
        attrition.keep("first ICU stay of its admission", pl.col("stay_number_in_admission") == 1)
    if rules.min_stay_hours:
        attrition.keep(f"stay of at least {rules.min_stay_hours:g} h", length_us >= int(rules.min_stay_hours * HOUR_US))
    kept_us = (
        length_us if rules.max_stay_hours is None else pl.min_horizontal(length_us, pl.lit(int(rules.max_stay_hours * HOUR_US), pl.Int64))
    )
    attrition.stays = attrition.stays.with_columns(((kept_us + HOUR_US - 1) // HOUR_US).cast(pl.Int32).alias("num_hours"))
    return attrition


def apply_measurement_rules(attrition: Attrition, placed: pl.DataFrame, variables: Mapping[str, Variable], rules: CohortConfig) -> None:
    """Apply the rules on measurements. placed: rows of `grid.place_events`."""
    if rules.min_vitals_records:
        vitals = [name for name, variable in variables.items() if variable.section_name == "vitals"]
        hours = _hours_with(placed, vitals, "num_vital_hours")
        attrition.stays = attrition.stays.join(hours, on="stay_id", how="left")
        attrition.keep(f"vital signs in at least {rules.min_vitals_records} h", pl.col("num_vital_hours") >= rules.min_vitals_records)
        attrition.stays = attrition.stays.drop("num_vital_hours")
    if rules.max_gap_hours is not None:
        measured = [name for name, variable in variables.items() if variable.role == "state" and variable.kind == "numeric"]
        attrition.stays = attrition.stays.join(_longest_gaps(attrition.stays, placed, measured), on="stay_id", how="left")
        attrition.keep(f"no {rules.max_gap_hours:g} h without any measurement", pl.col("longest_gap_hours") <= rules.max_gap_hours)
        attrition.stays = attrition.stays.drop("longest_gap_hours")


def sum_attrition(parts: Iterable[list[AttritionRow]]) -> list[AttritionRow]:
    """The attrition table of the whole source from those of its patient-disjoint parts."""
    total: list[AttritionRow] = []
    for rows in parts:
        if not total:
            total = [row.copy() for row in rows]
            continue
        for sums, row in zip(total, rows, strict=True):
            sums["num_stays"] += row["num_stays"]
            sums["num_patients"] += row["num_patients"]
    return total


def _hours_with(placed: pl.DataFrame, names: list[str], column: str) -> pl.DataFrame:
    """stay_id and, as `column`, the number of hours in which one of the variables was measured."""
    return placed.filter(pl.col("variable").is_in(names)).group_by("stay_id").agg(pl.col("hour").n_unique().alias(column))


def _longest_gaps(stays: pl.DataFrame, placed: pl.DataFrame, names: list[str]) -> pl.DataFrame:
    """stay_id, longest_gap_hours: longest run of hours without a measurement; runs at the start and end of the stay count."""
    seen = placed.filter(pl.col("variable").is_in(names)).select("stay_id", "hour", pl.lit(True).alias("measured")).unique()
    hours = hour_frame(stays).join(seen, on=["stay_id", "hour"], how="left").sort("stay_id", "hour")
    runs = hours.with_columns(pl.col("measured").is_not_null().cum_sum().over("stay_id").alias("run"))
    lengths = runs.filter(pl.col("measured").is_null()).group_by("stay_id", "run").len()
    longest = lengths.group_by("stay_id").agg(pl.col("len").max().cast(pl.Int64).alias("longest_gap_hours"))
    return stays.select("stay_id").join(longest, on="stay_id", how="left").with_columns(pl.col("longest_gap_hours").fill_null(0))
