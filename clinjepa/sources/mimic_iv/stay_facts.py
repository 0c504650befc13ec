"""Columns of MIMIC-IV stays besides their times: age, race group, outcome, and the next ICU stay and hospitalisation.

Shared by the MEDS source and the source of the original tables. Outcome and later stays serve labels and stratification only.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.sources.calendar import end_of
from clinjepa.sources.mimic_iv.deaths import with_outcomes
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.readings.cleaning import PLAUSIBLE_YEARS, complete_stays
from clinjepa.sources.schema import STAYS_SCHEMA

_SEXES = {"F": "female", "M": "male"}
_NO_WORDS = ("", "UNK", "UNKNOWN")
_LONGEST_STAY_DAYS = 366
"""Longer stays are errors: the longest ICU stay of MIMIC-IV 3.1 lasts about 226 days."""


def admissions_to_icu(*tables: pl.DataFrame) -> pl.DataFrame:
    """subject_id, hadm_id and intime of the rows that have a patient and a time: `entered` of `describe_stays`."""
    return pl.concat([table.select("subject_id", "hadm_id", "intime") for table in tables]).drop_nulls(["subject_id", "intime"])


def drop_unusable(stays: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Stays that end after their start and at most a year later.

    Dropped and counted: `stay_without_end`, `stay_end_before_start`, `implausible_stay_length`.
    """
    for rule, usable in (
        ("stay_without_end", pl.col("outtime").is_not_null()),
        ("stay_end_before_start", pl.col("outtime") > pl.col("intime")),
        ("implausible_stay_length", pl.col("outtime") - pl.col("intime") <= pl.duration(days=_LONGEST_STAY_DAYS)),
    ):
        kept = stays.filter(usable)
        if kept.height < stays.height:
            counts[rule] += stays.height - kept.height
        stays = kept
    return stays


