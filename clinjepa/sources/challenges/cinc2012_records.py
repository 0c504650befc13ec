"""Lines of CinC 2012 records and outcome files to stays and raw events.

Statics are at 00:00, with -1 for missing. Weight is a static and a series (https://physionet.org/content/challenge-2012/1.0.0/): its
rows after 00:00 are events, and its first plausible row is the stay's weight, known from its time on. Age, sex and ICU type are constants
of a stay, known at admission whichever row has them. The data end after 48 h, and so does a stay: outtime is 48 h after intime, or the
length of stay of the outcome file if that is shorter. SAPS, SOFA, length of stay and survival never become events.
"""

from __future__ import annotations

import datetime
import io
from collections import Counter
from collections.abc import Mapping
from typing import TypedDict

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.record_files import MappedField
from clinjepa.sources.files.text_files import decode_text, found_columns, whole_number
from clinjepa.sources.readings.cleaning import complete_stays, drop_implausible_ages, raw_events
from clinjepa.sources.schema import STAYS_TYPES

INTIME = datetime.datetime(2000, 1, 1)
"""Start of every stay: the records have no dates."""

DATA_HOURS = 48
_CONSTANTS = ("Age", "Gender", "ICUType")
"""Statics without a time in `stays`: they do not change in a stay, so the first row that has them holds from admission."""

_CHARTED = {"Height": ("height", "height_cm", "height_time"), "Weight": ("weight", "weight_kg", "weight_time")}
"""Static -> variable, and columns of `stays` for its value and the time from which it is known."""

_OUTCOME_COLUMNS = ("RecordID", "Length_of_stay", "In-hospital_death")
_SURVIVAL = "Survival"
"""Days from ICU admission to death, -1 where none is recorded. The column is not needed."""

_PUBLISHED_COLUMNS = (*_OUTCOME_COLUMNS, "SAPS-I", "SOFA", "Survival")
_NO_NUMBER = ("", "na", "nan", "null")
"""What programs write into an empty cell, in lower case."""

_EMPTY = ' \t,"'
"""Characters of a line without a value, such as those that Excel writes for emptied rows."""


class Cinc2012Map(TypedDict):
    """`clinical/maps/cinc2012.yaml`; its header explains the keys."""

    version: int
    parameters: dict[str, MappedField]
    statics: list[str]
    care_units: dict[int, str]
    never: list[str]


def read_outcomes(content: bytes, where: str) -> pl.DataFrame:
    """stay_id, stay_days, died_in_hospital and outcome_fault of an outcome file; lines without a value are skipped.

    stay_days is null where it is -1 or empty. died_in_hospital is null where the file does not say it; outcome_fault is then the rule that
    counts it: `no_outcome` (-1 or empty), `unknown_outcome_code` (any other number than 0 and 1), or `impossible_death` (see
    `_contradicts_survival`).

    Raises:
        SourceError: Not a csv with a header, a missing column, a cut line, a value that is not a whole number, a repeated or empty id.
    """
    lines = [(number, line) for number, line in enumerate(decode_text(content, where).splitlines(), 1) if line.strip(_EMPTY)]
    text = "\n".join(line for _, line in lines)
    header = Counter(name.strip(' \t"') for name in text.split("\n", 1)[0].split(","))
    twice = [name for name in (*_OUTCOME_COLUMNS, _SURVIVAL) if header[name] > 1]
    if twice:
        raise SourceError(f"{where}: column {twice[0]!r} occurs twice; remove one")
    try:
        table = pl.read_csv(io.BytesIO(text.encode()), infer_schema=False, truncate_ragged_lines=False)
        table = table.rename({name: name.strip() for name in table.columns})
    except pl.exceptions.PolarsError:
        raise SourceError(f"{where}: not a comma-separated table with a header; get the file again") from None
    missing = [name for name in _OUTCOME_COLUMNS if name not in table.columns]
    if missing:
        raise SourceError(
            f"{where}: column {missing[0]!r} is missing ({found_columns(table.columns, _PUBLISHED_COLUMNS)}); "
            "this is not an outcome file of the 2012 challenge"
        )
    cut = next((number for number, line in lines if line.count(",") < len(table.columns) - 1), None)
    if cut is not None:
        raise SourceError(f"{where}: line {cut} ends before its last column; get the file again")
    texts = table.select(name for name in (*_OUTCOME_COLUMNS, _SURVIVAL) if name in table.columns)
    numbers = texts.select(whole_number(pl.all()))
    for name in numbers.columns:
        may_be_empty = name != "RecordID"
        is_empty = texts[name].fill_null("").str.strip_chars().str.to_lowercase().is_in(_NO_NUMBER) & may_be_empty
        bad = (numbers[name].is_null() & ~is_empty).arg_true()
        if len(bad):
            raise SourceError(f"{where}: line {lines[bad[0] + 1][0]}, column {name!r}: not a whole number; get the file again")
    repeated = numbers["RecordID"].is_duplicated().arg_true()
    if len(repeated):
        first, second = (lines[repeated[place] + 1][0] for place in (0, 1))
        raise SourceError(f"{where}: lines {first} and {second} have the same RecordID; every record has one outcome, remove one")
    days, death = pl.col("Length_of_stay"), pl.col("In-hospital_death")
    impossible = _contradicts_survival() if _SURVIVAL in numbers.columns else pl.lit(False)
    fault = (
        pl.when((death == -1) | death.is_null())
        .then(pl.lit("no_outcome"))
        .when(~death.is_in([0, 1]))
        .then(pl.lit("unknown_outcome_code"))
        .when(impossible)
        .then(pl.lit("impossible_death"))
    )
    return numbers.select(
        pl.col("RecordID").alias("stay_id"),
        pl.when(days > 0).then(days).alias("stay_days"),
        pl.when(fault.is_null()).then(death == 1).alias("died_in_hospital"),
        fault.alias("outcome_fault"),
    )


