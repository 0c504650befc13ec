"""CLIF's patient, hospitalization and adt to ICU stays.

An ICU stay is a run of `icu` locations of one hospitalisation without a gap between them. CLIF has no id of a stay: it is the
hospitalisation's number with two digits for the stay's place in it, or a hash where ids are no numbers. The outcome follows the rules of
`mimic_iv.deaths` and serves labels and stratification only.
"""

from __future__ import annotations

from collections import Counter

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.calendar import is_date_only
from clinjepa.sources.clif.clocks import civil, days_on_clock, on_clock, shifted
from clinjepa.sources.clif.tables import category, clif_map, number_ids
from clinjepa.sources.mimic_iv.deaths import last_death, with_left_dead
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.mimic_iv.stay_facts import admissions_to_icu, describe_stays, drop_unusable, is_chronic_dialysis, one_sex

_MOST_STAYS = 99
"""ICU stays of one hospitalisation."""
_LARGEST_NUMBER = 10**15
_SEX_CODES = {"female": "F", "male": "M"}


def numbered_hospitalizations(table: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """Hospitalisations with hadm_id and subject_id, each once.

    Args:
        table: The table hospitalization.
        where: Address of its file, for messages.
        counts: Receives `duplicate_row` and `stay_without_admission` (rows without an id).

    Raises:
        SourceError: One id has two different rows.
    """
    usable = table.drop_nulls(["hospitalization_id", "patient_id"])
    if usable.height < table.height:
        counts["stay_without_admission"] += table.height - usable.height
    distinct = usable.unique(subset=[name for name in usable.columns if name != "row"], keep="first", maintain_order=True)
    if distinct.height < usable.height:
        counts["duplicate_row"] += usable.height - distinct.height
    clashing = distinct["hospitalization_id"].is_duplicated().sum()
    if clashing:
        raise SourceError(f"{where}: {clashing} rows share their 'hospitalization_id' with a different row; keep the right one of them")
    patients = distinct["patient_id"].unique(maintain_order=True)
    subjects = pl.DataFrame([patients, number_ids(patients, where).rename("subject_id")])
    hadm = number_ids(distinct["hospitalization_id"], where).rename("hadm_id")
    return distinct.with_columns(hadm).join(subjects, on="patient_id", how="left", maintain_order="left")


def icu_stays(adt: pl.DataFrame, hospitalizations: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """stay_id, hadm_id, subject_id, intime, outtime (UTC) and care_unit of all usable stays.

    Args:
        adt: The table adt.
        hospitalizations: Result of `numbered_hospitalizations`.
        where: Address of adt's file, for messages.
        counts: Receives `stay_without_admission`, `stay_without_beginning` and the rules of `drop_unusable`, each by location.

    Raises:
        SourceError: No location is an ICU, or a hospitalisation has more than _MOST_STAYS of them.
    """
    icu = _icu_locations(adt, hospitalizations, where, counts)
    icu = drop_unusable(icu, counts).sort("hadm_id", "intime", "outtime")
    until = pl.col("outtime").cum_max().shift(1).over("hadm_id")
    icu = icu.with_columns((until.is_null() | (pl.col("intime") > until)).cum_sum().over("hadm_id").alias("number"))
    unit = category("location_type") if "location_type" in icu.columns else pl.lit(None, pl.String)
    stays = icu.group_by("hadm_id", "number", maintain_order=True).agg(
        pl.col("hospitalization_id", "subject_id", "intime").first(), pl.col("outtime").max(), unit.first().alias("care_unit")
    )
    if stays.height and (stays["number"] > _MOST_STAYS).any():
        raise SourceError(f"{where}: a hospitalisation has more than {_MOST_STAYS} ICU stays; look at in_dttm and out_dttm")
    return stays.with_columns(_stay_ids(stays, where))


def icu_admissions(adt: pl.DataFrame, hospitalizations: pl.DataFrame, stays: pl.DataFrame, where: str) -> pl.DataFrame:
    """subject_id, hadm_id and intime (UTC) of the usable stays and of ICU locations that begin outside all of them, also unusable ones.

    Args:
        adt: The table adt.
        hospitalizations: Result of `numbered_hospitalizations`.
        stays: Result of `icu_stays`.
        where: Address of adt's file, for messages.
    """
    icu = _icu_locations(adt, hospitalizations, where, Counter()).select("subject_id", "hadm_id", "intime")
    spans = stays.select("hadm_id", pl.col("intime").alias("begin"), "outtime")
    inside = icu.join(spans, on="hadm_id").filter(pl.col("intime").is_between("begin", "outtime"))
    return admissions_to_icu(stays, icu.join(inside, on=["hadm_id", "intime"], how="anti", maintain_order="left"))


def _icu_locations(adt: pl.DataFrame, hospitalizations: pl.DataFrame, where: str, counts: Counter[str]) -> pl.DataFrame:
    """ICU locations with hadm_id, subject_id, intime and outtime (may be null); see `icu_stays` for the counts and the error."""
    adt = adt.sort("hospitalization_id", "in_dttm", nulls_last=True)  # an open location ends where the next one begins
    adt = adt.with_columns(pl.coalesce("out_dttm", pl.col("in_dttm").shift(-1).over("hospitalization_id")).alias("out_dttm"))
    icu = adt.filter(category("location_category").is_in(clif_map()["icu"]))
    if not icu.height:
        raise SourceError(f"{where}: no row has location_category 'icu' ({adt.height} rows); CLIF names intensive care units so")
    ids = hospitalizations.select("hospitalization_id", "hadm_id", "subject_id")
    icu = icu.join(ids, on="hospitalization_id", how="left", maintain_order="left")
    for rule, column in (("stay_without_admission", "hadm_id"), ("stay_without_beginning", "in_dttm")):
        kept = icu.drop_nulls(column)
        if kept.height < icu.height:
            counts[rule] += icu.height - kept.height
        icu = kept
    return icu.rename({"in_dttm": "intime", "out_dttm": "outtime"})


def read_stays(
    stays: pl.DataFrame, entered: pl.DataFrame, tables: dict[str, pl.DataFrame], zone: str, counts: Counter[str]
) -> pl.DataFrame:
    """Stays in the columns of STAYS_SCHEMA, on the clocks of their hospitalisations; height and weight are still null.

    The times of a patient are compared on one clock, and then brought to that of each stay (`clocks`).

    Args:
        stays: All usable stays of a bucket's patients, from `icu_stays`, with the columns of `clocks.with_offsets`.
        entered: Result of `icu_admissions`, of any patients.
        tables: The bucket's rows of patient, hospitalization and, if present, hospital_diagnosis.
        zone: Name of the hospital's zone.
        counts: Receives `stay_without_patient` (kept, with nulls), `patient_with_several_deaths`, `patient_with_several_races`,
            `unknown_race` and the rules of `describe_stays`.
    """
    offsets = stays.select("subject_id", "patient_offset").unique()
    of_patient = {
        name: tables[name].join(offsets, on="subject_id", how="inner", maintain_order="left") for name in ("patient", "hospitalization")
    }
    people, admissions = _people(of_patient["patient"], zone, counts), _admissions(of_patient["hospitalization"], zone)
    people = days_on_clock(people, _seen(stays, of_patient["hospitalization"], zone))
    strays = stays.join(people, on="subject_id", how="anti").height
    if strays:
        counts["stay_without_patient"] += strays
    to_own_clock = stays.select("stay_id", (pl.col("offset") - pl.col("patient_offset")).alias("ahead"))
    stays = shifted(stays, pl.col("patient_offset")).drop("offset", "patient_offset")
    stays = stays.join(people, on="subject_id", how="left", maintain_order="left")
    stays = stays.join(admissions, on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    stays = stays.join(_dialysis(tables.get("hospital_diagnosis")), on=["hadm_id", "subject_id"], how="left", maintain_order="left")
    entered = shifted(entered.join(offsets, on="subject_id", how="inner", maintain_order="left"), pl.col("patient_offset"))
    stays = stays.with_columns(pl.lit(None, pl.String).alias("source_split"))
    described = describe_stays(stays, admissions_to_icu(entered), admissions, counts)
    return _on_own_clocks(described, to_own_clock)


def _seen(stays: pl.DataFrame, hospitalizations: pl.DataFrame, zone: str) -> pl.DataFrame:
    """subject_id, civil and clock of `days_on_clock`: ICU and hospital admissions and discharges that are instants.

    stays: with times in UTC and patient_offset. hospitalizations: with patient_offset.
    """
    found = []
    for table, names in ((stays, ("intime", "outtime")), (hospitalizations, ("admission_dttm", "discharge_dttm"))):
        for name in names:
            dtype = table.schema[name]
            if table is stays or (isinstance(dtype, pl.Datetime) and dtype.time_zone is not None):
                time = pl.col(name).dt.replace_time_zone("UTC")
                there = table.select(
                    "subject_id",
                    civil(time, zone).alias("civil"),
                    (pl.col(name).dt.replace_time_zone(None) + pl.col("patient_offset")).alias("clock"),
                )
                found.append(there.filter(~is_date_only(pl.col("civil"))))
    return pl.concat(found)


def _on_own_clocks(stays: pl.DataFrame, to_own_clock: pl.DataFrame) -> pl.DataFrame:
    """Described stays with their times on their own clocks; dates without a time stay. to_own_clock: stay_id, ahead."""
    moved = stays.join(to_own_clock, on="stay_id", how="left", maintain_order="left")
    of_stay = ["intime", "outtime", "next_icu_admission_time"]
    moved = moved.with_columns(shifted(moved.select("ahead", *of_stay), pl.col("ahead")).drop("ahead"))
    rest = [name for name in stays.columns if name not in of_stay]
    return moved.with_columns(shifted(moved.select("ahead", *rest), pl.col("ahead"), keep_dates=True).drop("ahead")).drop("ahead")


def _stay_ids(stays: pl.DataFrame, where: str) -> pl.Series:
    by_number = stays.select(pl.col("hadm_id") * (_MOST_STAYS + 1) + pl.col("number").cast(pl.Int64)).to_series()
    if not stays.height or stays["hadm_id"].max() < _LARGEST_NUMBER:  # type: ignore[operator]
        return by_number.rename("stay_id")
    words = stays.select(pl.format("{}/{}", "hospitalization_id", "number").alias("stay_id")).to_series()
    return number_ids(words, where)


def _people(patients: pl.DataFrame, zone: str, counts: Counter[str]) -> pl.DataFrame:
    """subject_id, sex_code, race, death_time; one row per patient.

    A word for unknown says nothing beside another one. The sex of a patient with two is unknown (`one_sex`); of several races the first is
    taken, of several deaths the last (`last_death`). All of these are counted.
    """
    known = clif_map()
    hispanic = (category("ethnicity_category") == known["hispanic"]).fill_null(False)
    race = category("race_category").replace_strict(known["races"], default=None, return_dtype=pl.String)
    sex = category("sex_category")
    rows = patients.with_columns(
        pl.when(sex != "unknown")
        .then(pl.coalesce(sex.replace_strict(_SEX_CODES, default=None, return_dtype=pl.String), sex))
        .alias("sex_code"),
        pl.when(hispanic).then(pl.lit("hispanic")).otherwise(race).alias("race"),
        (pl.col("race_category").is_not_null() & race.is_null()).alias("other_race"),
        on_clock(patients, "death_dttm", "patient_offset", zone).alias("death"),
    )
    named = pl.col("race").filter(pl.col("race") != "unknown")
    people = rows.group_by("subject_id", maintain_order=True).agg(
        pl.col("sex_code").drop_nulls().first(),
        pl.coalesce(named.first(), pl.col("race").drop_nulls().first()),
        last_death(pl.col("death")).alias("death_time"),
        pl.col("sex_code").drop_nulls().n_unique().alias("number"),
        named.drop_nulls().n_unique().alias("races"),
        pl.col("death").drop_nulls().n_unique().alias("deaths"),
        pl.col("other_race").any(),
    )
    for rule, fault in (
        ("patient_with_several_races", pl.col("races") > 1),
        ("patient_with_several_deaths", pl.col("deaths") > 1),
        ("unknown_race", pl.col("other_race")),
    ):
        if number := people.select(fault.sum()).item():
            counts[rule] += number
    return one_sex(people.drop("races", "deaths", "other_race"), counts)


def _admissions(hospitalizations: pl.DataFrame, zone: str) -> pl.DataFrame:
    """hadm_id, subject_id, age, admission_type, admitted, discharged, left_dead, discharge_fault."""
    places = {
        word: mimic_map()["discharges"][group][0] for group in ("died", "alive", "unknown") for word in clif_map()["discharges"][group]
    }
    word = category("discharge_category").fill_null("")
    table = hospitalizations.unique("hospitalization_id", keep="first", maintain_order=True).select(
        "hadm_id",
        "subject_id",
        pl.col("age_at_admission").alias("age"),
        category("admission_type_category").alias("admission_type"),
        on_clock(hospitalizations, "admission_dttm", "patient_offset", zone).alias("admitted"),
        on_clock(hospitalizations, "discharge_dttm", "patient_offset", zone).alias("discharged"),
        word.replace(places).alias("place"),
        pl.lit(None, pl.Int64).alias("flag"),
    )
    return with_left_dead(table)


def _dialysis(diagnoses: pl.DataFrame | None) -> pl.DataFrame:
    """hadm_id, subject_id, chronic_dialysis; empty without the table."""
    if diagnoses is None:
        return pl.DataFrame(schema={"hadm_id": pl.Int64, "subject_id": pl.Int64, "chronic_dialysis": pl.Boolean})
    version = category("diagnosis_code_format").str.extract(r"(\d+)").cast(pl.Int64)
    code = is_chronic_dialysis(version, pl.col("diagnosis_code").str.replace_all(".", "", literal=True))
    return diagnoses.group_by("hadm_id", "subject_id").agg(code.any().alias("chronic_dialysis"))
