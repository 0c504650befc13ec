"""Lines of CinC 2012 records and outcome files to stays and raw events.

Statics are at 00:00, with -1 for missing. The data end after 48 h, and so does a stay: outtime is 48 h after intime, or the length
of stay of the outcome file if that is shorter. SAPS, SOFA, length of stay and survival never become events.
"""

from __future__ import annotations

import datetime
import io
from collections import Counter
from typing import TypedDict

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.record_files import MappedField
from clinjepa.sources.cleaning import complete_stays, raw_events
from clinjepa.sources.schema import STAYS_TYPES

INTIME = datetime.datetime(2000, 1, 1)
"""Start of every stay: the records have no dates."""

DATA_HOURS = 48
_OUTCOME_COLUMNS = ("RecordID", "Length_of_stay", "In-hospital_death")


class Cinc2012Map(TypedDict):
    """`clinical/maps/cinc2012.yaml`; its header explains the keys."""

    version: int
    parameters: dict[str, MappedField]
    zero_is_missing: list[str]
    statics: list[str]
    care_units: dict[int, str]
    never: list[str]


def read_outcomes(content: bytes, where: str) -> pl.DataFrame:
    """stay_id, stay_days (null where -1) and died_in_hospital of an outcome file.

    Raises:
        SourceError: Not a csv with a header, a missing column, a value that is not a whole number, or a repeated id.
    """
    try:
        content.decode("utf-8")
        table = pl.read_csv(io.BytesIO(content), infer_schema=False, truncate_ragged_lines=False)
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: byte {error.start} is not UTF-8; get the file again") from None
    except pl.exceptions.PolarsError:
        raise SourceError(f"{where}: not a comma-separated table with a header; get the file again") from None
    table = table.rename({name: name.strip() for name in table.columns})
    missing = [name for name in _OUTCOME_COLUMNS if name not in table.columns]
    if missing:
        raise SourceError(
            f"{where}: column {missing[0]!r} is missing (found: {', '.join(table.columns)}); "
            "this is not an outcome file of the 2012 challenge"
        )
    numbers = table.select(pl.col(name).str.strip_chars().cast(pl.Int64, strict=False) for name in _OUTCOME_COLUMNS)
    for name in _OUTCOME_COLUMNS:
        bad = numbers[name].is_null().arg_true()
        if len(bad):
            raise SourceError(f"{where}: line {bad[0] + 2}, column {name!r}: not a whole number; get the file again")
    repeated = numbers["RecordID"].is_duplicated().arg_true()
    if len(repeated):
        raise SourceError(
            f"{where}: lines {repeated[0] + 2} and {repeated[1] + 2} have the same RecordID; every record has one outcome, remove one"
        )
    days, death = pl.col("Length_of_stay"), pl.col("In-hospital_death")
    return numbers.select(
        pl.col("RecordID").alias("stay_id"),
        pl.when(days > 0).then(days).alias("stay_days"),
        pl.when(death >= 0).then(death == 1).alias("died_in_hospital"),
    )