def _contradicts_survival() -> pl.Expr:
    """Whether `In-hospital_death` contradicts the days to death, of which the challenge says what they mean.

    Survivors have -1 or more than the length of stay, others at most the length of stay
    (https://physionet.org/content/challenge-2012/1.0.0/). An unknown length of stay contradicts nothing, a death before admission
    (below -1) every outcome.
    """
    days, survival = pl.col("Length_of_stay"), pl.col(_SURVIVAL)
    died_inside = (survival >= 0) & (survival <= days)
    died_later = (survival == -1) | ((survival > days) & (days >= 0))
    died = pl.col("In-hospital_death") == 1
    return (survival < -1) | pl.when(died).then(died_later).otherwise(died_inside)


def with_minutes(lines: pl.DataFrame) -> pl.DataFrame:
    """`lines` with `minutes` after admission; null where the clock is not HH:MM."""
    clock = pl.col("clock").str.extract_groups(r"^(\d{1,3}):([0-5]\d)$")
    minutes = clock.struct[0].cast(pl.Int64, strict=False) * 60 + clock.struct[1].cast(pl.Int64, strict=False)
    return lines.with_columns(minutes.alias("minutes"))


def check_record_ids(lines: pl.DataFrame, places: Mapping[int, str], counts: Counter[str]) -> None:
    """Compare the RecordID inside each record with the number in its file's name, by which it gets its outcome.

    Args:
        lines: The records' lines: stay_id, row, parameter, raw.
        places: stay_id -> file, for messages.
        counts: Receives `record_without_id`: records that do not name one; they are kept.

    Raises:
        SourceError: They differ. The message names file and line.
    """
    named = lines.filter(pl.col("parameter") == "RecordID").with_columns(whole_number(pl.col("raw")).alias("named"))
    wrong = named.filter(pl.col("named").ne_missing(pl.col("stay_id")))
    if wrong.height:
        raise SourceError(
            f"{places[wrong['stay_id'][0]]}, line {wrong['row'][0]}: RecordID is not the number in the file's name "
            f"({wrong['stay_id'].n_unique()} such records in this part); the file was renamed or mixed up, get it again"
        )
    without = len(places) - named["stay_id"].n_unique()
    if without:
        counts["record_without_id"] += without


