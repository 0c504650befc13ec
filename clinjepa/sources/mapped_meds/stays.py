"""Rows of structure to the stays of a bucket of patients: hospitalisation, age, sex, race, outcome (`mimic_iv.deaths`)."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Mapping
from typing import Literal

import polars as pl

from clinjepa.clinical.code_maps import CodeMap
from clinjepa.sources.calendar import completed_years
from clinjepa.sources.mapped_meds.structure import made_ids, of_kind, with_end
from clinjepa.sources.mimic_iv.deaths import last_death, with_left_dead
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.mimic_iv.stay_facts import admissions_to_icu, describe_stays, is_chronic_dialysis, one_sex, race_groups

_SEX_CODES = {"female": "F", "male": "M"}
_BEFORE_ALL = datetime.datetime(1, 1, 1)
"""Time of rows without one: MEDS writes facts that do not change without a time."""


def read_stays(
    stays: pl.DataFrame, structure: pl.DataFrame, splits: pl.DataFrame, code_map: CodeMap, counts: Counter[str], has_hospitalizations: bool
) -> pl.DataFrame:
    """Stays in the columns of STAYS_SCHEMA; height and weight are still null.

    Args:
        stays: Stays of the bucket's patients, from `structure.icu_stays`, each with an outtime.
        structure: Rows of structure of these patients.
        splits: subject_id, source_split.
        code_map: The map.
        counts: Receives `stay_without_admission` (kept), `patient_with_several_births`, `patient_with_several_deaths` and the rules of
            `describe_stays`.
        has_hospitalizations: Whether the data set has hospitalisations at all; `stay_without_admission` is counted only then.
    """
    admissions = _admissions(structure, code_map)
    stays = _named_admission(stays, admissions).sort("stay_id")
    strays = stays.join(admissions, on=["hadm_id", "subject_id"], how="anti").height
    if has_hospitalizations and strays:
        counts["stay_without_admission"] += strays
    stays = stays.join(admissions, on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    stays = stays.join(_people(structure, code_map, counts), on="subject_id", how="left", maintain_order="left")
    stays = stays.join(splits, on="subject_id", how="left", maintain_order="left")
    stays = stays.join(_dialysis(structure), on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    kinds = _said_of_stays(stays, of_kind(structure, "hospitalizations.admission_type"), {}, "admission_type", "backward")
    races = _said_of_stays(stays, structure.filter(pl.col("kind") == "people.race"), code_map.words["races"], "race_word", "nearest")
    stays = stays.join(kinds, on="stay_id", how="left", maintain_order="left").join(races, on="stay_id", how="left", maintain_order="left")
    known_groups = list(mimic_map()["races"]) + ["other", "unknown"]
    named = pl.col("race_word").is_in(known_groups)
    stays = stays.with_columns(race_groups(stays["race_word"]).alias("race_group"))
    stays = stays.with_columns(pl.when(named).then("race_word").otherwise("race_group").alias("race")).drop("race_word", "race_group")
    begins = of_kind(structure, "stays.begin").select(
        "subject_id", pl.col("hospitalization").alias("hadm_id"), pl.col("time").alias("intime")
    )
    entered = admissions_to_icu(_named_admission(begins, admissions))
    return describe_stays(_with_age(stays, structure), entered, admissions, counts)


def _admissions(structure: pl.DataFrame, code_map: CodeMap) -> pl.DataFrame:
    """hadm_id, subject_id, admitted, discharged, left_dead, discharge_fault; of equal ids the first beginning and the last end.

    Where none of a patient's hospitalisations has an id, they are paired by time. This is decided by patient, so that the result does not
    depend on the partition.
    """
    begins, ends = of_kind(structure, "hospitalizations.begin"), of_kind(structure, "hospitalizations.end")
    ids, named = ["hospitalization", "subject_id"], _has_ids(structure)
    first = begins.filter(named).drop_nulls("hospitalization").unique(ids, keep="first", maintain_order=True)
    last = ends.drop_nulls("hospitalization").unique(ids, keep="last", maintain_order=True)
    by_id = first.select(*ids, pl.col("time").alias("begin")).join(
        last.select(*ids, pl.col("time").alias("end")), on=ids, how="left", maintain_order="left"
    )
    unnamed = begins.filter(~named).unique(["subject_id", "time"], keep="first", maintain_order=True)
    unnamed = unnamed.with_columns(made_ids(unnamed, "hospitalisations").alias("hospitalization"))
    by_time = with_end(unnamed.select(*ids, pl.col("time").alias("begin")), ends)
    table = pl.concat([by_id, by_time.select(by_id.columns)])
    words = ends.select("subject_id", pl.col("time").alias("end"), _place(code_map).alias("place"))
    said = words.unique(["subject_id", "end"], keep="last", maintain_order=True)
    table = table.join(said, on=["subject_id", "end"], how="left", maintain_order="left")
    table = table.join(_flags(structure, table), on=ids, how="left", maintain_order="left")
    return with_left_dead(table.rename({"hospitalization": "hadm_id", "begin": "admitted", "end": "discharged"}))


def _place(code_map: CodeMap) -> pl.Expr:
    """The word of a discharge: one of MIMIC-IV's for words of the map, else the text behind the code or in the row."""
    words = {word: mimic_map()["discharges"][meaning][0] for word, meaning in code_map.words["places"].items()}  # type: ignore[index]
    known = [
        pl.col(name).str.strip_chars().str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.String)
        for name in ("text_value", "rest")
    ]
    return pl.coalesce(*known, "rest", "text_value")


