"""Rows of a large table stored by bucket of patients, so that a bucket is read without the others.

A patient belongs to one of `num_buckets` buckets, by a fixed function of the subject id. Each chunk file has one row group per bucket.
"""

from __future__ import annotations

import hashlib
import io
from typing import TypedDict

import polars as pl
import pyarrow.parquet as pq

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.storage.parts import RECORDS, PartFile

_TURNS = 8
"""Number of groups of buckets that a chunk is sorted and written in."""


def bucket_of(subject_id: pl.Expr, num_buckets: int) -> pl.Expr:
    """0 … num_buckets − 1 by Knuth's multiplicative hash: consecutive and evenly spaced ids are distributed evenly, on any machine."""
    return ((subject_id.abs().cast(pl.UInt64) % 2**31 * 2654435761 % 2**32) // 2**8 % num_buckets).cast(pl.Int32)


class PatientBucket(TypedDict):
    """A partition: patients of one bucket (`bucket_of`), and the last stay id to read (null: all)."""

    bucket: int
    max_stay_id: int | None


def patient_buckets(stays: pl.DataFrame, num_buckets: int, is_limited: bool) -> list[PatientBucket]:
    """Buckets with at least one stay. stays: stay_id, subject_id. is_limited: whether no stay after the last of these is read."""
    buckets = stays.select(bucket_of(pl.col("subject_id"), num_buckets).unique().sort()).to_series().to_list()
    last = int(stays["stay_id"].max()) if is_limited else None  # type: ignore[arg-type]
    return [{"bucket": bucket, "max_stay_id": last} for bucket in buckets]


def read_rows_of_bucket(extracted: Folder, table: str, bucket: int, version: int) -> pl.DataFrame:
    """The rows of one bucket of an extracted table, in the file's order; StoreError for a record of another schema version."""
    record = extracted.read_json(f"{RECORDS}/{table}.json")
    if record.get("schema_version") != version:
        raise StoreError(f"{extracted.address} was extracted by another version; remove the folder and run again")
    frames = [pl.DataFrame(extracted.read_row_group(file["name"], bucket)) for file in record["files"]]
    return pl.concat(frames)


class BucketWriter:
    """Collects rows up to `buffer_bytes`, then writes them as a file with one row group per bucket."""

    def __init__(self, out: Folder, table: str, num_buckets: int, buffer_bytes: int) -> None:
        self._out, self._table, self._num_buckets, self._limit = out, table, num_buckets, buffer_bytes
        self._frames: list[pl.DataFrame] = []
        self._held = 0
        self._files: list[PartFile] = []
        self.num_rows = 0

    def add(self, frame: pl.DataFrame) -> None:
        self._frames.append(frame)
        self._held += _held_bytes(frame)
        self.num_rows += frame.height
        if self._held >= self._limit:
            self._write()

    def close(self) -> list[PartFile]:
        if self._held or not self._files:
            self._write()
        return self._files

    def _write(self) -> None:
        rows = pl.concat(self._frames, rechunk=False)
        self._frames, self._held = [], 0
        num_rows, sink, writer = rows.height, io.BytesIO(), None
        # A few buckets at a time: sorting and converting all rows at once would take three times as much memory in addition.
        for first in range(0, self._num_buckets, -(-self._num_buckets // _TURNS)):
            buckets = range(first, min(first + -(-self._num_buckets // _TURNS), self._num_buckets))
            chosen = rows.filter(pl.col("bucket").is_between(buckets[0], buckets[-1])).sort("bucket", maintain_order=True)
            sizes = dict(chosen.group_by("bucket").len().iter_rows())
            table = chosen.drop("bucket").to_arrow(compat_level=pl.CompatLevel.oldest())
            writer = writer or pq.ParquetWriter(sink, table.schema, compression="zstd")
            start = 0
            for bucket in buckets:
                size = sizes.get(bucket, 0)
                writer.write_table(table.slice(start, size), row_group_size=max(1, size))
                start += size
        if writer is not None:
            writer.close()
        data = sink.getvalue()
        name = f"{self._table}/chunk-{len(self._files):05d}.parquet"
        self._out.write_bytes(name, data)
        self._files.append({"name": name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), "num_rows": num_rows})


def _held_bytes(frame: pl.DataFrame) -> int:
    """Memory of a frame. polars' own estimate omits the 16 bytes of a string's view."""
    return int(frame.estimated_size()) + 16 * frame.height * sum(kind == pl.String for kind in frame.schema.values())