def check_constants(lines: pl.DataFrame, places: Mapping[int, str]) -> None:
    """Raise SourceError for a record with two ages, sexes or kinds of unit; the message names file and line.

    Args:
        lines: The records' lines: stay_id, row, parameter, raw.
        places: stay_id -> file, for messages.
    """
    known = lines.filter(pl.col("parameter").is_in(_CONSTANTS)).with_columns(pl.col("raw").cast(pl.Float64, strict=False).alias("number"))
    known = known.filter(pl.col("number") >= 0)
    other = known.filter(pl.col("number") != pl.col("number").first().over("stay_id", "parameter", order_by="row")).sort("stay_id", "row")
    if other.height:
        raise SourceError(
            f"{places[other['stay_id'][0]]}, line {other['row'][0]}: another {other['parameter'][0]} than in the rows before; these are "
            f"rows of two patients ({other['stay_id'].n_unique()} such records in this part); get the file again"
        )


def record_stays(
    ids: pl.DataFrame, lines: pl.DataFrame, outcomes: pl.DataFrame, mapping: Cinc2012Map, counts: Counter[str]
) -> pl.DataFrame:
    """Stays (STAYS_SCHEMA) of the records in `ids`; a static of -1 or outside its plausible range is null.

    Age, sex and unit are the first ones of the record; they do not change, so they hold from its beginning (as in CinC 2019). Height and
    weight are the first plausible ones; height_time and weight_time are their times, null if that is 00:00.

    Args:
        ids: stay_id of the records.
        lines: The records' lines: stay_id, row, minutes, parameter, raw.
        outcomes: As `read_outcomes` returns them.
        mapping: The challenge's map.
        counts: Receives `no_outcome` and the other faults of outcomes, `implausible_age`, `unknown_sex` and `unknown_care_unit` (codes
            other than the challenge's and -1), `repeated_static` (other rows of statics after 00:00, but those of weight), and
            `zero_reading` and `out_of_range` of height and weight.
    """
    stays = ids.join(outcomes, on="stay_id", how="left", maintain_order="left")
    faults = stays.filter(pl.col("died_in_hospital").is_null())["outcome_fault"].fill_null("no_outcome")
    for fault, number in faults.value_counts().iter_rows():
        counts[fault] += number
    intime = pl.lit(INTIME).cast(pl.Datetime("us"))
    length = pl.min_horizontal(pl.lit(DATA_HOURS), pl.col("stay_days") * 24)
    stays = stays.with_columns((length * 60).alias("stay_minutes"))
    stays = _with_statics(stays, lines, mapping, counts)
    units = {float(key): name for key, name in mapping["care_units"].items()}
    for rule, parameter, codes in (("unknown_sex", "Gender", [0.0, 1.0]), ("unknown_care_unit", "ICUType", list(units))):
        odd = lines.filter((pl.col("parameter") == parameter) & (pl.col("raw") != ""))["raw"].cast(pl.Float64, strict=False)
        number = len(odd) - int(odd.is_in([-1.0, *codes]).fill_null(False).sum())
        if number:
            counts[rule] += number
    charted = [
        column
        for name, (_, value, time) in _CHARTED.items()
        for column in (
            pl.col(name).cast(pl.Float32).alias(value),
            pl.when(pl.col(f"{name}_minutes") > 0).then(intime + pl.duration(minutes=pl.col(f"{name}_minutes"))).alias(time),
        )
    ]
    stays = stays.select(
        "stay_id",
        pl.col("stay_id").alias("subject_id"),
        intime.alias("intime"),
        (intime + pl.duration(minutes=pl.col("stay_minutes"))).alias("outtime"),
        pl.col("Age").cast(pl.Float32).alias("age_years"),
        pl.col("Gender").replace_strict({0.0: "female", 1.0: "male"}, default=None, return_dtype=pl.String).alias("sex"),
        *charted,
        pl.col("ICUType").replace_strict(units, default=None, return_dtype=pl.String).alias("care_unit"),
        pl.lit(1, pl.Int32).alias("stay_number_in_admission"),
        "died_in_hospital",
    )
    absent = ("hadm_id", "race", "admission_type", "died_in_icu", "death_time", "sepsis", "source_split")
    stays = complete_stays(stays.with_columns(pl.lit(None, STAYS_TYPES[name]).alias(name) for name in absent))
    return drop_implausible_ages(stays, counts)


