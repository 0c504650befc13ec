"""Parts of an artifact: each is one unit of resumable work with its tables and a record that is written last.

A part is finished when its record exists and every file has the size that the record names; otherwise it is written again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.errors import StoreError
from clinjepa.storage import Folder

RECORDS = "parts"


class PartFile(TypedDict):
    """A file of a part: path below the artifact's folder, size in bytes, SHA-256 of the content, rows of the table."""

    name: str
    bytes: int
    sha256: str
    num_rows: int


def write_part_table(folder: Folder, name: str, table: pa.Table, row_group_size: int | None = None) -> PartFile:
    """Write a table as Parquet, atomically; returns the file's entry for the part's record."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group_size)
    data = sink.getvalue()
    folder.write_bytes(name, data)
    return {"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "num_rows": table.num_rows}


def finished_part(folder: Folder, name: str, schema_version: int) -> dict[str, Any] | None:
    """The record of a finished part, or None when the part must be written (again).

    Raises:
        StoreError: The record has another schema version.
    """
    if not folder.exists(f"{RECORDS}/{name}.json"):
        return None
    record: dict[str, Any] = folder.read_json(f"{RECORDS}/{name}.json")
    if record.get("schema_version") != schema_version:
        raise StoreError(
            f"{folder.address}/{RECORDS}/{name}.json has schema version {record.get('schema_version')}, "
            f"this code writes {schema_version}; remove the folder and run again"
        )
    whole = all(folder.exists(file["name"]) and folder.size(file["name"]) == file["bytes"] for file in record["files"])
    return record if whole else None


def write_record(folder: Folder, name: str, record: Mapping[str, object]) -> None:
    """Mark a part as finished; `record` has `schema_version` and `files` (entries of `write_part_table`)."""
    folder.write_bytes(f"{RECORDS}/{name}.json", json.dumps(record, allow_nan=False).encode())


def read_records(folder: Folder, schema_version: int) -> dict[str, dict[str, Any]]:
    """Part name -> record, sorted by name.

    Raises:
        StoreError: There is no record, or a part's file is missing or truncated.
    """
    names = [name.removesuffix(".json") for name in folder.names(RECORDS) if name.endswith(".json")]
    if not names:
        raise StoreError(f"{folder.address}/{RECORDS} holds no finished part; write the parts first")
    records = {}
    for name in names:
        record = finished_part(folder, name, schema_version)
        if record is None:
            raise StoreError(f"{folder.address}: a file of part {name} is missing or was cut; run again to write that part anew")
        records[name] = record
    return records


def read_card(folder: Folder, schema_version: int, remedy: str) -> dict[str, Any]:
    """`data_card.json` of a finished ingest artifact or store.

    Raises:
        StoreError: The file is missing or has another schema version; the message ends with `remedy`.
    """
    card: dict[str, Any] = folder.read_json("data_card.json")
    if card.get("schema_version") != schema_version:
        raise StoreError(f"{folder.address} has schema version {card.get('schema_version')}, this code reads {schema_version}; {remedy}")
    return card


def add_counts(totals: dict[str, int], counts: dict[str, int]) -> None:
    """Add `counts` to `totals`, by name."""
    for name, count in counts.items():
        totals[name] = totals.get(name, 0) + count
