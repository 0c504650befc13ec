"""Tables icustays, patients, admissions and diagnoses_icd of MIMIC-IV to ICU stays.

Age is anchor_age + year of ICU admission - anchor_year. The death is that of an admission, otherwise the date of death (`deaths`).
Diagnoses are used for `chronic_dialysis` only, a label.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.mimic_iv.deaths import last_death, with_left_dead
from clinjepa.sources.mimic_iv.stay_facts import admissions_to_icu, describe_stays, drop_unusable, is_chronic_dialysis, race_groups


def usable_stays(icustays: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """Rows of icustays with an id, a patient and an end after the start, each stay once.

    Args:
        icustays: The table, with `row`.
        where: Address of its file, for messages.
        counts: Receives `duplicate_row`, `stay_without_id`, `stay_without_beginning` and the rules of `drop_unusable`.

    Raises:
        SourceError: One stay id has two different rows.
    """
    for rule, columns in (("stay_without_id", ["stay_id", "subject_id"]), ("stay_without_beginning", ["intime"])):
        kept = icustays.drop_nulls(columns)
        if kept.height < icustays.height:
            counts[rule] += icustays.height - kept.height
        icustays = kept
    return drop_unusable(_distinct(icustays, "stay_id", where, counts), counts)


def read_stays(tables: dict[str, pl.DataFrame], where: dict[str, str], counts: Counter[str]) -> pl.DataFrame:
    """Stays (STAYS_SCHEMA; height and weight still null) of a bucket of patients.

    Args:
        tables: icustays, patients, admissions and, if present, diagnoses_icd.
        where: Table -> address of its file, for messages.
        counts: Receives the rules of `usable_stays`, and `stay_without_patient`, `stay_without_admission` (both are kept, with nulls)
            and the rules of `describe_stays`.
    """
    stays = usable_stays(tables["icustays"], where["icustays"], counts).rename({"first_careunit": "care_unit"})
    people = _distinct(tables["patients"].drop_nulls("subject_id"), "subject_id", where["patients"], counts)
    admissions = _distinct(tables["admissions"].drop_nulls("hadm_id"), "hadm_id", where["admissions"], counts)
    names = {"admittime": "admitted", "dischtime": "discharged", "discharge_location": "place", "hospital_expire_flag": "flag"}
    admissions = with_left_dead(admissions.rename(names).with_columns(race_groups(admissions["race"])))
    died_at = admissions.group_by("subject_id").agg(last_death(pl.col("deathtime")))
    people = people.join(died_at, on="subject_id", how="left").select(
        "subject_id",
        pl.col("gender").alias("sex_code"),
        "anchor_age",
        "anchor_year",
        pl.coalesce("deathtime", "dod").alias("death_time"),
    )
    place = ["hadm_id", "subject_id"]
    for rule, key, table in (("stay_without_patient", ["subject_id"], people), ("stay_without_admission", place, admissions)):
        strays = stays.join(table, on=key, how="anti").height
        if strays:
            counts[rule] += strays
    stays = stays.join(people, on="subject_id", how="left", maintain_order="left")
    stays = stays.join(admissions.drop("row"), on=place, how="left", maintain_order="left")
    stays = stays.join(_dialysis(tables.get("diagnoses_icd")), on=place, how="left", maintain_order="left")
    stays = stays.with_columns(
        (pl.col("anchor_age") + pl.col("intime").dt.year() - pl.col("anchor_year")).alias("age"),
        pl.lit(None, pl.String).alias("source_split"),
    )
    return describe_stays(stays, admissions_to_icu(tables["icustays"]), admissions, counts)


def _dialysis(diagnoses: pl.DataFrame | None) -> pl.DataFrame:
    """hadm_id, subject_id, chronic_dialysis; empty without the table."""
    if diagnoses is None:
        return pl.DataFrame(schema={"hadm_id": pl.Int64, "subject_id": pl.Int64, "chronic_dialysis": pl.Boolean})
    code = is_chronic_dialysis(pl.col("icd_version"), pl.col("icd_code"))
    return diagnoses.drop_nulls("hadm_id").group_by("hadm_id", "subject_id").agg(code.any().alias("chronic_dialysis"))


def _distinct(rows: pl.DataFrame, key: str, where: str, counts: Counter[str]) -> pl.DataFrame:
    """One row per key: exact copies are dropped and counted, different rows with one key raise SourceError."""
    distinct = rows.unique(subset=[name for name in rows.columns if name != "row"], keep="first", maintain_order=True)
    if distinct.height < rows.height:
        counts["duplicate_row"] += rows.height - distinct.height
    clashing = distinct.filter(pl.col(key).is_duplicated())
    if clashing.height:
        raise SourceError(
            f"{where}, row {clashing['row'][1] + 2}: column {key!r} repeats an id with different content "
            f"({clashing[key].n_unique()} such ids); keep the right one of them"
        )
    return distinct