def record_stays(
    ids: pl.DataFrame, lines: pl.DataFrame, outcomes: pl.DataFrame, mapping: Cinc2012Map, counts: Counter[str]
) -> pl.DataFrame:
    """Stays (STAYS_SCHEMA) of the records in `ids`; a static of -1 or outside its plausible range becomes null.

    Args:
        ids: stay_id of the records.
        lines: The records' lines: stay_id, row, clock, parameter, raw.
        outcomes: As `read_outcomes` returns them.
        mapping: The challenge's map.
        counts: Receives `no_outcome` and `out_of_range:<variable>`.
    """
    number = pl.col("raw").cast(pl.Float64, strict=False)
    statics = lines.filter(pl.col("parameter").is_in(mapping["statics"])).with_columns(number.alias("number")).filter(pl.col("number") >= 0)
    stays = ids
    for name in ("Age", "Gender", "Height", "ICUType", "Weight"):
        first = (
            statics.filter(pl.col("parameter") == name)
            .sort("clock", "row")
            .group_by("stay_id", maintain_order=True)
            .agg(pl.col("number").first().alias(name))
        )
        stays = stays.join(first, on="stay_id", how="left", maintain_order="left")
    stays = stays.join(outcomes, on="stay_id", how="left", maintain_order="left")
    without = stays["died_in_hospital"].null_count()
    if without:
        counts["no_outcome"] += without
    variables = load_variables()
    for column, variable in (("Height", variables["height"]), ("Weight", variables["weight"])):
        plausible = pl.col(column).is_between(variable.minimum, variable.maximum)
        implausible = stays.select((~plausible).sum()).item()
        if implausible:
            counts[f"out_of_range:{variable.name}"] += implausible
        stays = stays.with_columns(pl.when(plausible).then(pl.col(column)).alias(column))
    units = {float(key): name for key, name in mapping["care_units"].items()}
    hours = pl.min_horizontal(pl.lit(DATA_HOURS), pl.col("stay_days") * 24)
    stays = stays.select(
        "stay_id",
        pl.col("stay_id").alias("subject_id"),
        pl.lit(INTIME).cast(pl.Datetime("us")).alias("intime"),
        (pl.lit(INTIME).cast(pl.Datetime("us")) + pl.duration(hours=hours)).alias("outtime"),
        pl.col("Age").cast(pl.Float32).alias("age_years"),
        pl.col("Gender").replace_strict({0.0: "female", 1.0: "male"}, default=None, return_dtype=pl.String).alias("sex"),
        pl.col("Height").cast(pl.Float32).alias("height_cm"),
        pl.col("Weight").cast(pl.Float32).alias("weight_kg"),
        pl.col("ICUType").replace_strict(units, default=None, return_dtype=pl.String).alias("care_unit"),
        pl.lit(1, pl.Int32).alias("stay_number_in_admission"),
        "died_in_hospital",
    )
    absent = ("hadm_id", "race", "admission_type", "died_in_icu", "death_time", "sepsis", "source_split")
    return complete_stays(stays.with_columns(pl.lit(None, STAYS_TYPES[name]).alias(name) for name in absent))


def record_events(lines: pl.DataFrame, mapping: Cinc2012Map, counts: Counter[str]) -> pl.DataFrame:
    """Raw events of the records' lines.

    Dropped and counted: `empty_parameter`, `excluded:<field>`, `repeated_static` (weight charted again), `unmapped_code`, `bad_time`
    (not HH:MM), `zero_reading:<variable>` (a disconnected sensor).
    """
    entries = mapping["parameters"]
    empty = pl.col("parameter") == ""
    never = pl.col("parameter").is_in(mapping["never"])
    static = pl.col("parameter").is_in(mapping["statics"])
    clock = pl.col("clock").str.extract_groups(r"^(\d{1,3}):([0-5]\d)$")
    minutes = clock.struct[0].cast(pl.Int64, strict=False) * 60 + clock.struct[1].cast(pl.Int64, strict=False)
    lines = lines.with_columns(minutes.alias("minutes"))
    rules = {
        "empty_parameter": empty,
        "excluded:outcome": never,
        "repeated_static": static & (pl.col("minutes") > 0),
        "unmapped_code": ~(empty | never | static | pl.col("parameter").is_in(list(entries))),
        "bad_time": pl.col("parameter").is_in(list(entries)) & pl.col("minutes").is_null(),
    }
    for rule, condition in rules.items():
        number = lines.select(condition.sum()).item()
        if number:
            counts[rule] += number
    found = [
        (
            name,
            variable,
            entry["unit"] if "multiply" not in entry else None,
            float(entry.get("multiply", 1)),
            name in mapping["zero_is_missing"],
        )
        for name, entry in entries.items()
        for variable in (entry["variable"], *([entry["also"]] if "also" in entry else []))
    ]
    types = {"parameter": pl.String, "variable": pl.String, "unit": pl.String, "multiply": pl.Float64, "zero_is_missing": pl.Boolean}
    table = pl.DataFrame(found, schema=types, orient="row")
    rows = lines.filter(pl.col("minutes").is_not_null()).join(table, on="parameter", how="inner", maintain_order="left")
    rows = rows.with_columns((pl.col("raw").cast(pl.Float64, strict=False) * pl.col("multiply")).alias("value"))
    zero = pl.col("zero_is_missing") & (pl.col("value") == 0).fill_null(False)
    for variable, number in rows.filter(zero).group_by("variable").len().iter_rows():
        counts[f"zero_reading:{variable}"] += number
    time = pl.lit(INTIME).cast(pl.Datetime("us")) + pl.duration(minutes=pl.col("minutes"))
    return raw_events(rows.filter(~zero).select("stay_id", time.alias("time"), "variable", "value", "unit", "row"))
