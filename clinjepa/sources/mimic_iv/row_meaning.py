"""Turns rows of MIMIC-IV, from its own tables or from MEDS, into raw events.

Items become variables; infusions and procedures become intervals.

The MEDS source and the source of the original tables rename their columns as described below and call these functions, so the two
formats give different events only where their files differ. Item ids: `clinical/variables.yaml`. Treatments without a variable:
`clinical/maps/mimic_iv.yaml`.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Literal, TypedDict

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.clinical.definitions import read_definitions
from clinjepa.sources.readings.cleaning import raw_events
from clinjepa.sources.readings.written_units import written_unit
from clinjepa.sources.schema import MEDICATION, longest_lookback_hours

SERIES_OF_WEIGHT = "body_weight"

PARTS = {"CHART": "chartevents", "LAB": "labevents", "OUTPUT": "outputevents", "INFUSION": "inputevents", "PROCEDURE": "procedureevents"}
"""Kind of row -> MIMIC-IV table."""

SIGNIFICANT_DIGITS = 7
"""Digits kept of every value: MEDS stores float32, and further digits of MIMIC-IV's rates are rounding residues of divisions."""


class Specimens(TypedDict):
    """Which blood gases are arterial; a gas without a specimen's name counts as arterial."""

    item: int
    """Item id of the row that holds the specimen's name."""

    arterial: list[str]
    """Names that mean arterial blood."""

    only_arterial: list[str]
    """Variables kept only from arterial blood."""


class MimicMap(TypedDict):
    """`clinical/maps/mimic_iv.yaml`; its header explains the keys."""

    medication_items: dict[str, list[int]]
    dropped_items: dict[int, str]
    carrier_orders: list[str]
    emar_given: list[str]
    dropped_medications: list[str]
    chronic_dialysis: dict[int, list[str]]
    races: dict[str, list[str]]
    discharges: dict[Literal["died", "alive", "unknown"], list[str]]
    specimens: Specimens
    item_labels: dict[int, str]


