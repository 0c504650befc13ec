"""A small CLIF folder: two patients, three hospitalisations, written table by table so that a test can change any of them."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables, open_source
from clinjepa.sources.extraction import extract_all, read_partition
from clinjepa.storage import Folder

UTC = datetime.UTC
DAY = datetime.datetime(2021, 6, 1, tzinfo=UTC)
Rows = list[dict[str, Any]]


def at(hours: float) -> datetime.datetime:
    """A time in UTC, so many hours after 1 June 2021."""
    return DAY + datetime.timedelta(hours=hours)


def tables() -> dict[str, Rows]:
    """Patient A: hospitalisation 7 with an ICU stay in two units (hours 10 to 60) and another one (70 to 80), 8 without. Patient B: 9."""
    return {
        "patient": [
            {"patient_id": "A", "sex_category": "Female", "race_category": "White", "ethnicity_category": "Hispanic", "death_dttm": None},
            {
                "patient_id": "B",
                "sex_category": "Male",
                "race_category": "Asian",
                "ethnicity_category": "Non-Hispanic",
                "death_dttm": at(40),
            },
        ],
        "hospitalization": [
            stay("A", "7", 5, 90, "Home"),
            stay("A", "8", 200, 220, "Home"),
            stay("B", "9", 0, 41, "Expired"),
        ],
        "adt": [
            place("7", 5, 10, "ed"),
            place("7", 10, 30, "icu", "medical_icu"),
            place("7", 30, 60, "icu", "surgical_icu"),
            place("7", 60, 70, "procedural"),
            place("7", 70, 80, "icu", "surgical_icu"),
            place("8", 200, 220, "ward"),
            place("9", 1, 40.5, "ICU", "cardiac_icu"),
        ],
        "vitals": [
            vital("7", 11, "heart_rate", 80.0),
            vital("7", 12, "temp_c", 37.2),
            vital("7", 12, "weight_kg", 70.0),
            vital("7", 13, "height_cm", 170.0),
            vital("7", 75, "heart_rate", 95.0),
            vital("7", 13, "bladder_scan", 1.0),
            vital("8", 201, "heart_rate", 70.0),
            vital("9", 2, "map", 66.0),
        ],
        "labs": [
            lab("7", 11, "lactate", 2.5, "mmol/L"),
            lab("7", 11, "creatinine", 88.4, "umol/L"),
            lab("9", 3, "platelet_count", 210.0, "10*3/uL"),
        ],
        "medication_admin_continuous": [
            drip("7", 14, "norepinephrine", 0.1, "mcg/kg/min", "start"),
            drip("7", 16, "norepinephrine", 0.2, "mcg/kg/min", "dose_change"),
            drip("7", 18, "norepinephrine", 0.0, "mcg/kg/min", "stop"),
            drip("7", 20, "lactated_ringers_solution", 100.0, "mL/hour", "start"),
            drip("7", 22.5, "lactated_ringers_solution", None, "mL/hour", "stop"),
            drip("9", 5, "esmolol", 50.0, "mcg/kg/min", "start"),
            drip("9", 8, "esmolol", 0.0, "mcg/kg/min", "stop"),
        ],
        "medication_admin_intermittent": [
            dose("7", 15, "cefepime", 1.0, "dose", "iv"),
            dose("7", 15, "pantoprazole", 40.0, "mg", "iv"),
            dose("7", 17, "magnesium", 2.0, "grams", "iv"),
            dose("7", 16, "vancomycin", 1.0, "dose", "iv", "not given"),
        ],
        "respiratory_support": [
            {"hospitalization_id": "7", "recorded_dttm": at(12), "device_category": "IMV", "tracheostomy": False, "fio2_set": 0.4},
            {
                "hospitalization_id": "7",
                "recorded_dttm": at(20),
                "device_category": "Nasal Cannula",
                "tracheostomy": False,
                "fio2_set": None,
            },
        ],
        "patient_assessments": [
            score("7", 13, "gcs_eye", 4.0),
            score("7", 13, "RASS", -2.0),
            score("7", 13, "cam_total", None, "Positive"),
        ],
        "crrt_therapy": [{"hospitalization_id": "9", "recorded_dttm": at(6), "crrt_mode_category": "cvvhdf"}],
        "hospital_diagnosis": [{"hospitalization_id": "9", "diagnosis_code": "N18.6", "diagnosis_code_format": "ICD10CM"}],
    }


def stay(patient: str, number: str, begin: float, end: float, left: str | None) -> dict[str, Any]:
    return {
        "patient_id": patient,
        "hospitalization_id": number,
        "admission_dttm": at(begin),
        "discharge_dttm": at(end),
        "age_at_admission": 60,
        "admission_type_category": "ed",
        "discharge_category": left,
    }


def place(number: str, begin: float, end: float, location: str, unit: str | None = None) -> dict[str, Any]:
    return {"hospitalization_id": number, "in_dttm": at(begin), "out_dttm": at(end), "location_category": location, "location_type": unit}


def vital(number: str, hour: float, name: str, value: float) -> dict[str, Any]:
    return {"hospitalization_id": number, "recorded_dttm": at(hour), "vital_category": name, "vital_value": value}


def lab(number: str, hour: float, name: str, value: float | None, unit: str) -> dict[str, Any]:
    return {
        "hospitalization_id": number,
        "lab_collect_dttm": at(hour),
        "lab_result_dttm": at(hour + 1),
        "lab_category": name,
        "lab_value_numeric": value,
        "reference_unit": unit,
    }


def drip(number: str, hour: float, drug: str, value: float | None, unit: str, action: str, order: str = "o1") -> dict[str, Any]:
    return {
        "hospitalization_id": number,
        "med_order_id": order,
        "admin_dttm": at(hour),
        "med_category": drug,
        "med_dose": value,
        "med_dose_unit": unit,
        "mar_action_category": action,
    }


def dose(number: str, hour: float, drug: str, value: float, unit: str, route: str, action: str = "given") -> dict[str, Any]:
    return {
        "hospitalization_id": number,
        "admin_dttm": at(hour),
        "med_category": drug,
        "med_dose": value,
        "med_dose_unit": unit,
        "med_route_category": route,
        "mar_action_category": action,
    }


def score(number: str, hour: float, name: str, value: float | None, word: str | None = None) -> dict[str, Any]:
    return {
        "hospitalization_id": number,
        "recorded_dttm": at(hour),
        "assessment_category": name,
        "numerical_value": value,
        "categorical_value": word,
    }


def write(folder: Path, content: dict[str, Rows] | None = None) -> Path:
    """The tables as Parquet files; `content` replaces `tables()`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (tables() if content is None else content).items():
        pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / f"clif_{name}.parquet")
    return folder


def read(folder: Path, **settings: Any) -> list[SourceTables]:
    """All partitions of the folder, extracted beside it."""
    source = open_source(SourceConfig(kind="clif", path=str(folder), **{"num_partitions": 3, **settings}))
    extracted = Folder(folder.parent / f"{folder.name}-extracted")
    extract_all(source, extracted, 500)
    return [read_partition(source, partition, extracted) for partition in source.partitions()]


def read_one(folder: Path, **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """(stays, events, counts) of all partitions together."""
    parts = read(folder, **settings)
    stays = pl.concat([pl.DataFrame(part.stays) for part in parts]).sort("stay_id")
    events = pl.concat([pl.DataFrame(part.events).with_columns(pl.col("variable").cast(pl.String)) for part in parts])
    counts: dict[str, int] = {}
    for part in parts:
        for rule, number in part.counts.items():
            counts[rule] = counts.get(rule, 0) + number
    return stays, events, counts