def _with_statics(stays: pl.DataFrame, lines: pl.DataFrame, mapping: Cinc2012Map, counts: Counter[str]) -> pl.DataFrame:
    """`stays` (stay_id, stay_minutes) with a column for each static, and <static>_minutes: when it was charted."""
    inside = lines.join(stays.select("stay_id", "stay_minutes"), on="stay_id").filter(pl.col("minutes") <= pl.col("stay_minutes"))
    statics = (
        inside.with_columns(pl.col("raw").cast(pl.Float64, strict=False).alias("number"))
        .filter(pl.col("parameter").is_in(mapping["statics"]) & (pl.col("number") >= 0))
        .sort("minutes", "row")
    )
    is_series = pl.col("parameter").is_in(list(mapping["parameters"]))
    repeated = lines.filter(pl.col("parameter").is_in(mapping["statics"]) & ~is_series & (pl.col("minutes") > 0)).height
    for name in _CONSTANTS:
        stays = _with_first(stays, statics.filter(pl.col("parameter") == name), name)
        repeated -= stays.select((pl.col(f"{name}_minutes") > 0).sum()).item()
    for name, (variable, _, _) in _CHARTED.items():
        rows = statics.filter(pl.col("parameter") == name)
        is_plausible = pl.col("number").is_between(load_variables()[variable].minimum, load_variables()[variable].maximum)
        # Later rows of a series are counted as events.
        own = rows.filter(~is_plausible & ((pl.col("minutes") == 0) | (name not in mapping["parameters"])))
        for rule, part in (("zero_reading", own.filter(pl.col("number") == 0)), ("out_of_range", own.filter(pl.col("number") > 0))):
            if part.height:
                counts[f"{rule}:{variable}"] += part.height
        stays = _with_first(stays, rows.filter(is_plausible), name)
        repeated -= 0 if name in mapping["parameters"] else stays.select((pl.col(f"{name}_minutes") > 0).sum()).item()
    if repeated:
        counts["repeated_static"] += repeated
    return stays


def _with_first(stays: pl.DataFrame, rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """`stays` with the value and the minute of their first of `rows` (sorted by time) as columns `name` and `name`_minutes."""
    first = rows.group_by("stay_id", maintain_order=True).agg(
        pl.col("number").first().alias(name), pl.col("minutes").first().alias(f"{name}_minutes")
    )
    return stays.join(first, on="stay_id", how="left", maintain_order="left")


def record_events(lines: pl.DataFrame, mapping: Cinc2012Map, counts: Counter[str]) -> pl.DataFrame:
    """Raw events of the records' lines.

    A weight at 00:00 is the static. Dropped and counted: `empty_parameter`, `excluded:<field>`, `unmapped_code`, `bad_time` (not
    HH:MM).
    """
    entries = mapping["parameters"]
    empty = pl.col("parameter") == ""
    never = pl.col("parameter").is_in(mapping["never"])
    measured = pl.col("parameter").is_in(list(entries))
    static = pl.col("parameter").is_in(mapping["statics"]) & ~measured
    rules = {
        "empty_parameter": empty,
        "excluded:outcome": never,
        "unmapped_code": ~(empty | never | static | measured),
        "bad_time": (static | measured) & pl.col("minutes").is_null(),
    }
    for rule, condition in rules.items():
        number = lines.select(condition.sum()).item()
        if number:
            counts[rule] += number
    found = [
        (name, variable, entry["unit"] if "multiply" not in entry else None, float(entry.get("multiply", 1)))
        for name, entry in entries.items()
        for variable in (entry["variable"], *([entry["also"]] if "also" in entry else []))
    ]
    types = {"parameter": pl.String, "variable": pl.String, "unit": pl.String, "multiply": pl.Float64}
    table = pl.DataFrame(found, schema=types, orient="row")
    rows = lines.filter(pl.col("minutes").is_not_null()).join(table, on="parameter", how="inner", maintain_order="left")
    rows = rows.with_columns((pl.col("raw").cast(pl.Float64, strict=False) * pl.col("multiply")).alias("value"))
    rows = rows.filter(~(pl.col("parameter").is_in(mapping["statics"]) & (pl.col("minutes") == 0)))
    time = pl.lit(INTIME).cast(pl.Datetime("us")) + pl.duration(minutes=pl.col("minutes"))
    return raw_events(rows.select("stay_id", time.alias("time"), "variable", "value", "unit", "row"))
