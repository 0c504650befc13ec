"""Small MEDS data sets written for the tests: one patient's rows in the column names of a MIMIC-IV export."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import polars as pl

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables
from clinjepa.sources.meds.source import MedsSource

ADMITTED = datetime.datetime(2150, 3, 1, 10, 0)
SCHEMA = {
    "subject_id": pl.Int64,
    "time": pl.Datetime("us"),
    "code": pl.String,
    "numeric_value": pl.Float32,
    "text_value": pl.String,
    "hadm_id": pl.Int64,
    "icustay_id": pl.Int64,
    "order_id": pl.Int64,
    "unit": pl.String,
    "race": pl.String,
    "ordercategorydescription": pl.String,
}


def row(code: str, hours: float | None = None, value: float | None = None, **more: Any) -> dict[str, Any]:
    """One MEDS row of subject 1; `hours` after ICU admission, None = no time."""
    time = None if hours is None else ADMITTED + datetime.timedelta(hours=hours)
    return {"subject_id": 1, "time": time, "code": code, "numeric_value": value} | more


def stay_rows(hours: float = 30, subject: int = 1, stay: int = 11, died: bool = False) -> list[dict[str, Any]]:
    """Birth, hospital admission and discharge, ICU admission and discharge."""
    place = {"subject_id": subject, "hadm_id": 100 + subject}
    inside = place | {"icustay_id": stay}
    rows = [
        row("GENDER//F", None, subject_id=subject),
        row("MEDS_BIRTH", -24 * 365.25 * 60, subject_id=subject),
        row("HOSPITAL_ADMISSION//EW EMER.//EMERGENCY ROOM", -5, race="WHITE - BRAZILIAN", **place),
        row("ICU_ADMISSION//Medical Intensive Care Unit (MICU)", 0, **inside),
        row("ICU_DISCHARGE//Medical Intensive Care Unit (MICU)", hours, **inside),
        row(f"HOSPITAL_DISCHARGE//{'DIED' if died else 'HOME'}", hours + 20, **place),
    ]
    return rows + ([row("MEDS_DEATH", hours - 2, subject_id=subject)] if died else [])


def chart(item: int, hours: float, value: float | None = None, unit: str = "UNK", **more: Any) -> dict[str, Any]:
    return row(f"LAB//{item}//{unit}", hours, value, icustay_id=11, hadm_id=101, **more)


def infusion(
    item: int, start: float, end: float, rate: float | None, rate_unit: str | None, amount: float, order: int = 5, **more: Any
) -> list[dict[str, Any]]:
    inside = {"icustay_id": 11, "hadm_id": 101, "order_id": order, "ordercategorydescription": "Continuous Med"} | more
    return [
        row(f"INFUSION_START//{item}", start, rate, unit=rate_unit, **inside),
        row(f"INFUSION_END//{item}", end, amount, unit="ml", **inside),
    ]


def write_meds(folder: Path, rows: list[dict[str, Any]], shard: str = "data/train/0.parquet", schema: dict[str, Any] | None = None) -> Path:
    """Write rows as one shard, sorted by subject and time as MEDS wants them; `schema` replaces the columns."""
    path = folder / shard
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = pl.DataFrame(rows, schema=SCHEMA).sort("subject_id", "time", nulls_last=False, maintain_order=True)
    if schema is not None:
        frame = frame.select(pl.col(old).alias(new) for old, new in schema.items())
    frame.write_parquet(path)
    return folder


def read_all(folder: Path, **settings: Any) -> SourceTables:
    """Everything of a data set in one partition."""
    source = MedsSource(SourceConfig(kind="meds", path=str(folder), num_partitions=1, **settings))
    (partition,) = source.partitions()
    return source.read(partition)


def events_of(tables: SourceTables, variable: str) -> list[dict[str, Any]]:
    """Events of one variable as dictionaries, times in hours after ICU admission."""
    found = []
    for event in tables.events.to_pylist():
        if event["variable"] == variable:
            hours = {key: (event[key] - ADMITTED).total_seconds() / 3600 for key in ("time", "end_time") if event[key] is not None}
            found.append(event | hours)
    return found
