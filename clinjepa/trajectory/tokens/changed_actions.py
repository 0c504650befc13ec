"""The store of changed actions: latents of the action texts of some stays whose doses were changed, for the drift evaluation.

Only texts that differ from the recorded ones are in it; the latent of every other hour is that of the latent store. Rows of a stay are
contiguous, in the order of its hours. Format: docs/contracts.md, section 5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow as pa

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_rows import (
    LatentDtype,
    RowsHeader,
    not_a_latent_file,
    read_header,
    read_index,
    read_rows,
    rows_file,
    to_float32,
)

SCHEMA_VERSION = 1
COUNTS_FILE = "counts.json"
INDEX_SCHEMA = pa.schema([("stay_id", pa.int64()), ("file", pa.string()), ("first_row", pa.int64()), ("hours", pa.list_(pa.int32()))])
_MOST_STAYS = 64
"""Stays whose rows a reader keeps: the evaluation reads several windows of a stay."""


class ShiftCounts(TypedDict):
    """What was changed in the stays of a store, or in those of one part."""

    num_stays: int
    num_hours: int
    """Action texts."""
    num_changed: int
    """Action texts that differ from the recorded ones and were encoded."""
    num_doses: int
    """Doses that were multiplied."""
    num_unread: int
    """Phrases with a number that could not be read and stayed as they are."""
    num_tokens: int
    """Tokens that were encoded."""


class ChangedStay(NamedTuple):
    """The changed hours of one stay, ascending, and their latents."""

    stay_id: int
    hours_N: np.ndarray
    z_ND: np.ndarray


class Origin(NamedTuple):
    """What a part was made with, and the factor on its doses."""

    encoder_digest: str
    factor: float


def write_changed_part(
    folder: Folder, part: str, origin: Origin, dtype: LatentDtype, stays: Sequence[ChangedStay], counts: ShiftCounts
) -> None:
    """Write `actions/<part>.safetensors`, also where no action of the part changed.

    Args:
        folder: the store.
        part: name of the part.
        origin: encoder and factor.
        dtype: of the latents on disk.
        stays: every stay of the part that is evaluated, float32 latents.
        counts: of these stays.

    Raises:
        StoreError: a value is not finite.
    """
    changed = [stay.z_ND for stay in stays if len(stay.hours_N)]
    rows_RD = np.concatenate(changed).astype(np.float32, copy=False) if changed else np.zeros((0, 0), np.float32)
    metadata = {
        "schema_version": str(SCHEMA_VERSION),
        "encoder_digest": origin.encoder_digest,
        "factor": json.dumps(origin.factor),
        "stay_ids": json.dumps([int(stay.stay_id) for stay in stays]),
        "hours": json.dumps([stay.hours_N.tolist() for stay in stays]),
        "counts": json.dumps(counts),
    }
    folder.write_bytes(_file(part), rows_file(part, rows_RD, dtype, metadata))


def is_finished(folder: Folder, part: str, origin: Origin) -> bool:
    """Whether a part was already written with this encoder and factor (files are written atomically)."""
    return folder.exists(_file(part)) and _read_part(folder, _file(part)).origin == origin


def finish_changed_actions(folder: Folder) -> ShiftCounts:
    """Write `index.parquet` and `counts.json` from the headers of all parts; returns the counts of all stays.

    Raises:
        StoreError: there is no part, or the parts differ in encoder, factor, width or precision.
    """
    files = [f"actions/{name}" for name in folder.names("actions") if name.endswith(".safetensors")]
    if not files:
        raise StoreError(f"{folder.address}/actions holds no part; write the parts first")
    parts = {file: _read_part(folder, file) for file in files}
    origins = {part.origin for part in parts.values()}
    kinds = {(part.rows.dim, part.rows.dtype) for part in parts.values() if part.rows.num_rows}
    if len(origins) > 1 or len(kinds) > 1:
        raise StoreError(f"{folder.address}: its parts differ in encoder, factor, width or precision; remove the folder and run again")
    rows = []
    for file, part in parts.items():
        ends = np.cumsum([0, *map(len, part.hours)]).tolist()
        rows += [
            {"stay_id": stay_id, "file": file, "first_row": first, "hours": hours}
            for stay_id, first, hours in zip(part.stay_ids, ends[:-1], part.hours, strict=True)
        ]
    origin = origins.pop()
    metadata = {"schema_version": str(SCHEMA_VERSION), "encoder_digest": origin.encoder_digest, "factor": json.dumps(origin.factor)}
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA).sort_by("stay_id")
    folder.write_table("index.parquet", index.replace_schema_metadata(metadata))
    counts = sum_counts([part.counts for part in parts.values()])
    folder.write_json(COUNTS_FILE, counts)
    return counts


def sum_counts(parts: Sequence[ShiftCounts]) -> ShiftCounts:
    """The counts of several parts together."""
    return {
        "num_stays": sum(part["num_stays"] for part in parts),
        "num_hours": sum(part["num_hours"] for part in parts),
        "num_changed": sum(part["num_changed"] for part in parts),
        "num_doses": sum(part["num_doses"] for part in parts),
        "num_unread": sum(part["num_unread"] for part in parts),
        "num_tokens": sum(part["num_tokens"] for part in parts),
    }


class ChangedActionReader:
    """Reads a finished store of changed actions, one range of bytes a stay."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._header = lru_cache(maxsize=None)(lambda file: read_header(folder, file, SCHEMA_VERSION))
        self._rows = lru_cache(maxsize=_MOST_STAYS)(self._read_rows)

    @cached_property
    def _contents(self) -> tuple[dict[int, tuple[str, int, np.ndarray]], Origin]:
        """(stay_id -> file, first row and changed hours; encoder and factor), from the index."""
        table, metadata = read_index(self.folder, SCHEMA_VERSION)
        columns = (table[name].to_pylist() for name in INDEX_SCHEMA.names)
        places = {stay_id: (file, first, np.array(hours, np.int64)) for stay_id, file, first, hours in zip(*columns, strict=True)}
        return places, Origin(metadata[b"encoder_digest"].decode(), float(json.loads(metadata[b"factor"])))

    @property
    def origin(self) -> Origin:
        """Encoder of the latents, and factor on the doses."""
        return self._contents[1]

    @cached_property
    def counts(self) -> ShiftCounts:
        """What was changed in all stays of the store."""
        counts: ShiftCounts = self.folder.read_json(COUNTS_FILE)
        return counts

    def check_encoder(self, encoder_digest: str, latents: str) -> None:
        """Raise StoreError unless the encoder with this digest made the actions. latents: the latent store beside them, for the message."""
        if self.origin.encoder_digest != encoder_digest:
            raise StoreError(
                f"{self.folder.address} holds actions of another encoder than the latents in {latents}: that was made again since; "
                f"remove {self.folder.address} and run again"
            )

    def stay(self, stay_id: int) -> tuple[np.ndarray, np.ndarray]:
        """(hours_N whose action changed, ascending; their latents z_ND, float32) of a stay.

        Raises:
            StoreError: the store does not hold the stay.
        """
        if stay_id not in self._contents[0]:
            raise StoreError(f"{self.folder.address} does not hold a stay that was asked for; it belongs to another split or store")
        return self._rows(stay_id)

    def _read_rows(self, stay_id: int) -> tuple[np.ndarray, np.ndarray]:
        file, first, hours_N = self._contents[0][stay_id]
        return hours_N, to_float32(read_rows(self.folder, file, self._header(file), first, len(hours_N)))


class _Part(NamedTuple):
    rows: RowsHeader
    origin: Origin
    stay_ids: list[int]
    hours: list[list[int]]
    counts: ShiftCounts


def _file(part: str) -> str:
    return f"actions/{part}.safetensors"


def _read_part(folder: Folder, file: str) -> _Part:
    rows = read_header(folder, file, SCHEMA_VERSION)
    metadata: Mapping[str, str] = rows.metadata
    try:
        factor, ids, hours, counts = (json.loads(metadata[name]) for name in ("factor", "stay_ids", "hours", "counts"))
        return _Part(rows, Origin(metadata["encoder_digest"], float(factor)), ids, hours, counts)
    except (ValueError, KeyError):
        raise not_a_latent_file(folder, file) from None
