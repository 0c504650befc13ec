"""MEDS rows of MIMIC-IV to events of ICU stays: charted values, labs, outputs, infusions, procedures, medications.

Codes contain MIMIC item ids, which `clinical/variables.yaml` maps. Chart rows belong to their stay by id. Labs belong to every stay
whose window (look-back before admission to discharge) contains them, since their admission id may be null. Starts and ends of
infusions and procedures are joined to intervals. Codes on the exclusion list are dropped here.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import polars as pl

from clinjepa.clinical import canonical_unit, excluded_by
from clinjepa.sources.meds.intervals import pair_intervals
from clinjepa.sources.meds.overlaps import pair_without_ids
from clinjepa.sources.mimic_iv.row_meaning import (
    drop_other_specimens,
    dropped_medications,
    in_windows,
    infusions,
    measurements,
    medications,
    mimic_map,
    procedures,
    take_statics,
    with_procedure_items,
)
from clinjepa.sources.readings.cleaning import convert_values
from clinjepa.sources.readings.written_units import written_unit

_KG_PER_POUND = 0.45359237
_STRUCTURE = ("ICU_ADMISSION", "HOSPITAL_ADMISSION", "GENDER", "MEDS_BIRTH", "RACE", "SUBJECT_WEIGHT_AT_INFUSION")


class _Code(NamedTuple):
    """Meaning of a MEDS code. Columns of `_code_table`."""

    part: str | None = None
    """Kind of row, such as CHART, LAB or INFUSION_START."""
    item: int | None = None
    """MIMIC-IV item id."""
    code_unit: str | None = None
    name: str | None = None
    """Name of a medication."""
    left_out: str | None = None
    """Rule under which rows of this code are dropped and counted."""


_CODE_TYPES = pl.Schema({"part": pl.String(), "item": pl.Int64(), "code_unit": pl.String(), "name": pl.String(), "left_out": pl.String()})


def read_events(rows: pl.DataFrame, stays: pl.DataFrame, counts: Counter[str]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events) of a partition's MEDS rows; dropped rows are counted by rule.

    MEDS has no specimen id of a blood gas: the specimen is found by the same time.
    """
    rows = rows.filter(pl.col("subject_id").is_in(stays["subject_id"].implode()))
    if without_code := rows["code"].null_count():
        counts["row_without_code"] += without_code
        rows = rows.drop_nulls("code")
    rows = rows.join(_code_table(rows["code"].unique().to_list()), on="code", how="left", maintain_order="left")
    rows = rows.with_columns(pl.coalesce(written_unit(rows, "unit"), "code_unit").alias("unit"))
    rows = _timed(rows, counts)
    _count_left_out(rows, counts)
    rows = _of_their_stay(rows, counts)
    rows = rows.with_columns(
        pl.when(pl.col("part") == "LAB")
        .then(pl.when(pl.col("icustay_id").is_null()).then(pl.lit("LAB")).otherwise(pl.lit("CHART")))
        .otherwise(pl.col("part"))
        .alias("part")
    )
    charted = rows.filter(pl.col("part").is_in(["CHART", "OUTPUT"])).with_columns(pl.col("icustay_id").alias("stay_id"))
    labs = drop_other_specimens(in_windows(rows.filter(pl.col("part") == "LAB"), stays, counts), "time", counts)
    measured = pl.concat([measurements(part, counts) for part in (charted, labs)])
    raw = pl.concat([measured, _infusions(rows, counts), _procedures(rows, counts), medications(rows, stays, counts)])
    events = convert_values(raw, counts)
    # Rows of stays that were dropped are not counted again: the drop of their stay is counted already.
    events = events.filter(pl.col("stay_id").is_in(stays["stay_id"].implode()))
    return take_statics(events, stays, counts)


