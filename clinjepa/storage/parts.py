"""One unit of resumable work: its tables, and a record of them that is written last.

A part whose record is there, with every file of the size it names, is finished; anything else is done again.
"""

from __future__ import annotations

import hashlib
import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.errors import StoreError
from clinjepa.storage import Folder

RECORDS = "parts"


def write_part_table(folder: Folder, name: str, table: pa.Table, row_group_size: int | None = None) -> dict[str, Any]:
    """Write a table as Parquet, whole or not at all; returns {name, bytes, sha256, num_rows}."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    data = sink.getvalue()
    folder.write_bytes(name, data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "num_rows": table.num_rows}


def finished_part(folder: Folder, name: str, schema_version: int) -> dict[str, Any] | None:
    """The record of a finished part, or None when it must be done (again)."""
    if not folder.exists(f"{RECORDS}/{name}.json"):
        return None
    record = folder.read_json(f"{RECORDS}/{name}.json")
    if record.get("schema_version") != schema_version:
        raise StoreError(
            f"{folder.address}/{RECORDS}/{name}.json has schema version {record.get('schema_version')}, "
            f"this code writes {schema_version}; remove the folder and run again"
        )
    whole = all(folder.exists(file["name"]) and folder.size(file["name"]) == file["bytes"] for file in record["files"])
    return record if whole else None


def write_record(folder: Folder, name: str, record: dict[str, Any]) -> None:
    """Mark a part as finished; `record` has `schema_version` and `files` (as `write_part_table` returns them)."""
    folder.write_bytes(f"{RECORDS}/{name}.json", json.dumps(record, allow_nan=False).encode())


def read_records(folder: Folder, schema_version: int) -> dict[str, dict[str, Any]]:
    """Part name -> record, sorted by name. Raises StoreError when there is none, or a part's files are missing or torn."""
    names = [name.removesuffix(".json") for name in folder.names(RECORDS) if name.endswith(".json")]
    if not names:
        raise StoreError(f"{folder.address}/{RECORDS} holds no finished part; write the parts first")
    records: dict[str, dict[str, Any]] = {}
    for name in names:
        record = finished_part(folder, name, schema_version)
        if record is None:
            raise StoreError(f"{folder.address}: a file of part {name} is missing or was cut; run again to write that part anew")
        records[name] = record
    return records


def read_card(folder: Folder, schema_version: int, remedy: str) -> dict[str, Any]:
    """`data_card.json` of a finished ingest artifact or store. Raises StoreError when missing or of another schema version."""
    card = folder.read_json("data_card.json")
    if card.get("schema_version") != schema_version:
        raise StoreError(f"{folder.address} has schema version {card.get('schema_version')}, this code reads {schema_version}; {remedy}")
    return card


def add_counts(totals: dict[str, int], counts: dict[str, int]) -> None:
    """Add `counts` to `totals`, by name."""
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count