def describe_stays(stays: pl.DataFrame, entered: pl.DataFrame, admissions: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """Stays in the columns of STAYS_SCHEMA; height and weight are still null. Outcome: `deaths.with_outcomes`.

    Args:
        stays: All usable stays of their patients: stay_id, subject_id, hadm_id, intime, outtime, care_unit, age (years), sex_code, race,
            admission_type, admitted, discharged, left_dead, discharge_fault, death_time (as recorded), source_split, chronic_dialysis.
        entered: All ICU admissions of these patients with a known time, also of stays that are not usable: subject_id, hadm_id, intime.
        admissions: All hospitalisations of these patients: subject_id, hadm_id, admitted, discharged, left_dead.
        counts: Receives `implausible_age` (the age becomes null), `unknown_sex` (a code other than F and M) and the
            rules of `with_outcomes`, also `discharge_before_icu_stay`: stays of unknown outcome, since their discharge alive is earlier.
    """
    plausible = pl.col("age").is_between(*PLAUSIBLE_YEARS)
    implausible = stays.select((~plausible).sum()).item()
    if implausible:
        counts["implausible_age"] += implausible
    stays = stays.with_columns(pl.col("sex_code").replace_strict(_SEXES, default=None, return_dtype=pl.String).alias("sex"))
    is_word = ~pl.col("sex_code").str.strip_chars().str.to_uppercase().is_in(_NO_WORDS)
    unknown = stays.select((pl.col("sex").is_null() & is_word).sum()).item()
    if unknown:
        counts["unknown_sex"] += unknown
    stays = _without_earlier_discharge(stays, entered)
    following = admissions.filter(pl.col("hadm_id").is_not_null()).select(
        "hadm_id", "subject_id", pl.col("admitted").shift(-1).over("subject_id", order_by="admitted").alias("next_hospital_admission_time")
    )
    stays = stays.join(following, on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    stays = stays.join(_places(stays, entered), on="stay_id", how="left", maintain_order="left").with_columns(
        pl.when(plausible).then(pl.col("age")).cast(pl.Float32).alias("age_years"),
        pl.lit(None, pl.Float32).alias("height_cm"),
        pl.lit(None, pl.Float32).alias("weight_kg"),
        pl.lit(None, pl.Boolean).alias("sepsis"),
        pl.col("admitted").alias("hospital_admission_time"),
        pl.col("discharged").alias("hospital_discharge_time"),
    )
    return complete_stays(with_outcomes(stays, entered, admissions, counts)).select(STAYS_SCHEMA.names)


def _places(stays: pl.DataFrame, entered: pl.DataFrame) -> pl.DataFrame:
    """stay_id, next_icu_admission_time, stay_number_in_admission: a stay among all ICU admissions of its hospitalisation.

    A stay that is not usable counts, unless it begins at the time of a usable one, as a copy would.
    """
    place = ["subject_id", "hadm_id"]
    others = entered.drop_nulls("hadm_id").unique([*place, "intime"], maintain_order=True).join(stays, on=[*place, "intime"], how="anti")
    known = pl.concat([stays.select(*place, "intime", "stay_id"), others.select(*place, "intime", pl.lit(None, pl.Int64).alias("stay_id"))])
    by_admission = (pl.coalesce(pl.col("hadm_id"), -pl.col("stay_id")), "subject_id")
    return known.select(
        "stay_id",
        pl.col("intime").shift(-1).over(*by_admission, order_by="intime").alias("next_icu_admission_time"),
        pl.col("intime").rank("ordinal").over(*by_admission).cast(pl.Int32).alias("stay_number_in_admission"),
    ).drop_nulls("stay_id")


def _without_earlier_discharge(stays: pl.DataFrame, entered: pl.DataFrame) -> pl.DataFrame:
    """`stays` without a discharge alive that is before the admission's last ICU stay: the fault `discharge_before_icu_stay`.

    A discharge as dead before an ICU stay is judged by `deaths`, since the stay may be that of an organ donor.
    """
    place = ["hadm_id", "subject_id"]
    last = (
        pl.concat([table.select(*place, "intime") for table in (stays, entered)]).group_by(place).agg(pl.col("intime").max().alias("last"))
    )
    stays = stays.join(last, on=place, how="left", maintain_order="left", nulls_equal=True)
    early = (end_of(pl.col("discharged")) < pl.col("last")) & ~pl.col("left_dead").fill_null(False) & pl.col("discharge_fault").is_null()
    early = early.fill_null(False)
    return stays.with_columns(
        pl.when(~early).then(pl.col("discharged")).alias("discharged"),
        pl.when(~early).then(pl.col("left_dead")).alias("left_dead"),
        pl.when(early).then(pl.lit("discharge_before_icu_stay")).otherwise(pl.col("discharge_fault")).alias("discharge_fault"),
    ).drop("last")


def one_sex(people: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`people` without the sex of those who have several, counted as `patient_with_several_sexes`.

    people: subject_id, sex_code and `number`, of different codes of the patient; the last one is left out.
    """
    several = people.select((pl.col("number") > 1).sum()).item()
    if several:
        counts["patient_with_several_sexes"] += several
    return people.with_columns(pl.when(pl.col("number") <= 1).then(pl.col("sex_code")).alias("sex_code")).drop("number")


def is_chronic_dialysis(version: pl.Expr, code: pl.Expr) -> pl.Expr:
    """Whether a diagnosis (ICD version, code without the point) implies dialysis before this hospitalisation."""
    known = [f"{version}:{code}" for version, codes in mimic_map()["chronic_dialysis"].items() for code in codes]
    return pl.concat_str(version.cast(pl.String), pl.lit(":"), code.str.strip_chars()).is_in(known).fill_null(False)


def race_group(text: str) -> str:
    """asian, black, hispanic, white, other or unknown, by the prefixes of `clinical/maps/mimic_iv.yaml`."""
    upper = text.strip().upper()
    return next((group for group, prefixes in mimic_map()["races"].items() if upper.startswith(tuple(prefixes))), "other")


def race_groups(column: pl.Series) -> pl.Series:
    """`race_group` of every entry of a column; null stays null."""
    groups = {text: race_group(text) for text in column.unique().drop_nulls().to_list()}
    return column.replace_strict(groups, default=None, return_dtype=pl.String)
