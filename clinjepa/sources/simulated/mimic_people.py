"""Simulated stays to the tables about patients and places: patients, admissions, transfers, diagnoses_icd, icustays.

MIMIC-IV gives the age as `anchor_age` in `anchor_year` (91 for ages above 89); here the anchor is the first ICU stay.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import polars as pl

from clinjepa.sources.simulated.mimic_filler import table_definitions
from clinjepa.sources.simulated.source import SimulatedStay

Row = dict[str, object]
"""A row of a table: column -> value."""

_BEFORE_ICU = datetime.timedelta(hours=5)
_AFTER_ICU = datetime.timedelta(hours=30)


def outtime(stay: SimulatedStay) -> datetime.datetime:
    """End of the stay."""
    return stay.intime + datetime.timedelta(hours=stay.course.length_hours)


def admission_span(stays: Sequence[SimulatedStay]) -> tuple[datetime.datetime, datetime.datetime]:
    """Admission and discharge (or death) of the hospital admission that contains these stays."""
    return stays[0].intime - _BEFORE_ICU, stays[0].death_time or outtime(stays[-1]) + _AFTER_ICU


def stay_facts(stays: Sequence[SimulatedStay]) -> pl.DataFrame:
    """stay_id, subject_id, hadm_id, intime, weight_kg, height_cm, arterial (has an arterial line), one row per stay."""
    lines = [
        (
            stay.stay_id,
            stay.subject_id,
            stay.hadm_id,
            stay.intime,
            stay.patient.weight_kg,
            stay.patient.height_cm,
            any(given.variable in ("norepinephrine", "invasive_ventilation") for given in stay.course.given),
        )
        for stay in stays
    ]
    types = {"stay_id": pl.Int64(), "subject_id": pl.Int64(), "hadm_id": pl.Int64(), "intime": pl.Datetime("us")}
    types |= {"weight_kg": pl.Float64(), "height_cm": pl.Float64(), "arterial": pl.Boolean()}
    return pl.DataFrame(lines, schema=types, orient="row")


def people_tables(stays: Sequence[SimulatedStay]) -> dict[str, pl.DataFrame]:
    """patients, admissions, transfers, diagnoses_icd and icustays."""
    definitions = table_definitions()
    words = definitions["words"]
    patients: list[Row] = []
    admissions: list[Row] = []
    transfers: list[Row] = []
    diagnoses: list[Row] = []
    by_patient: dict[int, list[SimulatedStay]] = {}
    for stay in stays:
        by_patient.setdefault(stay.subject_id, []).append(stay)
    for subject_id, mine in by_patient.items():
        patients.append(_patient(mine))
        codes = [code for name, code in definitions["diagnoses"].items() if getattr(mine[0].patient, name)]
        for hadm_id in dict.fromkeys(stay.hadm_id for stay in mine):
            inside = [stay for stay in mine if stay.hadm_id == hadm_id]
            admissions.append(_admission(inside))
            for number, code in enumerate([*codes, *definitions["other_diagnoses"]], 1):
                diagnoses.append({"subject_id": subject_id, "hadm_id": hadm_id, "seq_num": number, "icd_code": code, "icd_version": 10})
            transfers += [
                {
                    "subject_id": subject_id,
                    "hadm_id": hadm_id,
                    "transfer_id": stay.stay_id,
                    "eventtype": "transfer",
                    "careunit": words["care_unit"][stay.care_unit],
                    "intime": stay.intime,
                    "outtime": outtime(stay),
                }
                for stay in inside
            ]
    lists = {"hosp/patients": patients, "hosp/admissions": admissions, "hosp/transfers": transfers, "hosp/diagnoses_icd": diagnoses}
    tables = {name: pl.DataFrame(rows, infer_schema_length=None) for name, rows in lists.items()}
    return tables | {"icu/icustays": _icustays(stays)}


def _patient(stays: Sequence[SimulatedStay]) -> Row:
    """The row of `patients` for all stays of a patient."""
    first, age = stays[0], int(stays[0].age_years)
    return {
        "subject_id": first.subject_id,
        "gender": "F" if first.patient.female else "M",
        "anchor_age": 91 if age > 89 else age,
        "anchor_year": first.intime.year,
        "anchor_year_group": "2014 - 2016",
        "dod": next((stay.death_time.date() for stay in stays if stay.death_time), None),
    }


def _admission(stays: Sequence[SimulatedStay]) -> Row:
    """The row of `admissions` for the stays of a hospital admission."""
    first, (admitted, discharged) = stays[0], admission_span(stays)
    death = first.death_time
    return {
        "subject_id": first.subject_id,
        "hadm_id": first.hadm_id,
        "admittime": admitted,
        "dischtime": discharged,
        "deathtime": death,
        "admission_type": "EW EMER.",
        "admission_location": "EMERGENCY ROOM",
        "discharge_location": "DIED" if death else "HOME",
        "insurance": "Other",
        "language": "ENGLISH",
        "race": table_definitions()["words"]["race"][first.patient.race],
        "hospital_expire_flag": int(death is not None),
    }


def _icustays(stays: Sequence[SimulatedStay]) -> pl.DataFrame:
    units = table_definitions()["words"]["care_unit"]
    rows = [
        {
            "subject_id": stay.subject_id,
            "hadm_id": stay.hadm_id,
            "stay_id": stay.stay_id,
            "first_careunit": units[stay.care_unit],
            "last_careunit": units[stay.care_unit],
            "intime": stay.intime,
            "outtime": outtime(stay),
            "los": stay.course.length_hours / 24,
        }
        for stay in stays
    ]
    return pl.DataFrame(rows, infer_schema_length=None)