def measurements(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events of charted values, labs or outputs: one per variable that the item maps to.

    Args:
        rows: stay_id, time, row, part, item, numeric_value, text_value, unit, and store_time if the source has it.
        counts: Receives `unmapped_code`: rows whose item maps to no variable.
    """
    mapped = rows.join(item_table(), on=["part", "item"], how="left", maintain_order="left")
    unmapped = mapped["variable"].null_count()
    if unmapped:
        counts["unmapped_code"] += unmapped
    text = pl.col("text_value").str.strip_chars()
    return raw_events(
        mapped.filter(pl.col("variable").is_not_null()).select(
            "stay_id",
            "time",
            "variable",
            "row",
            "item",
            "unit",
            pl.when(pl.col("kind") != "category").then(pl.col("numeric_value")).alias("value"),
            pl.when((pl.col("kind") == "category") | (pl.col("variable") == "gcs_verbal")).then(text).alias("text"),
            *_store_time(rows),
        )
    )


def in_windows(labs: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Rows with the stay_id of every stay of their patient whose window contains their time.

    They are matched by patient and time, since the admission id may be null. A row in two windows is returned twice.

    Args:
        labs: subject_id, time, row and any other columns.
        stays: Stays in the columns of STAYS_SCHEMA.
        counts: Receives `outside_stay`: rows in no window.
    """
    earliest = pl.col("intime") - pl.duration(hours=longest_lookback_hours())
    window = stays.select("stay_id", "subject_id", earliest.alias("earliest"), "outtime")
    joined = labs.join(window, on="subject_id", how="inner", maintain_order="left").filter(
        pl.col("time").is_between(pl.col("earliest"), pl.col("outtime"))
    )
    # A row is known by its patient and number: two files of a partition have the same numbers.
    outside = labs.height - joined.select("subject_id", "row").n_unique()
    if outside:
        counts["outside_stay"] += outside
    return joined.drop("earliest", "outtime")


def drop_other_specimens(labs: pl.DataFrame, specimen: str, counts: Counter[str]) -> pl.DataFrame:
    """Lab rows, without the specimen-name rows and without the arterial-only variables of a blood gas named as not arterial.

    A blood gas whose specimen is not named keeps them.

    Args:
        labs: stay_id, row, item, text_value and the column `specimen`.
        specimen: Column that the rows of one blood gas share: its id or, if the source has none, its time.
        counts: Receives `not_arterial:<variable>`.

    Items and names are under `specimens` in `clinical/maps/mimic_iv.yaml`.
    """
    rules = mimic_map()["specimens"]
    is_name = pl.col("item") == rules["item"]
    from_elsewhere = ~pl.col("text_value").str.strip_chars().str.to_uppercase().is_in(rules["arterial"])
    key = ["stay_id", specimen]
    elsewhere = labs.filter(is_name & from_elsewhere).select(key).unique()
    labs = labs.filter(~is_name)
    arterial = item_table().filter((pl.col("part") == "LAB") & pl.col("variable").is_in(rules["only_arterial"])).select("item", "variable")
    dropped = labs.join(arterial, on="item").join(elsewhere, on=key, how="semi")
    for variable, number in dropped.group_by("variable").len().iter_rows():
        counts[f"not_arterial:{variable}"] += number
    return labs.join(dropped.select("stay_id", "row"), on=["stay_id", "row"], how="anti", maintain_order="left")


def infusions(paired: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Interval events of infusions.

    A drug of kind `rate` given as a bolus (no rate) becomes a `medication` event with its dose as value.

    Args:
        paired: icustay_id, item, row, time, end, numeric_value (the rate), unit (of the rate), amount, amount_unit, order_category,
            patient_weight (kg), order (its id), and store_time if the source has it.
        counts: Receives `carrier_or_flush`, `unmapped_code`, `zero_amount`, `negative_rate`.
    """
    paired = paired.with_columns(pl.lit("INFUSION").alias("part")).join(
        item_table(), on=["part", "item"], how="left", maintain_order="left"
    )
    dropped, names = mimic_map()["dropped_items"], medication_items()
    carries = (pl.col("variable") == "crystalloid") & pl.col("order_category").is_in(mimic_map()["carrier_orders"])
    is_dropped = pl.col("item").is_in(list(dropped)) | carries.fill_null(False)
    other = pl.col("item").replace_strict(names, default=None, return_dtype=pl.String)
    paired = paired.with_columns(other.alias("other_name"))
    counts["carrier_or_flush"] += paired.select(is_dropped.sum()).item()
    counts["unmapped_code"] += paired.select((pl.col("variable").is_null() & ~is_dropped & pl.col("other_name").is_null()).sum()).item()
    paired = paired.filter(~is_dropped & (pl.col("variable").is_not_null() | pl.col("other_name").is_not_null()))
    rate, amount = pl.col("numeric_value"), pl.col("amount")
    nothing = (rate.fill_null(0) <= 0) & (amount.fill_null(0) <= 0)
    counts["zero_amount"] += paired.select(nothing.sum()).item()
    paired = paired.filter(~nothing)
    negative = rate.fill_null(0) < 0  # no bolus: its amount was written with a rate that cannot be
    if number := paired.select(negative.sum()).item():
        counts["negative_rate"] += number
    paired = paired.filter(~negative)
    has_rate = rate.fill_null(0) > 0
    # If the item also maps to an indicator, only the indicator's event is kept: a bolus beside it would count one treatment twice.
    pushed = (pl.col("kind") == "rate") & ~has_rate
    paired = paired.filter(~(pushed & pl.col("also_indicator")))
    as_medication = pl.col("variable").is_null() | pushed
    return raw_events(
        paired.select(
            pl.col("icustay_id").alias("stay_id"),
            "time",
            pl.when(as_medication & ~has_rate).then(None).otherwise(pl.col("end")).alias("end_time"),
            pl.when(as_medication).then(pl.lit(MEDICATION)).otherwise(pl.col("variable")).alias("variable"),
            pl.when(pl.col("kind") == "indicator")
            .then(1.0)
            .when((pl.col("kind") == "numeric") | ~has_rate)
            .then(amount)
            .otherwise(rate)
            .alias("value"),
            pl.when(pl.col("kind") == "indicator")
            .then(None)
            .when((pl.col("kind") == "numeric") | ~has_rate)
            .then(written_unit(paired, "amount_unit"))
            .otherwise(written_unit(paired, "unit"))
            .alias("unit"),
            pl.when(pl.col("variable").is_null())
            .then(pl.col("other_name"))
            .when(pushed | (pl.col("kind") == "indicator"))
            .then(pl.col("label"))
            .alias("text"),
            "row",
            "item",
            "order",
            "patient_weight",
            *_store_time(paired),
        )
    )


def with_procedure_items(rows: pl.DataFrame) -> pl.DataFrame:
    """`rows` whose `item` is a procedure of the dictionary, with variable and label, in the same order."""
    return rows.join(item_table().filter(pl.col("part") == "PROCEDURE").drop("part"), on="item", how="inner", maintain_order="left")


def procedures(paired: pl.DataFrame) -> pl.DataFrame:
    """Interval events of the procedures in the dictionary (ventilation, dialysis, cultures …).

    paired: icustay_id, item, row, time, end, the columns of `with_procedure_items`, and store_time if the source has it. `end` is
    the end time; the column `value` of procedureevents is a duration in days or minutes and is not read.
    """
    return raw_events(
        paired.select(
            pl.col("icustay_id").alias("stay_id"),
            "time",
            pl.col("end").alias("end_time"),
            "variable",
            pl.lit(1.0).alias("value"),
            pl.col("label").alias("text"),
            "row",
            "item",
            *_store_time(paired),
        )
    )


def medications(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str], event_time: str = "measured") -> pl.DataFrame:
    """Drugs by name: all administrations (emar), and starts of orders only before the stay's first administration.

    Later orders are left out, so that the text of an hour does not depend on whether a record begins later.

    Args:
        rows: subject_id, time, row, part (GIVEN or ORDER), name, and store_time if the source has it.
        stays: Stays in the columns of STAYS_SCHEMA.
        counts: Receives `order_superseded_by_administration`.
        event_time: `measured`, or `stored`: then the record begins when its first entry was stored.
    """
    window = stays.select("stay_id", "subject_id", "intime", "outtime")
    found = rows.filter(pl.col("part").is_in(["GIVEN", "ORDER"])).join(window, on="subject_id", how="inner", maintain_order="left")
    found = found.filter(pl.col("time").is_between(pl.col("intime"), pl.col("outtime")))
    entered = pl.max_horizontal("time", *(_store_time(rows) if event_time == "stored" else []))
    first = found.filter(pl.col("part") == "GIVEN").group_by("stay_id").agg(entered.min().alias("first_given"))
    found = found.join(first, on="stay_id", how="left", maintain_order="left")
    superseded = (pl.col("part") == "ORDER") & (pl.col("time") >= pl.col("first_given")).fill_null(False)
    kept = found.filter(~superseded)
    if kept.height < found.height:
        counts["order_superseded_by_administration"] += found.height - kept.height
    found = kept
    text = pl.col("name").alias("text")
    columns = ["stay_id", "time", pl.lit(MEDICATION).alias("variable"), text, "row", *_store_time(rows)]
    return raw_events(found.select(columns))


def take_statics(
    events: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str], event_time: str = "measured"
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays, events) with height and weight as columns of the stays, with their times, instead of events.

    The first one that was charted is used; of several items at one time, the first in the dictionary's order. Without an admission weight
    it is the first of the series `body_weight`. Admission weights charted at another time than the one used become events of that series,
    heights are left out.

    Args:
        events: Clean events of the stays, with their items.
        stays: Stays in the columns of STAYS_SCHEMA.
        counts: Receives `repeated_static`: heights charted at another time than the one used. Height and weight are charted in two units
            at one time; the other one of these is the same measurement.
        event_time: `measured`, or `stored`: then a static is known from the time it was stored.
    """
    known = pl.max_horizontal("time", *(["store_time"] if event_time == "stored" else []))
    again: dict[str, pl.DataFrame] = {}
    for variable, column in (("height", "height_cm"), ("weight", "weight_kg")):
        priority = {
            item: place for place, item in enumerate(item for source in load_variables()[variable].sources for item in source.itemids)
        }
        series = [SERIES_OF_WEIGHT] if variable == "weight" else []
        rows = events.filter(pl.col("variable").is_in([variable, *series])).with_columns(
            pl.col("item").replace_strict(priority, default=len(priority)).alias("place")
        )
        first = (
            rows.sort(pl.col("place") == len(priority), "time", "place", "row")
            .group_by("stay_id", maintain_order=True)
            .agg(pl.col("value").first().cast(pl.Float32).alias(column), known.first().alias(f"{variable}_time"), pl.col("time").first())
        )
        stays = stays.drop(column, f"{variable}_time").join(first.drop("time"), on="stay_id", how="left", maintain_order="left")
        again[variable] = events.filter(pl.col("variable") == variable).join(
            first, on=["stay_id", "time"], how="anti", maintain_order="left"
        )
    heights = again["height"].select("stay_id", "time").n_unique()
    if heights:
        counts["repeated_static"] += heights
    repeated = again["weight"].with_columns(pl.lit(SERIES_OF_WEIGHT).alias("variable"))
    return stays, pl.concat([events.filter(~pl.col("variable").is_in(["height", "weight"])), repeated])


def _store_time(rows: pl.DataFrame) -> list[str]:
    return ["store_time"] if "store_time" in rows.columns else []


@lru_cache(maxsize=1)
def item_table() -> pl.DataFrame:
    """part, item -> variable, kind, label, also_indicator (the item also maps to an indicator). An item may map to several variables."""
    parts = {table: part for part, table in PARTS.items()}
    found = [
        (parts[source.table], item, variable.name, variable.kind, source.labels.get(item))
        for variable in load_variables().values()
        for source in variable.sources
        if source.table in parts
        for item in source.itemids
    ]
    types = {"part": pl.String, "item": pl.Int64, "variable": pl.String, "kind": pl.String, "label": pl.String}
    table = pl.DataFrame(found, schema=types, orient="row")
    return table.with_columns((pl.col("kind") == "indicator").any().over("part", "item").alias("also_indicator"))


@lru_cache(maxsize=1)
def mimic_map() -> MimicMap:
    """The content of `clinical/maps/mimic_iv.yaml`."""
    content: MimicMap = read_definitions("maps/mimic_iv.yaml")
    return content


@lru_cache(maxsize=1)
def medication_items() -> dict[int, str]:
    """inputevents item -> name of the medication."""
    return {item: name for name, items in mimic_map()["medication_items"].items() for item in items}


@lru_cache(maxsize=1)
def dropped_medications() -> re.Pattern[str]:
    """Pattern for the names of carriers, flushes and diluents."""
    return re.compile("|".join(mimic_map()["dropped_medications"]), re.IGNORECASE)
