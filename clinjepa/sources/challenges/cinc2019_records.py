"""Rows of CinC 2019 records to stays and raw events.

A row is one hour. ICULOS k, the hours since ICU admission, starts at 1 and is never 0, so row k summarises hour k - 1 of the grid,
[intime + (k - 1) h, intime + k h). Its values are placed at the start of that hour, and a prediction from it is made at intime + k h.
A record that starts later has empty first hours; the stay ends with its last row. SepsisLabel stays in its row's hour: it is 1 from
six hours before onset (https://physionet.org/content/challenge-2019/1.0.0/) and serves as a label without change.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import TypedDict

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.challenges.record_files import MappedField
from clinjepa.sources.readings.cleaning import drop_implausible_ages, raw_events
from clinjepa.sources.schema import STAYS_TYPES

INTIME = datetime.datetime(2000, 1, 1)
"""Start of every stay: the records have no dates."""

MOST_HOURS = 10_000
"""Latest ICULOS; the open sets end at hour 336."""

MOST_ADMISSION_HOURS = 1e6
"""Most hours between admissions to hospital and ICU (`HospAdmTime`)."""

_MISSING = ("", "NaN", "nan")


class _LabelColumn(TypedDict):
    column: str
    variable: str


class Cinc2019Map(TypedDict):
    """`clinical/maps/cinc2019.yaml`; its header explains the keys."""

    version: int
    columns: dict[str, MappedField]
    hour: str
    label: _LabelColumn
    statics: list[str]
    care_units: dict[str, str]


def check_rows(lines: pl.DataFrame, mapping: Cinc2019Map, places: Mapping[int, str]) -> pl.DataFrame:
    """`lines` with the columns hour (0 = first) and sepsis (bool).

    Args:
        lines: As `read_lines` returns them.
        mapping: The challenge's map.
        places: stay_id -> file, for messages.

    Raises:
        SourceError: An hour is not whole, below 1, above MOST_HOURS or not above that of the row before, a label is neither 0 nor 1, or
            age, sex or time of admission change within a record, which has no id by which rows of another patient could be told. The
            message names file and line.
    """
    hour, label = mapping["hour"], mapping["label"]["column"]
    table = lines.with_columns(
        pl.col(hour).cast(pl.Float64, strict=False).alias("number"),
        pl.col(label).cast(pl.Float64, strict=False).alias("flag"),
    )
    whole = (pl.col("number") >= 1) & (pl.col("number") == pl.col("number").floor()) & (pl.col("number") < 1e6)
    rises = (pl.col("number").diff().over("stay_id", order_by="row") > 0).fill_null(True)
    for column, holds, rule in (
        (hour, whole, "not a whole hour of at least 1"),
        (hour, pl.col("number") <= MOST_HOURS, f"an hour after {MOST_HOURS}, which no stay has"),
        (hour, rises, "not later than the hour of the row before"),
        (label, pl.col("flag").is_in([0.0, 1.0]), "neither 0 nor 1"),
        *(
            (name, _is_constant(name), "another value than in the rows before; these are rows of two patients")
            for name in mapping["statics"]
        ),
    ):
        wrong = table.filter(~holds.fill_null(False)).head(1)
        if wrong.height:
            raise SourceError(f"{places[wrong['stay_id'][0]]}, line {wrong['row'][0]}, column {column!r}: {rule}; get the file again")
    return table.with_columns((pl.col("number").cast(pl.Int64) - 1).alias("hour"), (pl.col("flag") == 1).alias("sepsis")).drop(
        "number", "flag"
    )


def record_stays(ids: list[int], rows: pl.DataFrame, mapping: Cinc2019Map, counts: Counter[str]) -> pl.DataFrame:
    """Stays (STAYS_SCHEMA) of the records `ids` that have a row; the others are counted as `empty_record`.

    Age, sex, unit and time of admission are the first known ones of the record; they do not change, so they hold from its beginning (as in
    CinC 2012).
    sepsis is true if any hour has the label. Null and counted: `implausible_age`, `unknown_sex` (neither 0 nor 1), `unknown_care_unit`
    (both units, or neither 0 nor 1), `implausible_admission_time`. Only counted: `label_taken_back`, records whose label falls to 0.
    """
    first = [_number(name).sort_by("row").drop_nulls().first().alias(name) for name in (*mapping["statics"], *mapping["care_units"])]
    stays = rows.group_by("stay_id").agg(*first, pl.col("hour").max().alias("last_hour"), pl.col("sepsis").any()).sort("stay_id")
    if stays.height < len(ids):
        counts["empty_record"] += len(ids) - stays.height
    stays = _without_odd_statics(stays, rows, mapping, counts)
    number = {name: pl.col(name) for name in (*mapping["statics"], *mapping["care_units"])}
    unit = pl.coalesce(
        pl.when(number[column] == 1).then(pl.lit(name)).otherwise(pl.lit(None, pl.String)) for column, name in mapping["care_units"].items()
    )
    intime = pl.lit(INTIME).cast(pl.Datetime("us"))
    known = stays.select(
        "stay_id",
        pl.col("stay_id").alias("subject_id"),
        intime.alias("intime"),
        (intime + pl.duration(hours=pl.col("last_hour") + 1)).alias("outtime"),
        number["Age"].cast(pl.Float32).alias("age_years"),
        number["Gender"].replace_strict({0.0: "female", 1.0: "male"}, default=None, return_dtype=pl.String).alias("sex"),
        unit.alias("care_unit"),
        pl.lit(1, pl.Int32).alias("stay_number_in_admission"),
        "sepsis",
        (intime + pl.duration(seconds=(number["HospAdmTime"] * 3600).round().cast(pl.Int64))).alias("hospital_admission_time"),
    )
    known = drop_implausible_ages(known, counts)
    absent = {name: dtype for name, dtype in STAYS_TYPES.items() if name not in known.columns}
    return known.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in absent.items()).select(STAYS_TYPES.names())


def _without_odd_statics(stays: pl.DataFrame, rows: pl.DataFrame, mapping: Cinc2019Map, counts: Counter[str]) -> pl.DataFrame:
    """`stays` with statics that cannot be as null; counted by the rules of `record_stays`."""
    units = list(mapping["care_units"])
    odd = {
        "unknown_sex": (["Gender"], ~pl.col("Gender").is_in([0.0, 1.0])),
        "unknown_care_unit": (
            units,
            pl.any_horizontal(~pl.col(name).is_in([0.0, 1.0]) for name in units) | pl.all_horizontal(pl.col(name) == 1 for name in units),
        ),
        "implausible_admission_time": (["HospAdmTime"], pl.col("HospAdmTime").abs() > MOST_ADMISSION_HOURS),
    }
    for rule, (columns, is_odd) in odd.items():
        is_odd = is_odd.fill_null(False)
        number = stays.select(is_odd.sum()).item()
        if number:
            counts[rule] += number
            stays = stays.with_columns(pl.when(is_odd.not_()).then(pl.col(name)).alias(name) for name in columns)
    falls = pl.col("sepsis").sort_by("row").cast(pl.Int8).diff().eq(-1).any()
    taken_back = int(rows.group_by("stay_id").agg(falls.alias("falls"))["falls"].sum())
    if taken_back:
        counts["label_taken_back"] += taken_back
    return stays


def record_events(rows: pl.DataFrame, mapping: Cinc2019Map) -> pl.DataFrame:
    """Raw events of the records' rows, at the start of each row's hour; NaN means not measured."""
    entries = mapping["columns"]
    long = rows.unpivot(on=list(entries), index=["stay_id", "row", "hour"], variable_name="column", value_name="raw")
    long = long.filter(~pl.col("raw").is_in(_MISSING))
    facts = pl.DataFrame(
        [
            (name, entry["variable"], entry["unit"] if "multiply" not in entry else None, float(entry.get("multiply", 1)))
            for name, entry in entries.items()
        ],
        schema={"column": pl.String, "variable": pl.String, "unit": pl.String, "multiply": pl.Float64},
        orient="row",
    )
    measured = long.join(facts, on="column", how="inner", maintain_order="left").select(
        "stay_id", "hour", "variable", (pl.col("raw").cast(pl.Float64, strict=False) * pl.col("multiply")).alias("value"), "unit", "row"
    )
    labelled = rows.select(
        "stay_id",
        "hour",
        pl.lit(mapping["label"]["variable"]).alias("variable"),
        pl.col("sepsis").cast(pl.Float64).alias("value"),
        pl.lit(None, pl.String).alias("unit"),
        "row",
    )
    time = pl.lit(INTIME).cast(pl.Datetime("us")) + pl.duration(hours=pl.col("hour"))
    return raw_events(pl.concat([measured, labelled]).with_columns(time.alias("time")))


def _is_constant(name: str) -> pl.Expr:
    """Whether a static equals the first known one of its record, or is missing."""
    value = _number(name)
    first = value.drop_nulls().first().over("stay_id", order_by="row")
    return (value == first).fill_null(True)


def _number(name: str) -> pl.Expr:
    """A static's value; null where it is missing or not a number."""
    value = pl.col(name).cast(pl.Float64, strict=False)
    return pl.when(value.is_finite()).then(value)
