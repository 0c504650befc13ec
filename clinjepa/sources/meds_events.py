"""Events of ICU stays out of MEDS rows of MIMIC-IV: charted values, labs, outputs, infusions, procedures, medications.

Codes carry MIMIC item ids, which `clinical/variables.yaml` maps. Chart rows belong to their stay by id; labs to every stay whose
window (24 h before admission to discharge) holds them, since their admission id may be null. Starts and ends of infusions and
procedures are joined to intervals. What the exclusion list names is dropped here already.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any

import polars as pl

from clinjepa.clinical import canonical_unit, excluded_by, load_variables
from clinjepa.clinical.definitions import read_definitions
from clinjepa.sources.cleaning import convert_values, raw_events
from clinjepa.sources.meds_intervals import pair_intervals
from clinjepa.sources.schema import LOOKBACK_HOURS, MEDICATION

_STRUCTURE = ("ICU_ADMISSION", "HOSPITAL_ADMISSION", "GENDER", "MEDS_BIRTH", "RACE", "SUBJECT_WEIGHT_AT_INFUSION")
_TABLES = {"CHART": "chartevents", "LAB": "labevents", "OUTPUT": "outputevents", "INFUSION": "inputevents", "PROCEDURE": "procedureevents"}


def read_events(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of a partition's MEDS rows; drops are counted by rule."""
    rows = rows.filter(pl.col("subject_id").is_in(stays["subject_id"].implode())).filter(pl.col("time").is_not_null())
    rows = rows.join(_code_table(rows["code"].unique().to_list()), on="code", how="left", maintain_order="left")
    _count_left_out(rows, counts)
    rows = rows.with_columns(
        pl.when(pl.col("part") == "LAB")
        .then(pl.when(pl.col("icustay_id").is_null()).then(pl.lit("LAB")).otherwise(pl.lit("CHART")))
        .otherwise(pl.col("part"))
        .alias("part")
    )
    charted = rows.filter(pl.col("part").is_in(["CHART", "OUTPUT"])).with_columns(pl.col("icustay_id").alias("stay_id"))
    labs = _in_windows(rows.filter(pl.col("part") == "LAB"), stays, counts)
    measured = pl.concat([_measurements(part, counts) for part in (charted, labs)])
    raw = pl.concat([measured, _infusions(rows, counts), _procedures(rows, counts), _medications(rows, stays, counts)])
    events = convert_values(raw, counts)
    # Rows of stays that were dropped are no events; the drop of their stay is counted already.
    events = events.filter(pl.col("stay_id").is_in(stays["stay_id"].implode()))
    return _take_statics(events, stays)


def _code_table(codes: list[str]) -> pl.DataFrame:
    """code -> part (which kind of row), item, code_unit, name, given (drug events that mean it was given), left_out (why)."""
    table: dict[str, list[Any]] = {key: [] for key in ("code", "part", "item", "code_unit", "name", "given", "left_out")}
    for code in codes:
        entry = _read_code(code)
        table["code"].append(code)
        for key in table.keys() - {"code"}:
            table[key].append(entry.get(key))
    types = {
        "code": pl.String,
        "part": pl.String,
        "item": pl.Int64,
        "code_unit": pl.String,
        "name": pl.String,
        "given": pl.Boolean,
        "left_out": pl.String,
    }
    return pl.DataFrame(table, schema=types)