def _flags(structure: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """hospitalization, subject_id, flag: what rows of `hospitalizations.died` say of it.

    A row is of the hospitalisation that it names, with any time or none, else of the one in which it lies. 1 counts at any time; 0 before
    the end does not say how it ended. A number without a meaning decides over both.

    Args:
        structure: Rows of structure.
        table: The hospitalisations: hospitalization, subject_id, begin, end.
    """
    ids, time, end = ["hospitalization", "subject_id"], pl.col("time"), pl.col("end")
    flag = pl.col("numeric_value").cast(pl.Int64, strict=False).alias("flag")
    said = structure.filter(pl.col("kind") == "hospitalizations.died").select(*ids, "time", "row", flag).drop_nulls("flag")
    named = said.filter(pl.col("hospitalization").is_not_null() & _has_ids(structure))
    by_id = named.join(table, on=ids)
    rest = said.join(named, on="row", how="anti").drop("hospitalization")
    inside = rest.join(table, on="subject_id").filter(time.is_between("begin", end) | (end.is_null() & (time >= pl.col("begin"))))
    at_end = (time == end).fill_null(False)
    by_time = inside.filter(at_end | ~at_end.any().over("row"))  # a row at the end of one and the beginning of the next is of the first
    columns = [*ids, "time", "end", "flag"]
    found = pl.concat([by_id.select(columns), by_time.select(columns)])
    told = found.filter((pl.col("flag") != 0) | time.is_null() | (time >= end).fill_null(False))
    odd = pl.col("flag").filter(~pl.col("flag").is_in([0, 1]))
    return told.group_by(ids).agg(pl.coalesce(odd.first(), pl.col("flag").max()).alias("flag"))


def _has_ids(structure: pl.DataFrame) -> pl.Expr:
    """Whether a row is of a patient with a hospitalisation that has an id."""
    named = of_kind(structure, "hospitalizations.begin").drop_nulls("hospitalization")["subject_id"].unique()
    return pl.col("subject_id").is_in(named.implode())


def _named_admission(stays: pl.DataFrame, admissions: pl.DataFrame) -> pl.DataFrame:
    """`stays` with hadm_id also where they have none: the last hospitalisation that began before the stay and had not ended."""
    known = admissions.select("subject_id", pl.col("hadm_id").alias("found"), "admitted", pl.col("discharged").alias("until"))
    near = stays.sort("intime").join_asof(
        known.sort("admitted"), left_on="intime", right_on="admitted", by="subject_id", strategy="backward", check_sortedness=False
    )
    inside = pl.col("until").is_null() | (pl.col("intime") <= pl.col("until"))
    return near.with_columns(pl.coalesce("hadm_id", pl.when(inside).then(pl.col("found"))).alias("hadm_id")).drop(
        "found", "admitted", "until"
    )


def _people(structure: pl.DataFrame, code_map: CodeMap, counts: Counter[str]) -> pl.DataFrame:
    """subject_id, birth, death_time (as recorded), sex_code. Of several births the first is taken, of several deaths the last."""
    people, time = structure.select(pl.col("subject_id").unique()), pl.col("time")
    for kind, name, plural, chosen in (
        ("people.birth", "birth", "births", time.min()),
        ("people.death", "death_time", "deaths", last_death(time)),
    ):
        times = of_kind(structure, kind).group_by("subject_id").agg(chosen.alias(name), time.n_unique().alias("number"))
        if several := times.select((pl.col("number") > 1).sum()).item():
            counts[f"patient_with_several_{plural}"] += several
        people = people.join(times.drop("number"), on="subject_id", how="left")
    sexes = structure.filter(pl.col("kind") == "people.sex").with_columns(_word(code_map.words["sexes"]).alias("said")).drop_nulls("said")
    code = pl.col("said").replace(_SEX_CODES)
    told = sexes.group_by("subject_id").agg(code.first().alias("sex_code"), code.n_unique().alias("number"))
    return people.join(one_sex(told, counts), on="subject_id", how="left")


def _word(words: Mapping[str, str]) -> pl.Expr:
    """The meaning of a row's text or of one of the parts behind its code; where none has a meaning, the text or the whole rest."""
    meaning = dict(words)
    parts = pl.col("rest").str.to_lowercase().str.split("//")
    of_parts = (
        parts.list.eval(pl.element().str.strip_chars().replace_strict(meaning, default=None, return_dtype=pl.String))
        .list.drop_nulls()
        .list.first()
    )
    of_text = pl.col("text_value").str.strip_chars().str.to_lowercase().replace_strict(meaning, default=None, return_dtype=pl.String)
    return pl.coalesce(of_text, of_parts, pl.col("text_value").str.strip_chars(), "rest")


def _said_of_stays(
    stays: pl.DataFrame, rows: pl.DataFrame, words: Mapping[str, str], name: str, strategy: Literal["backward", "nearest"]
) -> pl.DataFrame:
    """stay_id and the word of the row that has the stay's hospitalisation, else of the patient's last (or nearest) row at its beginning."""
    told = rows.with_columns(_word(words).alias(name)).drop_nulls(name)
    ids = ["subject_id", "hadm_id"]
    by_id = told.rename({"hospitalization": "hadm_id"}).drop_nulls("hadm_id").unique(ids, keep="first", maintain_order=True)
    of_admission = stays.join(by_id.select(*ids, name), on=ids).select("stay_id", name)
    near = stays.select("stay_id", "subject_id", "intime").sort("intime")
    told = told.select("subject_id", pl.col("time").fill_null(_BEFORE_ALL), name).sort("time")
    found = near.join_asof(told, left_on="intime", right_on="time", by="subject_id", strategy=strategy, check_sortedness=False)
    joined = (
        near.select("stay_id")
        .join(of_admission, on="stay_id", how="left")
        .join(found.select("stay_id", pl.col(name).alias("near")), on="stay_id", how="left")
    )
    return joined.select("stay_id", pl.coalesce(name, "near").alias(name))


def _dialysis(structure: pl.DataFrame) -> pl.DataFrame:
    """hadm_id, subject_id, chronic_dialysis, of hospitalisations with diagnoses; for labels, the codes are in no text."""
    rows = structure.filter((pl.col("kind") == "hospitalizations.diagnoses") & pl.col("hospitalization").is_not_null())
    parts = pl.col("rest").str.split("//")
    version, code = parts.list.get(0, null_on_oob=True), parts.list.get(1, null_on_oob=True)
    found = rows.group_by(pl.col("hospitalization").alias("hadm_id"), "subject_id")
    return found.agg(is_chronic_dialysis(version, code.str.replace_all(".", "", literal=True)).any().alias("chronic_dialysis"))


def _with_age(stays: pl.DataFrame, structure: pl.DataFrame) -> pl.DataFrame:
    """`stays` with age in years at their beginning: a charted age and the completed years between, else by the birth."""
    ages = of_kind(structure, "people.age").drop_nulls("numeric_value")
    ages = ages.select("subject_id", pl.col("time").alias("aged_at"), pl.col("numeric_value").floor().alias("aged")).sort("aged_at")
    near = stays.sort("intime").join_asof(
        ages, left_on="intime", right_on="aged_at", by="subject_id", strategy="nearest", check_sortedness=False
    )
    later = pl.col("aged_at") > pl.col("intime")
    since, until = completed_years(pl.col("aged_at"), pl.col("intime")), completed_years(pl.col("intime"), pl.col("aged_at"))
    charted = pl.col("aged") + pl.when(later).then(-until).otherwise(since)
    age = pl.coalesce(charted, completed_years(pl.col("birth"), pl.col("intime")).cast(pl.Float64)).alias("age")
    return near.with_columns(age).drop("aged", "aged_at").sort("stay_id")
