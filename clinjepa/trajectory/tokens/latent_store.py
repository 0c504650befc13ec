"""The latent store: one vector per text, written by encoder workers and read by byte range.

The 2T+1 rows of a stay are contiguous (static, T states, T actions), so any window is at most three ranges. The header of each file
contains its stays and the content digest of its encoder; `index.parquet` is made from the headers. Format: docs/contracts.md, section 5.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable
from functools import cached_property
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

SCHEMA_VERSION = 2
INDEX_SCHEMA = pa.schema([("stay_id", pa.int64()), ("file", pa.string()), ("first_row", pa.int64()), ("num_hours", pa.int32())])
WHOLE_STAY_BYTES = 4 << 20
"""Stays up to this size are read in one range and cached whole; longer ones are read by window."""

StayLatents = tuple[int, np.ndarray, np.ndarray, np.ndarray]
"""stay_id, z_static_D, z_state_TD, z_action_TD."""


class IndexRow(TypedDict):
    """Place of one stay: file below the store's folder, its first row there, and its hours T."""

    stay_id: int
    file: str
    first_row: int
    num_hours: int


class LatentCounts(TypedDict):
    """Size of a finished store. dim: width D of a latent; bytes: of all files."""

    num_stays: int
    num_latents: int
    dim: int
    dtype: str
    bytes: int


class _Place(NamedTuple):
    file: str
    first_row: int
    num_hours: int


class LatentWriter:
    """Writes parts of a latent store: float32 in, `dtype` on disk (bfloat16 rounds to nearest even).

    encoder_digest: content digest of the encoder that makes the latents (`clinjepa.model.pretrained.identity`), recorded in every part.
    """

    def __init__(self, encoder_digest: str, dtype: LatentDtype = "float32") -> None:
        self.encoder_digest, self.dtype = encoder_digest, dtype

    def write_part(self, folder: Folder, name: str, stays: Iterable[StayLatents]) -> list[IndexRow]:
        """Write `latents/<name>.safetensors`; nothing if there are no stays.

        Args:
            folder: the latent store.
            name: name of the part.
            stays: latents of each stay, float32.

        Returns:
            The part's rows of the index.

        Raises:
            StoreError: shapes disagree, or a value is not finite.
        """
        blocks, ids, hours = [], [], []
        for stay_id, z_static_D, z_state_TD, z_action_TD in stays:
            if z_state_TD.shape != z_action_TD.shape or z_static_D.shape != z_state_TD.shape[1:]:
                raise StoreError(
                    f"part {name}: latents of shapes {z_static_D.shape}, {z_state_TD.shape}, {z_action_TD.shape} do not make a stay"
                )
            blocks.append(np.concatenate([z_static_D[None], z_state_TD, z_action_TD]).astype(np.float32, copy=False))
            ids.append(int(stay_id))
            hours.append(len(z_state_TD))
        if not blocks:
            return []
        if len({block.shape[1] for block in blocks}) > 1:
            raise StoreError(f"part {name}: latents of several widths in one part")
        rows_RD = np.concatenate(blocks)
        metadata = {
            "schema_version": str(SCHEMA_VERSION),
            "encoder_digest": self.encoder_digest,
            "stay_ids": json.dumps(ids),
            "num_hours": json.dumps(hours),
        }
        file = f"latents/{name}.safetensors"
        folder.write_bytes(file, rows_file(name, rows_RD, self.dtype, metadata))
        return _index_rows(file, ids, hours)


def part_index(folder: Folder, name: str, encoder_digest: str) -> list[IndexRow] | None:
    """Index rows of a part that was already written with this encoder (files are written atomically), else None."""
    file = f"latents/{name}.safetensors"
    if not folder.exists(file):
        return None
    header = _read_header(folder, file)
    return _index_rows(file, header.stay_ids, header.num_hours) if header.encoder_digest == encoder_digest else None


def finish_latents(folder: Folder) -> LatentCounts:
    """Write `index.parquet` from the headers of all parts.

    Raises:
        StoreError: there is no part, the parts differ in encoder, width or precision, or a stay is in two of them.
    """
    files = [f"latents/{name}" for name in folder.names("latents") if name.endswith(".safetensors")]
    if not files:
        raise StoreError(f"{folder.address}/latents holds no part; write the parts first")
    headers = {file: _read_header(folder, file) for file in files}
    encoders = {header.encoder_digest for header in headers.values()}
    if len(encoders) > 1:
        raise StoreError(f"{folder.address}: its parts were made by {len(encoders)} different encoders; remove the folder and run again")
    kinds = {(header.rows.dim, header.rows.dtype) for header in headers.values()}
    if len(kinds) > 1:
        raise StoreError(f"{folder.address}: its parts differ in width or precision ({sorted(kinds)}); remove the folder and run again")
    rows = [row for file, header in headers.items() for row in _index_rows(file, header.stay_ids, header.num_hours)]
    index = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA).sort_by("stay_id")
    if len(set(index["stay_id"].to_pylist())) != index.num_rows:
        raise StoreError(f"{folder.address}: a stay is in more than one part; remove the folder and run again")
    dim, dtype = kinds.pop()
    metadata = {"schema_version": str(SCHEMA_VERSION), "encoder_digest": encoders.pop()}
    folder.write_table("index.parquet", index.replace_schema_metadata(metadata))
    num_latents = sum(header.rows.num_rows for header in headers.values())
    return {
        "num_stays": index.num_rows,
        "num_latents": num_latents,
        "dim": dim,
        "dtype": dtype,
        "bytes": sum(folder.size(file) for file in files),
    }