def _read_code(code: str) -> dict[str, Any]:
    parts = code.split("//")
    kind, rest = parts[0], parts[1:]
    if kind in _STRUCTURE:
        return {"part": "STRUCTURE"}
    excluded = excluded_by(code)
    if excluded:
        return {"left_out": f"excluded:{excluded}"}
    if kind == "LAB" and rest and rest[0] == "RESULT":  # MEDS 0.4 exports tell results from specimens
        rest = rest[1:]
    if kind == "MEDICATION" and len(rest) >= 2:
        return _read_medication(rest)
    where = {"INFUSION_START": "INFUSION_START", "INFUSION_END": "INFUSION_END", "LAB": "LAB", "SUBJECT_FLUID_OUTPUT": "OUTPUT"}.get(kind)
    if kind == "PROCEDURE" and rest[:1] in (["START"], ["END"]):
        where, rest = f"PROCEDURE_{rest[0]}", rest[1:]
    if where is None or not rest or not rest[0].isdigit():
        return {"left_out": "unmapped_code"}
    return {"part": where, "item": int(rest[0]), "code_unit": canonical_unit(rest[1]) if len(rest) > 1 else None}


def _read_medication(rest: list[str]) -> dict[str, Any]:
    order = rest[0] in ("START", "STOP")
    name = " ".join((rest[1] if order else rest[0]).split())
    if _dropped_medications().search(name):
        return {"left_out": "carrier_or_flush"}
    if order:
        return {"part": "ORDER", "name": name} if rest[0] == "START" else {"part": "STRUCTURE"}
    return {"part": "GIVEN", "name": name} if rest[1].strip() in _mimic()["emar_given"] else {"left_out": "medication_not_given"}


def _count_left_out(rows: pl.DataFrame, counts: Counter[str]) -> None:
    for rule, number in rows.filter(pl.col("left_out").is_not_null()).group_by("left_out").len().iter_rows():
        counts[rule] += number


def _measurements(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Raw events of charted values, labs or outputs: one per variable that the item means."""
    mapped = rows.join(_item_table(), on=["part", "item"], how="left", maintain_order="left")
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
            pl.when(pl.col("kind") != "category").then(pl.col("numeric_value")).alias("value"),
            pl.when((pl.col("kind") == "category") | (pl.col("variable") == "gcs_verbal")).then(text).alias("text"),
            pl.coalesce("unit", "code_unit").alias("unit"),
        )
    )


def _in_windows(labs: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Lab rows with the stay_id of each stay of their subject whose window holds them."""
    window = stays.select("stay_id", "subject_id", (pl.col("intime") - pl.duration(hours=LOOKBACK_HOURS)).alias("earliest"), "outtime")
    joined = labs.join(window, on="subject_id", how="inner", maintain_order="left").filter(
        pl.col("time").is_between(pl.col("earliest"), pl.col("outtime"))
    )
    outside = labs.height - joined["row"].n_unique()
    if outside:
        counts["outside_stay"] += outside
    return joined.drop("earliest", "outtime")


def _infusions(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Interval events of infusions. A drug of kind `rate` that was pushed without a rate becomes a `medication` with its dose."""
    ends = rows.filter(pl.col("part") == "INFUSION_END").select(
        "icustay_id", "item", "order_id", "row", "time", amount="numeric_value", amount_unit="unit"
    )
    starts = rows.filter((pl.col("part") == "INFUSION_START") & pl.col("icustay_id").is_not_null())
    paired = pair_intervals(starts, ends, ["icustay_id", "item", "order_id"], counts)
    weights = (
        rows.filter(pl.col("code").str.starts_with("SUBJECT_WEIGHT_AT_INFUSION"))
        .group_by("subject_id", "time")
        .agg(patient_weight=pl.col("numeric_value").first())
    )
    paired = paired.join(weights, on=["subject_id", "time"], how="left", maintain_order="left")
    paired = paired.with_columns(pl.lit("INFUSION").alias("part")).join(
        _item_table(), on=["part", "item"], how="left", maintain_order="left"
    )
    dropped, names = _mimic()["dropped_items"], _medication_items()
    carries = (pl.col("variable") == "crystalloid") & pl.col("order_category").is_in(_mimic()["carrier_orders"])
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
    has_rate = rate.fill_null(0) > 0
    # An item that is also an indicator keeps that event; a second mention as a pushed drug would say it twice.
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
            .then(_known(pl.col("amount_unit")))
            .otherwise(_known(pl.col("unit")))
            .alias("unit"),
            pl.when(pl.col("variable").is_null())
            .then(pl.col("other_name"))
            .when(pushed | (pl.col("kind") == "indicator"))
            .then(pl.col("label"))
            .alias("text"),
            "row",
            "item",
            "patient_weight",
        )
    )


def _procedures(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Interval events of the procedures in the dictionary (ventilation, dialysis, cultures …)."""
    mapped = rows.filter(pl.col("part").is_in(["PROCEDURE_START", "PROCEDURE_END"]) & pl.col("icustay_id").is_not_null())
    items = _item_table().filter(pl.col("part") == "PROCEDURE").drop("part")
    known = mapped.join(items, on="item", how="inner", maintain_order="left")
    counts["unmapped_code"] += mapped.height - known.height
    ends = known.filter(pl.col("part") == "PROCEDURE_END").select(
        "icustay_id", "item", "row", "time", amount=pl.lit(None, pl.Float64), amount_unit=pl.lit(None, pl.String)
    )
    paired = pair_intervals(known.filter(pl.col("part") == "PROCEDURE_START"), ends, ["icustay_id", "item"], counts)
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
        )
    )


