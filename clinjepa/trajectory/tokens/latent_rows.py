"""Files of latents: rows [R, D] as a safetensors file with one tensor, `latents`, and text metadata; written whole, read by byte range.

The latent store and the store of changed actions are made of these files; their metadata say which rows belong to which stay.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from clinjepa.errors import StoreError
from clinjepa.storage import Folder

LatentDtype = Literal["float32", "bfloat16"]
_DTYPES: dict[str, tuple[str, np.dtype]] = {"F32": ("float32", np.dtype("<f4")), "BF16": ("bfloat16", np.dtype("<u2"))}


@dataclass(frozen=True)
class RowsHeader:
    """Header of a file: where its rows start, their width and dtype, and its metadata."""

    num_rows: int
    dim: int
    dtype: str
    numpy_dtype: np.dtype
    """float32, or uint16 for the bits of bfloat16."""
    data_start: int
    metadata: Mapping[str, str]

    @property
    def row_bytes(self) -> int:
        return self.dim * self.numpy_dtype.itemsize


def rows_file(part: str, rows_RD: np.ndarray, dtype: LatentDtype, metadata: Mapping[str, str]) -> bytes:
    """The content of a file of latents.

    Args:
        part: name of the part in messages.
        rows_RD: float32; `bfloat16` rounds to nearest even.
        dtype: of the file.
        metadata: what the header says beside the tensor.

    Raises:
        StoreError: a value is not finite.
    """
    num_bad = int((~np.isfinite(rows_RD)).any(axis=1).sum())
    if num_bad:
        raise StoreError(f"part {part}: {num_bad} latents are not finite; the encoder diverged, or its precision does not suffice")
    data = _to_bfloat16(rows_RD) if dtype == "bfloat16" else rows_RD
    code = next(code for code, (name, _) in _DTYPES.items() if name == dtype)
    tensor = {"dtype": code, "shape": list(rows_RD.shape), "data_offsets": [0, data.nbytes]}
    header = json.dumps({"__metadata__": metadata, "latents": tensor}).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data.tobytes()


def read_header(folder: Folder, file: str, schema_version: int) -> RowsHeader:
    """The header of a file of latents.

    Args:
        folder: the store.
        file: path of the file in it.
        schema_version: the version that the caller reads; `schema_version` in the metadata must be equal.

    Raises:
        StoreError: the file is damaged or of another schema version.
    """
    try:
        (length,) = struct.unpack("<Q", folder.read_bytes(file, 0, 8))
        fields = json.loads(folder.read_bytes(file, 8, 8 + length))
        tensor, metadata = fields["latents"], fields["__metadata__"]
        version = metadata["schema_version"]
        if version == str(schema_version):
            dtype, numpy_dtype = _DTYPES[tensor["dtype"]]
            num_rows, dim = tensor["shape"]
            return RowsHeader(num_rows, dim, dtype, numpy_dtype, 8 + length + tensor["data_offsets"][0], metadata)
    except (struct.error, ValueError, KeyError, OverflowError):
        raise not_a_latent_file(folder, file) from None
    raise StoreError(
        f"{folder.address}/{file} has schema version {version}, this code reads {schema_version}; remove {folder.address} and run again"
    )


def read_rows(folder: Folder, file: str, header: RowsHeader, first: int, count: int) -> np.ndarray:
    """Rows in the dtype on disk, [count, D]. Raises StoreError if the file is shorter than its header says."""
    start = header.data_start + first * header.row_bytes
    data = folder.read_bytes(file, start, start + count * header.row_bytes) if count else b""
    if len(data) != count * header.row_bytes:
        raise StoreError(f"{folder.address}/{file} is shorter than its header says: it was cut; remove its folder and run again")
    return np.frombuffer(data, dtype=header.numpy_dtype).reshape(count, header.dim)


def to_float32(rows: np.ndarray) -> np.ndarray:
    """A float32 copy, whatever the precision on disk."""
    return (rows.astype(np.uint32) << 16).view(np.float32) if rows.dtype == np.uint16 else rows.astype(np.float32)


def as_stored(rows_RD: np.ndarray, dtype: LatentDtype) -> np.ndarray:
    """Rows as a reader of a store of that dtype gets them, float32. rows_RD: float32, finite."""
    return to_float32(_to_bfloat16(rows_RD) if dtype == "bfloat16" else rows_RD)


def not_a_latent_file(folder: Folder, file: str) -> StoreError:
    """The error for a header that cannot be read."""
    return StoreError(f"{folder.address}/{file} is not a latent file: it was altered or cut; remove its folder and run again")


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The bits of bfloat16, uint16, rounded to nearest even. values: float32, finite."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def read_index(folder: Folder, schema_version: int) -> tuple[pa.Table, dict[bytes, bytes]]:
    """`index.parquet` of a finished store and its metadata.

    Raises:
        StoreError: The index has another schema version.
    """
    table = folder.read_table("index.parquet")
    metadata = table.schema.metadata or {}
    version = metadata.get(b"schema_version", b"none").decode()
    if version != str(schema_version):
        raise StoreError(
            f"{folder.address} has schema version {version}, this code reads {schema_version}; remove the folder and run again"
        )
    return table, metadata
