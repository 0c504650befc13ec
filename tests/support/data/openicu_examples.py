"""Small MEDS data sets in the conventions of OpenICU's conversions, and a MEDS data set of a convention of its own."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables, open_source
from clinjepa.sources.extraction import extract_all, read_partition
from clinjepa.storage import Folder

DAY = datetime.datetime(2150, 3, 1)
SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
}
MORE = {"hadm_id": pl.Int64, "stay_id": pl.Int64, "case_id": pl.Int64, "unit": pl.String, "careunit": pl.String}
Rows = list[dict[str, Any]]
UNITS = {
    "heart_rate": "bpm",
    "temperature": "C",
    "creatinine": "mg/dL",
    "norepinephrine_rate": "mcg/kg/min",
    "patient_weight": "kg",
    "pH_of_blood": "None",
    "sofa": "points",
    "antibiotics": "boolean",
    "lactate": "mmol/L",
}


def at(hours: float) -> datetime.datetime:
    """A time, so many hours after 1 March 2150."""
    return DAY + datetime.timedelta(hours=hours)


def row(subject: int, hours: float | None, code: str, value: float | None = None, text: str | None = None, **more: Any) -> dict[str, Any]:
    """One MEDS row."""
    time = None if hours is None else at(hours)
    return {"subject_id": subject, "time": time, "code": code, "numeric_value": value, "text_value": text} | more


def concept(subject: int, hours: float | None, name: str, value: float | None, unit: str | None = None) -> dict[str, Any]:
    """A row of a concept, `<concept>//<unit>`."""
    return row(subject, hours, f"{name}//{unit or UNITS[name]}", value)


def readings(subject: int) -> Rows:
    """Concepts of a stay from hour 10 to 40: one in the next hours after discharge, one two days before, one without a time."""
    return [
        concept(subject, 11, "heart_rate", 80.0),
        concept(subject, 12, "heart_rate", 82.0),
        concept(subject, 39, "heart_rate", 90.0),
        concept(subject, 45, "heart_rate", 120.0),
        concept(subject, -40, "heart_rate", 50.0),
        concept(subject, None, "heart_rate", 51.0),
        concept(subject, 13, "temperature", 98.6, "F"),
        concept(subject, 14, "creatinine", 88.4, "umol/L"),
        concept(subject, 14, "pH_of_blood", 7.3),
        concept(subject, 15, "heart_rate", 900.0),
        concept(subject, 16, "norepinephrine_rate", 0.1),
        concept(subject, 18, "norepinephrine_rate", 0.2),
        concept(subject, 20, "norepinephrine_rate", 0.0),
        concept(subject, 22, "patient_weight", 70.0),
        concept(subject, 20, "antibiotics", None),
        concept(subject, 20, "sofa", 3.0),
    ]


def mimic(subjects: tuple[int, ...] = (1, 2, 3, 4)) -> tuple[Rows, dict[str, Rows]]:
    """(concepts, tables of the extraction step), as OpenICU converts MIMIC-IV. Patient 4 dies in hospital."""
    rows: dict[str, Rows] = {"icustay/icu_admission": [], "icustay/icu_discharge": [], "admissions/ALL": [], "patients/ALL": []}
    for subject in subjects:
        inside = {"hadm_id": 100 + subject, "stay_id": 1000 + subject}
        place, died = {"hadm_id": 100 + subject}, subject == 4
        rows["icustay/icu_admission"].append(row(subject, 10, "icu_admission//ICU_ADMISSION", **inside))
        rows["icustay/icu_discharge"].append(row(subject, 40, "icu_discharge//ICU_DISCHARGE", **inside))
        rows["admissions/ALL"] += [
            row(subject, 5, "HOSPITAL_ADMISSION//URGENT//EMERGENCY ROOM", **place),
            row(subject, 5, "ADMISSION_TYPE//URGENT", **place),
            row(subject, 5, "ETHNICITY//WHITE - BRAZILIAN", **place),
            row(subject, 60, f"HOSPITAL_DISCHARGE//{'DIED' if died else 'HOME'}", **place),
            row(subject, 60, "IN_HOSPITAL_MORTALITY", float(died), **place),
        ]
        rows["patients/ALL"] += [
            {"subject_id": subject, "time": datetime.datetime(2148, 1, 1), "code": "PATIENT_AGE", "numeric_value": 58.0},
            {"subject_id": subject, "time": datetime.datetime(2090, 1, 1), "code": "MEDS_BIRTH"},
            {"subject_id": subject, "time": datetime.datetime(2090, 1, 1), "code": "GENDER//F" if subject % 2 else "GENDER//M"},
            *([row(subject, 59, "MEDS_DEATH")] if died else []),
        ]
    return [each for subject in subjects for each in readings(subject)], rows


def eicu() -> tuple[Rows, dict[str, Rows]]:
    """As OpenICU converts eICU: a subject is a hospitalisation, a stay names its unit, two stays of subject 1; words of its own."""
    rows: Rows = []
    for subject, stay, begin, end, died in ((1, 71, 10, 40, False), (1, 72, 50, 60, False), (2, 73, 10, 40, True)):
        inside = {"stay_id": stay}
        rows += [
            row(subject, begin, "GENDER//Female", **inside),
            row(subject, 5, "HOSPITAL_ADMISSION//Emergency Department", **inside),
            row(subject, begin, "ICU_ADMISSION//MICU", **inside),
            row(subject, begin, "PATIENT_AGE", 65.0, **inside),
            row(subject, begin, "ETHNICITY//Caucasian", **inside),
            row(subject, end, "ICU_DISCHARGE//MICU", **inside),
            row(
                subject,
                70,
                "HOSPITAL_DISCHARGE//Death" if died else "HOSPITAL_DISCHARGE//Home",
                None,
                "Expired" if died else "Alive",
                **inside,
            ),
            row(subject, begin - 65 * 24 * 365.25, "MEDS_BIRTH", **inside),
        ]
    return readings(1) + readings(2), {"patient/ALL": rows}


def hirid() -> tuple[Rows, dict[str, Rows]]:
    """As OpenICU converts HiRID: neither an id nor an end of a stay, no hospitalisation, the sex as a text."""
    rows = [
        each
        for subject in (1, 2)
        for each in (
            row(subject, 10, "ICU_ADMISSION//admission"),
            row(subject, 10, "SEX//sex", None, "Male"),
            row(subject, 10, "AGE//age", 70.0),
            row(subject, 10, "MORTALITY//mortality", None, "alive"),
        )
    ]
    return readings(1) + readings(2), {"general/ALL": rows}


def write(folder: Path, content: tuple[Rows, dict[str, Rows]], name: str = "mimic-iv", version: str = "3.1") -> Path:
    """OpenICU's folder `datasets`: a file per concept, and per table and kind of row of the extraction step."""
    concepts, tables = content
    by_concept: dict[str, Rows] = {}
    for each in concepts:
        by_concept.setdefault(each["code"].split("//")[0], []).append(each)
    for concept_name, rows in by_concept.items():
        _write(folder / f"concept/data/{concept_name}/1.0.0/{name}.parquet", rows)
    for table, rows in tables.items():
        _write(folder / f"extraction/data/{name}/{version}/{table}.parquet", rows)
    return folder