def _timed(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`rows` without those that have no time; readings and treatments among them are counted as `row_without_time`."""
    timeless = pl.col("time").is_null()
    without_time = rows.select((timeless & pl.col("left_out").is_null() & (pl.col("part") != "STRUCTURE")).sum()).item()
    if without_time:
        counts["row_without_time"] += without_time
    return rows.filter(~timeless)


def _of_their_stay(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`rows` without those of a stay that their subject does not have, counted as `without_stay`."""
    known = rows.filter(pl.col("code").str.starts_with("ICU_ADMISSION")).select("icustay_id", "subject_id").unique()
    # By a column, not by `row`: two files of a partition have the same row numbers.
    rows = rows.join(known.with_columns(own=True), on=["icustay_id", "subject_id"], how="left", maintain_order="left")
    stray = pl.col("icustay_id").is_not_null() & pl.col("own").is_null()
    used = rows.select((stray & pl.col("left_out").is_null()).sum()).item()
    if used:
        counts["without_stay"] += used
    return rows.filter(~stray).drop("own")


def _code_table(codes: list[str]) -> pl.DataFrame:
    """One row per code: code and the fields of `_Code`."""
    types = pl.Schema({"code": pl.String(), **_CODE_TYPES})
    return pl.DataFrame([(code, *_read_code(code)) for code in codes], schema=types, orient="row")


def _read_code(code: str) -> _Code:
    parts = code.split("//")
    kind, rest = parts[0], parts[1:]
    if kind in _STRUCTURE:
        return _Code("STRUCTURE")
    excluded = excluded_by(code)
    if excluded:
        return _Code(left_out=f"excluded:{excluded}")
    if kind == "LAB" and rest and rest[0] == "RESULT":  # MEDS 0.4 exports distinguish results from specimens
        rest = rest[1:]
    if kind == "MEDICATION" and len(rest) >= 2:
        return _read_medication(rest)
    where = {"INFUSION_START": "INFUSION_START", "INFUSION_END": "INFUSION_END", "LAB": "LAB", "SUBJECT_FLUID_OUTPUT": "OUTPUT"}.get(kind)
    if kind == "PROCEDURE" and rest[:1] in (["START"], ["END"]):
        where, rest = f"PROCEDURE_{rest[0]}", rest[1:]
    if where is None or not rest or not rest[0].isdigit():
        return _Code(left_out="unmapped_code")
    return _Code(where, int(rest[0]), canonical_unit(rest[1]) if len(rest) > 1 else None)


def _read_medication(rest: list[str]) -> _Code:
    order = rest[0] in ("START", "STOP")
    name = " ".join((rest[1] if order else rest[0]).split())
    if dropped_medications().search(name):
        return _Code(left_out="carrier_or_flush")
    if order:
        return _Code("ORDER", name=name) if rest[0] == "START" else _Code("STRUCTURE")
    return _Code("GIVEN", name=name) if rest[1].strip() in mimic_map()["emar_given"] else _Code(left_out="medication_not_given")


def _count_left_out(rows: pl.DataFrame, counts: Counter[str]) -> None:
    for rule, number in rows.filter(pl.col("left_out").is_not_null()).group_by("left_out").len().iter_rows():
        counts[rule] += number


def _infusions(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Starts and ends of infusions joined to intervals, with the patient's weight at the start."""
    ends = rows.filter(pl.col("part") == "INFUSION_END").select(
        "icustay_id", "item", "order_id", "row", "time", amount="numeric_value", amount_unit="unit"
    )
    starts = rows.filter((pl.col("part") == "INFUSION_START") & pl.col("icustay_id").is_not_null())
    has_id = pl.col("order_id").is_not_null()
    paired = pl.concat(
        [
            pair_intervals(starts.filter(has_id), ends.filter(has_id), ["icustay_id", "item", "order_id"], counts),
            pair_without_ids(starts.filter(~has_id), ends.filter(~has_id).drop("order_id"), ["icustay_id", "item"], counts),
        ]
    ).sort("row")
    weighed = rows.filter(pl.col("code").str.starts_with("SUBJECT_WEIGHT_AT_INFUSION"))
    in_pounds = pl.col("code").str.split("//").list.get(1, null_on_oob=True).str.to_lowercase().str.starts_with("lb").fill_null(False)
    kg = pl.when(in_pounds).then(pl.col("numeric_value") * _KG_PER_POUND).otherwise("numeric_value")
    weights = weighed.group_by("subject_id", "time").agg(patient_weight=kg.first())
    paired = paired.join(weights, on=["subject_id", "time"], how="left", maintain_order="left")
    return infusions(paired.rename({"order_id": "order"}), counts)


def _procedures(rows: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Starts and ends of the procedures in the dictionary joined to intervals."""
    mapped = rows.filter(pl.col("part").is_in(["PROCEDURE_START", "PROCEDURE_END"]) & pl.col("icustay_id").is_not_null())
    known = with_procedure_items(mapped)
    counts["unmapped_code"] += mapped.height - known.height
    ends = known.filter(pl.col("part") == "PROCEDURE_END").select(
        "icustay_id", "item", "row", "time", amount=pl.lit(None, pl.Float64), amount_unit=pl.lit(None, pl.String)
    )
    paired = pair_intervals(known.filter(pl.col("part") == "PROCEDURE_START"), ends, ["icustay_id", "item"], counts)
    return procedures(paired)
