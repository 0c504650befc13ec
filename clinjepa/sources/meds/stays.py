"""MEDS rows of MIMIC-IV to ICU stays: admission and discharge codes, demographics, outcome (`mimic_iv.deaths`).

MEDS_DEATH is the time of a death in hospital, otherwise a date at 00:00. The outcome serves labels and stratification only.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.calendar import completed_years
from clinjepa.sources.mimic_iv.deaths import last_death, with_left_dead
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.mimic_iv.stay_facts import admissions_to_icu, describe_stays, drop_unusable, is_chronic_dialysis, one_sex, race_groups


def read_stays(rows: pl.DataFrame, splits: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """Stays (columns of STAYS_SCHEMA; height and weight still null) of a partition's MEDS rows.

    Dropped and counted: `stay_without_id`, `stay_without_beginning`, `stay_without_end`, `stay_end_before_start`, `duplicate_row` (exact
    copies of a stay). Counted and kept:
    `stay_without_admission` (no hospital admission of this id and patient), `patient_with_several_births`, `patient_with_several_deaths`,
    `admission_with_several_beginnings`, `admission_with_several_discharges` and the rules of `describe_stays`.

    Args:
        rows: The partition's rows.
        splits: subject_id, source_split.
        where: Address of the data set, for messages.
        counts: Receives the dropped rows.

    Raises:
        SourceError: One stay id has two different admissions.
    """
    prefix = pl.col("code").str.split_exact("//", 2)
    coded = rows.with_columns(prefix.struct.field("field_0").alias("kind"), prefix.struct.field("field_1").alias("first"))
    stays = drop_unusable(_boundaries(coded, where, counts), counts)
    beginnings = coded.filter(pl.col("kind") == "ICU_ADMISSION").rename({"time": "intime"})
    admissions = _admissions(coded, counts)
    known = admissions.filter(pl.col("hadm_id").is_not_null())
    strays = stays.join(known, on=["hadm_id", "subject_id"], how="anti").height
    if strays:
        counts["stay_without_admission"] += strays
    stays = stays.join(known, on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    people = _people(coded, counts)
    stays = stays.join(people, on="subject_id", how="left", maintain_order="left").join(
        splits, on="subject_id", how="left", maintain_order="left"
    )
    stays = stays.join(_dialysis(coded), on=["hadm_id", "subject_id"], how="left", maintain_order="left").with_columns(
        completed_years(pl.col("birth"), pl.col("intime")).alias("age")
    )
    return describe_stays(stays, admissions_to_icu(beginnings), admissions, counts)


def _boundaries(coded: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """stay_id, subject_id, hadm_id, intime, outtime, care_unit; one row per stay with an id and a beginning; outtime may be null."""
    columns = [pl.col("icustay_id").alias("stay_id"), *(pl.col(name) for name in ("subject_id", "hadm_id", "time", "first"))]
    inside = coded.filter(
        pl.col("kind").is_in(["ICU_ADMISSION", "ICU_DISCHARGE"]) & pl.col("icustay_id").is_not_null() & pl.col("time").is_not_null()
    )
    admitted = coded.filter(pl.col("kind") == "ICU_ADMISSION")
    for rule, lacks in (
        ("stay_without_id", pl.col("icustay_id").is_null()),
        ("stay_without_beginning", pl.col("icustay_id").is_not_null() & pl.col("time").is_null()),
    ):
        number = admitted.select(lacks.sum()).item()
        if number:
            counts[rule] += number
    frames = {}
    for kind in ("ICU_ADMISSION", "ICU_DISCHARGE"):
        found = inside.filter(pl.col("kind") == kind).select(*columns)
        distinct = found.unique(maintain_order=True)
        if distinct["stay_id"].n_unique() < distinct.height:
            clashing = distinct.height - distinct["stay_id"].n_unique()
            raise SourceError(
                f"{where}/data: {clashing} ICU stay ids have two different {kind} rows; every stay needs a unique id, renumber the copies"
            )
        if distinct.height < found.height:
            counts["duplicate_row"] += found.height - distinct.height
        frames[kind] = distinct
    ends = frames["ICU_DISCHARGE"].select("stay_id", "subject_id", pl.col("time").alias("outtime"))
    return (
        frames["ICU_ADMISSION"]
        .rename({"time": "intime", "first": "care_unit"})
        .join(ends, on=["stay_id", "subject_id"], how="left", maintain_order="left")
    )


def _admissions(coded: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """hadm_id, subject_id, admitted, admission_type, race, discharged, left_dead, discharge_fault; no order of rows matters.

    Of several beginnings the first in time is taken, counted as `admission_with_several_beginnings`; of discharges see `_discharges`.
    """
    known, ids = coded.filter(pl.col("hadm_id").is_not_null()), ["hadm_id", "subject_id"]
    start = known.filter(pl.col("kind") == "HOSPITAL_ADMISSION").select(
        *ids, pl.col("time").alias("admitted"), pl.col("first").alias("admission_type"), "race"
    )
    _count_several(start, "admitted", "admission_with_several_beginnings", counts)
    start = start.sort("admitted", "admission_type", "race", nulls_last=True)
    coded_race = known.filter(pl.col("kind") == "RACE").select(*ids, "time", pl.col("first").alias("race_code"))
    coded_race = coded_race.sort("time", "race_code", nulls_last=True).drop("time")
    table = start.unique(ids, keep="first", maintain_order=True).join(_discharges(known, counts), on=ids, how="full", coalesce=True)
    table = table.join(coded_race.unique(ids, keep="first", maintain_order=True), on=ids, how="left")
    races = race_groups(table.select(pl.coalesce("race", "race_code").alias("race"))["race"])
    table = with_left_dead(table.with_columns(races).drop("race_code"))
    contradicts = pl.col("contradicts").fill_null(False)
    return table.with_columns(
        pl.when(~contradicts).then(pl.col("left_dead")).alias("left_dead"),
        pl.when(contradicts).then(pl.lit("contradicting_discharge")).otherwise(pl.col("discharge_fault")).alias("discharge_fault"),
    ).drop("contradicts")


def _discharges(known: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """hadm_id, subject_id, discharged, place, flag (null), contradicts; one row per admission with a discharge, in any order of the rows.

    A place that says death decides over one that says nothing or is unreadable, an unreadable one over one that says life. Places of
    death and of life contradict each other. `discharged` is the last time of the rows that decide, a death being theirs alone.

    Args:
        known: Coded rows with a hadm_id.
        counts: Receives `admission_with_several_discharges`: admissions with discharges at different times.
    """
    places, word, ids = mimic_map()["discharges"], pl.col("place").str.strip_chars().str.to_uppercase(), ["hadm_id", "subject_id"]
    died, alive = word.is_in(places["died"]).fill_null(False), word.is_in(places["alive"]).fill_null(False)
    rank = pl.when(died).then(pl.lit(3)).when(alive).then(pl.lit(1)).when(word.is_in(places["unknown"]).fill_null(True)).then(pl.lit(0))
    rows = known.filter(pl.col("kind") == "HOSPITAL_DISCHARGE").select(
        *ids, pl.col("time").alias("discharged"), pl.col("first").alias("place")
    )
    _count_several(rows, "discharged", "admission_with_several_discharges", counts)
    rows = rows.with_columns(died.alias("died"), alive.alias("alive"), rank.otherwise(pl.lit(2)).alias("rank")).sort("rank", "place")
    both, deaths = pl.col("died").any() & pl.col("alive").any(), pl.col("discharged").filter(pl.col("died")).max()
    return rows.group_by(ids, maintain_order=True).agg(
        pl.coalesce(pl.when(~both).then(deaths), pl.col("discharged").max()).alias("discharged"),
        pl.col("place").last(),
        pl.lit(None, pl.Int64).alias("flag"),
        both.alias("contradicts"),
    )


def _count_several(rows: pl.DataFrame, time: str, rule: str, counts: Counter[str]) -> None:
    """Count under `rule` the admissions that have several different times in the column `time`."""
    times = rows.drop_nulls(time).group_by("hadm_id", "subject_id").agg(pl.col(time).n_unique())
    if several := times.select((pl.col(time) > 1).sum()).item():
        counts[rule] += several


def _dialysis(coded: pl.DataFrame) -> pl.DataFrame:
    """hadm_id, subject_id, chronic_dialysis (from the diagnosis codes of the hospitalisation). For labels; the codes are in no text."""
    diagnoses = coded.filter((pl.col("kind") == "DIAGNOSIS") & pl.col("hadm_id").is_not_null())
    parts = pl.col("code").str.split_exact("//", 3)  # DIAGNOSIS//ICD//version//code
    version, code = parts.struct.field("field_2"), parts.struct.field("field_3")
    return diagnoses.group_by("hadm_id", "subject_id").agg(is_chronic_dialysis(version, code).any().alias("chronic_dialysis"))


def _people(coded: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """subject_id, birth, death_time (as recorded), sex_code. Of several births the first is taken, of several deaths the last."""
    people = coded.select(pl.col("subject_id").unique())
    time = pl.col("time")
    kinds = (("MEDS_BIRTH", "birth", "births", time.min()), ("MEDS_DEATH", "death_time", "deaths", last_death(time)))
    for code, name, plural, chosen in kinds:
        of_code = coded.filter((pl.col("kind") == code) & pl.col("time").is_not_null()).group_by("subject_id")
        times = of_code.agg(chosen.alias(name), time.n_unique().alias("number"))
        if several := times.select((pl.col("number") > 1).sum()).item():
            counts[f"patient_with_several_{plural}"] += several
        times = times.drop("number")
        people = people.join(times, on="subject_id", how="left")
    said = coded.filter(pl.col("kind") == "GENDER").drop_nulls("first").group_by("subject_id")
    sex = one_sex(said.agg(pl.col("first").first().alias("sex_code"), pl.col("first").n_unique().alias("number")), counts)
    return people.join(sex, on="subject_id", how="left")