def write_shards(folder: Path, rows: Rows, num_shards: int = 3, zone: str | None = None) -> Path:
    """A MEDS data set: rows sorted by subject and time, whole subjects in a shard; with a zone its times have one."""
    subjects = sorted({each["subject_id"] for each in rows})
    for number in range(num_shards):
        own = {subject for place, subject in enumerate(subjects) if place % num_shards == number}
        _write(folder / f"data/train/{number}.parquet", [each for each in rows if each["subject_id"] in own], zone)
    return folder


def _write(path: Path, rows: Rows, zone: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    more = {name: kind for name, kind in MORE.items() if any(name in each for each in rows)}
    frame = pl.DataFrame(rows, schema=SCHEMA | more).sort("subject_id", "time", nulls_last=False, maintain_order=True)
    if zone is not None:
        frame = frame.with_columns(pl.col("time").dt.replace_time_zone(zone))
    frame.write_parquet(path)


def read(folder: Path, **settings: Any) -> list[SourceTables]:
    """All partitions, extracted beside the folder anew."""
    source = open_source(SourceConfig(**{"kind": "meds", "map": "openicu", "path": str(folder), "num_partitions": 3} | settings))
    extracted = Folder(folder.parent / f"{folder.name}-extracted-{len(list(folder.parent.iterdir()))}")
    left_out = extract_all(source, extracted, 500)
    parts = [read_partition(source, partition, extracted) for partition in source.partitions()]
    return [
        SourceTables(part.stays, part.events, part.counts | (left_out if not place else {}), part.losses, part.measured)
        for place, part in enumerate(parts)
    ]


def read_one(folder: Path, **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """(stays, events, counts) of all partitions together."""
    parts = read(folder, **settings)
    stays = pl.concat([pl.DataFrame(part.stays) for part in parts]).sort("stay_id")
    events = pl.concat([pl.DataFrame(part.events).with_columns(pl.col("variable").cast(pl.String)) for part in parts])
    counts: dict[str, int] = {}
    for part in parts:
        for rule, number in part.counts.items():
            counts[rule] = counts.get(rule, 0) + number
    return stays, events.sort("stay_id", "variable", "time"), counts
