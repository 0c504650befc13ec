"""Hand-made MIMIC-IV tables for the tests: one patient's rows in PhysioNet's column names."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
from pathlib import Path
from typing import Any

from clinjepa.clinical import load_variables
from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables
from clinjepa.sources.extraction import extract_all
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.mimic_iv.source import MimicIvSource
from clinjepa.sources.mimic_iv.tables import load_tables
from clinjepa.storage import Folder

ADMITTED = datetime.datetime(2150, 3, 1, 10, 0)
INSIDE = {"subject_id": 1, "hadm_id": 101, "stay_id": 11}

Rows = dict[str, list[dict[str, Any]]]


def at(hours: float) -> str:
    """A time `hours` after ICU admission, as MIMIC-IV writes it."""
    return (ADMITTED + datetime.timedelta(hours=hours)).strftime("%Y-%m-%d %H:%M:%S")


def hospital(hours: float = 30, subject: int = 1, stay: int = 11, died: bool = False, **more: Any) -> Rows:
    """One patient, one hospitalisation, one ICU stay, and the dictionaries of all items in use; `more` changes the ICU stay."""
    place = {"subject_id": subject, "hadm_id": 100 + subject}
    return {
        "patients": [{"subject_id": subject, "gender": "F", "anchor_age": 58, "anchor_year": 2148}],
        "admissions": [
            place
            | {
                "admittime": at(-5),
                "dischtime": at(hours + 20),
                "deathtime": at(hours - 2) if died else None,
                "admission_type": "EW EMER.",
                "discharge_location": "DIED" if died else "HOME",
                "race": "WHITE - BRAZILIAN",
                "hospital_expire_flag": int(died),
            }
        ],
        "icustays": [place | {"stay_id": stay, "first_careunit": "Medical ICU", "intime": at(0), "outtime": at(hours)} | more],
        **dictionaries(),
    }


def dictionaries() -> Rows:
    """d_items and d_labitems that agree with the variable dictionary."""
    items: dict[str, dict[int, dict[str, Any]]] = {"d_items": {}, "d_labitems": {}}
    for variable in load_variables().values():
        for source in variable.sources:
            for item in source.itemids:
                entry = {"itemid": item, "label": source.labels.get(item), "abbreviation": "x", "linksto": source.table, "fluid": "Blood"}
                items["d_labitems" if source.table == "labevents" else "d_items"][item] = entry
    for item, label in mimic_map()["item_labels"].items():
        items["d_items"][item] = {"itemid": item, "label": label, "abbreviation": "x", "linksto": "inputevents"}
    specimen = mimic_map()["specimens"]["item"]
    items["d_labitems"][specimen] = {"itemid": specimen, "label": "Specimen Type", "fluid": "Blood"}
    return {name: list(rows.values()) for name, rows in items.items()}


def chart(
    item: int, hours: float, value: float | None = None, unit: str | None = None, text: str | None = None, **more: Any
) -> dict[str, Any]:
    told = value if text is None else text
    return INSIDE | {"charttime": at(hours), "itemid": item, "value": told, "valuenum": value, "valueuom": unit} | more


def lab(item: int, hours: float, value: float | None, unit: str | None = None, text: str | None = None, **more: Any) -> dict[str, Any]:
    return {"subject_id": 1, "charttime": at(hours), "itemid": item, "valuenum": value, "valueuom": unit, "value": text} | more


def infusion(item: int, start: float, end: float, rate: float | None, rate_unit: str | None, amount: float, **more: Any) -> dict[str, Any]:
    given = {"rate": rate, "rateuom": rate_unit, "amount": amount, "amountuom": "ml", "patientweight": 80}
    order = {"ordercategorydescription": "Continuous Med", "statusdescription": "FinishedRunning"}
    return INSIDE | {"starttime": at(start), "endtime": at(end), "itemid": item} | given | order | more


def as_csv(table: str, rows: list[dict[str, Any]], header: list[str] | None = None) -> bytes:
    """A table's text; columns as MIMIC-IV has them, or as `header` says."""
    spec = load_tables()[table]
    sink = io.StringIO()
    writer = csv.DictWriter(sink, header or [*spec.columns, *spec.optional], extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue().encode()


def write_mimic(folder: Path, tables: Rows | None = None, base: Rows | None = None, absent: tuple[str, ...] = ("emar",)) -> Path:
    """`base` (one patient) with the rows of `tables` added, as csv.gz; tables without rows are empty but for their header."""
    given = {name: list(rows) for name, rows in (hospital() if base is None else base).items()}
    for name, rows in (tables or {}).items():
        given.setdefault(name, []).extend(rows)
    for name, spec in load_tables().items():
        if name not in absent or name in given:
            write_table(folder, name, as_csv(name, given.get(name, [])), spec.folder)
    return folder


def write_table(folder: Path, table: str, content: bytes, place: str | None = None, packed: bool = True) -> Path:
    """One table's file, made from text as it stands."""
    path = folder / (place or load_tables()[table].folder) / f"{table}.csv{'.gz' if packed else ''}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content, 1) if packed else content)
    return path


def read_all(folder: Path, **settings: Any) -> SourceTables:
    """Everything of a data set in one partition, with what its extraction left out among the counts."""
    source = MimicIvSource(SourceConfig(kind="mimic_iv", path=str(folder), **{"num_partitions": 1} | settings))
    out = Folder(folder / "extracted")
    counts = extract_all(source, out, 1024)
    (partition,) = source.partitions()
    tables = source.read(partition, out)
    totals = dict(counts)
    for rule, number in tables.counts.items():
        totals[rule] = totals.get(rule, 0) + number
    return SourceTables(tables.stays, tables.events, totals, tables.losses, tables.measured)


def events_of(tables: SourceTables, variable: str) -> list[dict[str, Any]]:
    """Events of one variable as dictionaries, times in hours after ICU admission."""
    found = []
    for event in tables.events.to_pylist():
        if event["variable"] == variable:
            keys = ("time", "end_time", "store_time")
            found.append(event | {key: (event[key] - ADMITTED).total_seconds() / 3600 for key in keys if event[key] is not None})
    return found