class LatentReader:
    """Reads a finished latent store by byte ranges; caches the ranges used last, up to `cache_bytes`. Picklable and thread-safe."""

    def __init__(self, folder: Folder, cache_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self._cache_bytes = cache_bytes
        self._headers: dict[str, _Header] = {}
        self._cache: OrderedDict[tuple[str, int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[LatentReader], tuple[Folder, int]]:
        return LatentReader, (self.folder, self._cache_bytes)

    @cached_property
    def _contents(self) -> tuple[dict[int, _Place], str]:
        """(stay_id -> place, digest of the encoder), from the index."""
        table, metadata = read_index(self.folder, SCHEMA_VERSION)
        columns = (table[name].to_pylist() for name in INDEX_SCHEMA.names)
        places = {stay_id: _Place(file, first_row, num_hours) for stay_id, file, first_row, num_hours in zip(*columns, strict=True)}
        return places, metadata[b"encoder_digest"].decode()

    @property
    def _index(self) -> dict[int, _Place]:
        return self._contents[0]

    @property
    def encoder_digest(self) -> str:
        """Content digest of the encoder that made the latents."""
        return self._contents[1]

    def check_encoder(self, encoder_digest: str, encoder: str) -> None:
        """Raise StoreError unless the encoder with this digest made the latents. encoder: its folders, for the message."""
        if self.encoder_digest != encoder_digest:
            raise StoreError(
                f"{self.folder.address} holds latents of another encoder than {encoder}: that was made again since, or they never belonged "
                f"together; remove {self.folder.address} and run again, or name its own encoder"
            )

    @property
    def stay_ids(self) -> list[int]:
        """Ids of all stays, sorted."""
        return list(self._index)

    @cached_property
    def dim(self) -> int:
        """Width D of a latent."""
        return self._header(next(iter(self._index.values())).file).rows.dim

    def num_hours(self, stay_id: int) -> int:
        """Hours T of a stay."""
        return self._place(stay_id).num_hours

    @cached_property
    def stored_dtype(self) -> np.dtype:
        """dtype of `stored`: float32, or uint16 for the bits of bfloat16."""
        return self._header(next(iter(self._index.values())).file).rows.numpy_dtype

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(z_static_D, z_state_TD, z_action_TD) as float32 of hours start_hour to start_hour + num_hours - 1 (default: to the end).

        Raises:
            StoreError: the store lacks the stay or the hours.
        """
        z_static, z_state, z_action = (to_float32(part) for part in self.stored(stay_id, start_hour, num_hours))
        return z_static, z_state, z_action

    def stored(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Like `stay`, in the `stored_dtype` on disk; the arrays are read-only."""
        file, first, total = self._place(stay_id)
        count = total - start_hour if num_hours is None else num_hours
        if start_hour < 0 or count < 0 or start_hour + count > total:
            raise StoreError(
                f"{self.folder.address}: hours {start_hour} to {start_hour + count} were asked of a stay of {total} h; "
                "the windows belong to another store"
            )
        header = self._header(file)
        states, actions = 1 + start_hour, 1 + total + start_hour
        if (2 * total + 1) * header.rows.row_bytes <= WHOLE_STAY_BYTES:
            block = self._rows(file, first, 2 * total + 1)
            parts = (block[:1], block[states : states + count], block[actions : actions + count])
        else:
            parts = (self._rows(file, first, 1), self._rows(file, first + states, count), self._rows(file, first + actions, count))
        return parts[0][0], parts[1], parts[2]

    def _place(self, stay_id: int) -> _Place:
        if stay_id not in self._index:
            raise StoreError(f"{self.folder.address} does not hold a stay that was asked for; it belongs to another trajectory store")
        return self._index[stay_id]

    def _header(self, file: str) -> _Header:
        if file not in self._headers:
            self._headers[file] = _read_header(self.folder, file)
        return self._headers[file]

    def _rows(self, file: str, first: int, count: int) -> np.ndarray:
        """Rows in the dtype on disk, [count, D]; safe to call from several threads."""
        key = (file, first, count)
        with self._lock:
            if key in self._cache:
                self._cache.move_to_end(key)
                return self._cache[key]
        rows = read_rows(self.folder, file, self._header(file).rows, first, count)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = rows
                self._cached_bytes += rows.nbytes
            while self._cached_bytes > self._cache_bytes and len(self._cache) > 1:
                self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return rows


class _Header(NamedTuple):
    """Header of a latent file, and the stays that its rows belong to."""

    rows: RowsHeader
    encoder_digest: str
    stay_ids: list[int]
    num_hours: list[int]


def _read_header(folder: Folder, file: str) -> _Header:
    rows = read_header(folder, file, SCHEMA_VERSION)
    try:
        ids, hours = (json.loads(rows.metadata[name]) for name in ("stay_ids", "num_hours"))
        return _Header(rows, rows.metadata["encoder_digest"], ids, hours)
    except (ValueError, KeyError):
        raise not_a_latent_file(folder, file) from None


def _index_rows(file: str, stay_ids: list[int], num_hours: list[int]) -> list[IndexRow]:
    first_rows: list[int] = np.concatenate([[0], np.cumsum([2 * hours + 1 for hours in num_hours])]).astype(np.int64).tolist()
    return [
        {"stay_id": stay, "file": file, "first_row": row, "num_hours": hours}
        for stay, row, hours in zip(stay_ids, first_rows[:-1], num_hours, strict=True)
    ]
