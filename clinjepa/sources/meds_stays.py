"""ICU stays out of MEDS rows of MIMIC-IV: admission and discharge codes, demographics, outcome.

Outcome: died in hospital when the admission's discharge code says DIED or the death lies inside the admission; died in the
ICU when that death is not after ICU discharge. These columns serve labels and stratification only.
"""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Any

import polars as pl

from clinjepa.clinical.definitions import read_definitions
from clinjepa.errors import SourceError
from clinjepa.sources.schema import STAYS_SCHEMA

_OLDEST_YEARS = 120


def read_stays(rows: pl.DataFrame, splits: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """Stays (columns of STAYS_SCHEMA; height and weight still null) of a partition's MEDS rows.

    Dropped and counted: `stay_without_end`, `stay_end_before_start`, `duplicate_row` (the same stay twice, word for word).
    SourceError when one stay id has two different admissions.
    """
    prefix = pl.col("code").str.split_exact("//", 2)
    coded = rows.with_columns(prefix.struct.field("field_0").alias("kind"), prefix.struct.field("field_1").alias("first"))
    stays = _boundaries(coded, where, counts)
    stays = stays.join(_admissions(coded), on="hadm_id", how="left", maintain_order="left")
    people = _people(coded)
    stays = stays.join(people, on="subject_id", how="left", maintain_order="left").join(
        splits, on="subject_id", how="left", maintain_order="left"
    )
    age = ((pl.col("intime") - pl.col("birth")).dt.total_days() / 365.2425).floor()
    plausible = age.is_between(0, _OLDEST_YEARS)
    implausible = stays.select((~plausible).sum()).item()
    if implausible:
        counts["implausible_age"] += implausible
    discharged_dead = pl.col("discharge_to").str.starts_with("DIED")
    inside = (pl.col("death_time") >= pl.col("admitted")) & (pl.col("death_time") <= pl.col("discharged"))
    in_hospital = pl.when(pl.col("discharged").is_not_null()).then(discharged_dead.fill_null(False) | inside.fill_null(False))
    stays = stays.with_columns(in_hospital.alias("died_in_hospital")).with_columns(
        pl.when(pl.col("died_in_hospital").not_())
        .then(pl.lit(False))
        .when(pl.col("died_in_hospital"))
        .then(pl.col("death_time") <= pl.col("outtime"))
        .alias("died_in_icu"),
        pl.when(plausible).then(age).cast(pl.Float32).alias("age_years"),
        pl.lit(None, pl.Float32).alias("height_cm"),
        pl.lit(None, pl.Float32).alias("weight_kg"),
        pl.lit(None, pl.Boolean).alias("sepsis"),
        pl.col("intime")
        .rank("ordinal")
        .over(pl.coalesce(pl.col("hadm_id"), -pl.col("stay_id")))
        .cast(pl.Int32)
        .alias("stay_number_in_admission"),
    )
    return stays.select(STAYS_SCHEMA.names)


def _boundaries(coded: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """stay_id, subject_id, hadm_id, intime, outtime, care_unit; one row per usable stay."""
    columns = [pl.col("icustay_id").alias("stay_id"), "subject_id", "hadm_id", "time", "first"]
    inside = coded.filter(
        pl.col("kind").is_in(["ICU_ADMISSION", "ICU_DISCHARGE"]) & pl.col("icustay_id").is_not_null() & pl.col("time").is_not_null()
    )
    frames = {}
    for kind in ("ICU_ADMISSION", "ICU_DISCHARGE"):
        found = inside.filter(pl.col("kind") == kind).select(*columns)
        distinct = found.unique(maintain_order=True)
        if distinct["stay_id"].n_unique() < distinct.height:
            clashing = distinct.height - distinct["stay_id"].n_unique()
            raise SourceError(
                f"{where}/data: {clashing} ICU stay ids have two different {kind} rows; "
                "every stay needs an id of its own, renumber the copies"
            )
        if distinct.height < found.height:
            counts["duplicate_row"] += found.height - distinct.height
        frames[kind] = distinct
    ends = frames["ICU_DISCHARGE"].select("stay_id", pl.col("time").alias("outtime"))
    stays = (
        frames["ICU_ADMISSION"].rename({"time": "intime", "first": "care_unit"}).join(ends, on="stay_id", how="left", maintain_order="left")
    )
    for rule, usable in (
        ("stay_without_end", pl.col("outtime").is_not_null()),
        ("stay_end_before_start", pl.col("outtime") > pl.col("intime")),
    ):
        kept = stays.filter(usable)
        if kept.height < stays.height:
            counts[rule] += stays.height - kept.height
        stays = kept
    return stays


def _admissions(coded: pl.DataFrame) -> pl.DataFrame:
    """hadm_id, admitted, admission_type, race, discharged, discharge_to."""
    known = coded.filter(pl.col("hadm_id").is_not_null())
    start = known.filter(pl.col("kind") == "HOSPITAL_ADMISSION").select(
        "hadm_id", pl.col("time").alias("admitted"), pl.col("first").alias("admission_type"), "race"
    )
    end = known.filter(pl.col("kind") == "HOSPITAL_DISCHARGE").select(
        "hadm_id", pl.col("time").alias("discharged"), pl.col("first").alias("discharge_to")
    )
    coded_race = known.filter(pl.col("kind") == "RACE").select("hadm_id", pl.col("first").alias("race_code"))
    table = start.unique("hadm_id", keep="first").join(end.unique("hadm_id", keep="last"), on="hadm_id", how="full", coalesce=True)
    table = table.join(coded_race.unique("hadm_id", keep="first"), on="hadm_id", how="left")
    race = pl.coalesce("race", "race_code")
    groups = {text: race_group(text) for text in table.select(race)["race"].unique().drop_nulls().to_list()}
    return table.with_columns(race.replace_strict(groups, default=None, return_dtype=pl.String).alias("race")).drop("race_code")


def _people(coded: pl.DataFrame) -> pl.DataFrame:
    """subject_id, birth, death_time, sex."""
    people = coded.select(pl.col("subject_id").unique())
    for code, name in (("MEDS_BIRTH", "birth"), ("MEDS_DEATH", "death_time")):
        times = (
            coded.filter((pl.col("kind") == code) & pl.col("time").is_not_null())
            .group_by("subject_id")
            .agg(pl.col("time").min().alias(name))
        )
        people = people.join(times, on="subject_id", how="left")
    letter = pl.col("first").replace_strict({"F": "female", "M": "male"}, default=None, return_dtype=pl.String)
    sex = coded.filter(pl.col("kind") == "GENDER").select("subject_id", letter.alias("sex")).unique("subject_id", keep="first")
    return people.join(sex, on="subject_id", how="left")


def race_group(text: str) -> str:
    """asian, black, hispanic, white, other or unknown, by the prefixes of `clinical/maps/mimic_iv.yaml`."""
    upper = text.strip().upper()
    return next((group for group, prefixes in _races().items() if upper.startswith(tuple(prefixes))), "other")


@lru_cache(maxsize=1)
def _races() -> dict[str, Any]:
    return read_definitions("maps/mimic_iv.yaml")["races"]