def _medications(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Free-named drugs: what the administration record (emar) says was given; in stays without one, the starts of orders."""
    window = stays.select("stay_id", "subject_id", "intime", "outtime")
    found = rows.filter(pl.col("part").is_in(["GIVEN", "ORDER"])).join(window, on="subject_id", how="inner", maintain_order="left")
    found = found.filter(pl.col("time").is_between(pl.col("intime"), pl.col("outtime")))
    recorded = pl.col("stay_id").is_in(found.filter(pl.col("part") == "GIVEN")["stay_id"].unique().implode())
    superseded = found.select(((pl.col("part") == "ORDER") & recorded).sum()).item()
    if superseded:
        counts["order_superseded_by_administration"] += superseded
    found = found.filter((pl.col("part") == "GIVEN") | ~recorded)
    return raw_events(found.select("stay_id", "time", pl.lit(MEDICATION).alias("variable"), pl.col("name").alias("text"), "row"))


def _take_statics(events: pl.DataFrame, stays: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Height and weight leave the events and become columns of the stays: the first item of the dictionary's list that was charted."""
    for variable, column in (("height", "height_cm"), ("weight", "weight_kg")):
        priority = {
            item: place for place, item in enumerate(item for source in load_variables()[variable].sources for item in source.itemids)
        }
        rows = events.filter(pl.col("variable") == variable).with_columns(
            pl.col("item").replace_strict(priority, default=len(priority)).alias("place")
        )
        first = (
            rows.sort("place", "time", "row")
            .group_by("stay_id", maintain_order=True)
            .agg(pl.col("value").first().cast(pl.Float32).alias(column))
        )
        stays = stays.drop(column).join(first, on="stay_id", how="left", maintain_order="left")
    return stays, events.filter(~pl.col("variable").is_in(["height", "weight"]))


def _known(unit: pl.Expr) -> pl.Expr:
    return unit.map_elements(canonical_unit, return_dtype=pl.String, skip_nulls=True)


@lru_cache(maxsize=1)
def _item_table() -> pl.DataFrame:
    """part, item -> variable, kind, label, also_indicator (the item also means an indicator); an item may mean several variables."""
    parts = {table: part for part, table in _TABLES.items()}
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
def _mimic() -> dict[str, Any]:
    return read_definitions("maps/mimic_iv.yaml")


@lru_cache(maxsize=1)
def _medication_items() -> dict[int, str]:
    return {item: name for name, items in _mimic()["medication_items"].items() for item in items}


@lru_cache(maxsize=1)
def _dropped_medications() -> re.Pattern[str]:
    return re.compile("|".join(_mimic()["dropped_medications"]), re.IGNORECASE)
