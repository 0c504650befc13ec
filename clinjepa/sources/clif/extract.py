"""Extraction of one CLIF table: its Parquet file is streamed once into files that can be read by patient.

Kept are rows of patients with an ICU stay, near these stays, of the categories in use; of continuous drugs those of all times.
Memory does not depend on the size of the table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from clinjepa.errors import SourceError
from clinjepa.sources.clif.clocks import date_columns
from clinjepa.sources.clif.tables import Table, as_category, category, check_columns, clif_map, typed
from clinjepa.sources.files.arrow_types import plain_decimals
from clinjepa.sources.files.buckets import BucketWriter, bucket_of
from clinjepa.sources.schema import longest_lookback_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

SCHEMA_VERSION = 4
_MARGIN_HOURS = 24
_BYTES_A_ROW = 400
_MOST_ROWS = 1_000_000


@dataclass(frozen=True)
class Owners:
    """Whose rows are kept. `table`: hospitalization_id (text), hadm_id, subject_id, bucket, earliest, latest, one row per hospitalisation
    of a patient with an ICU stay. num_buckets: of the whole extraction."""

    table: pl.DataFrame
    num_buckets: int

    @classmethod
    def of(cls, hospitalizations: pl.DataFrame, stays: pl.DataFrame, num_buckets: int) -> Owners:
        """From all hospitalisations (hospitalization_id, hadm_id, patient_id, subject_id) and the usable stays."""
        margin = pl.duration(hours=_MARGIN_HOURS)
        windows = stays.group_by("subject_id").agg(
            (pl.col("intime").min() - pl.duration(hours=longest_lookback_hours()) - margin).alias("earliest"),
            (pl.col("outtime").max() + margin).alias("latest"),
        )
        table = hospitalizations.join(windows, on="subject_id", how="inner", maintain_order="left")
        return cls(table.with_columns(bucket_of(pl.col("subject_id"), num_buckets).alias("bucket")), num_buckets)


def blocks(
    folder: Folder, table: Table, zone: str, counts: Counter[str] | None = None, num_rows: int = _MOST_ROWS
) -> Iterator[pl.DataFrame]:
    """The rows of a table's file in blocks, with `row`, the number of each in the file.

    counts: Receives `midnight_is_date:<column>`, timestamps that are taken as dates because all of their column have no time of day.

    Raises:
        SourceError: The file cannot be read, or a column is missing or of another type.
    """
    where = f"{folder.address}/{table.file}"
    try:
        with folder.local_copy(table.file) as path, pq.ParquetFile(path) as file:
            columns = check_columns(table, file.schema_arrow, where)
            dates = _dates(file, table, columns, Counter() if counts is None else counts)
            first = 0
            for batch in file.iter_batches(batch_size=num_rows, columns=columns):
                numbers = pa.array(range(first, first + batch.num_rows), pa.int64())
                yield typed(plain_decimals(batch).append_column("row", numbers), table, zone, dates)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise SourceError(
            f"{where}: not a readable Parquet file ({type(error).__name__}); it was cut or altered, get the file again"
        ) from None


def _dates(file: pq.ParquetFile, table: Table, columns: list[str], counts: Counter[str]) -> dict[str, str]:
    """Columns of `table.dates` that hold dates, with the zone in which they are read; the timestamps among them are counted."""
    chosen = [
        name for name in columns if name in table.midnights or name in table.dates and pa.types.is_date(file.schema_arrow.field(name).type)
    ]
    if not chosen:
        return {}
    rows = file.read(columns=chosen)
    found = date_columns(rows)
    for name in found:
        if pa.types.is_timestamp(rows[name].type):
            counts[f"midnight_is_date:{name}"] += len(rows[name]) - rows[name].null_count
    return found


def whole(folder: Folder, table: Table, zone: str) -> pl.DataFrame:
    """All rows of a small table; SourceError when there is none."""
    frames = list(blocks(folder, table, zone))
    if not sum(frame.height for frame in frames):
        raise SourceError(f"{folder.address}/{table.file}: the table has no row; get the file again")
    return pl.concat(frames)


def extract_table(folder: Folder, table: Table, owners: Owners, zone: str, out: Folder, memory_mb: int) -> dict[str, int]:
    """Stream one table into `out/<table>/`; a finished table is not read again.

    Returns:
        Rows left out, by rule: `unmapped_code`, `no_icu_stay` (of a patient without an ICU stay, or without a known id), `without_time`,
        `outside_stay`, `empty_table:<table>`; and `midnight_is_date:<column>`.
    """
    finished = finished_part(out, table.name, SCHEMA_VERSION)
    if finished is not None:
        known: dict[str, int] = finished["counts"]
        return known
    counts: Counter[str] = Counter()
    budget = max(1, memory_mb // 4) * 2**20
    writer = BucketWriter(out, table.name, owners.num_buckets, budget)
    num_rows = 0
    for frame in blocks(folder, table, zone, counts, min(_MOST_ROWS, max(10_000, budget // _BYTES_A_ROW))):
        writer.add(_kept(frame, table, owners, counts))
        num_rows += frame.height
    if not num_rows:
        counts[f"empty_table:{table.name}"] += 1
        empty = pa.schema([(name, pa.string()) for name, kind in table.all_columns.items() if kind in ("id", "text")]).empty_table()
        writer.add(_kept(typed(empty.append_column("row", pa.array([], pa.int64())), table, zone), table, owners, Counter()))
    left_out = {rule: number for rule, number in sorted(counts.items()) if number}
    record = {"schema_version": SCHEMA_VERSION, "files": writer.close(), "num_rows": num_rows, "num_kept": writer.num_rows}
    write_record(out, table.name, record | {"counts": left_out})
    return left_out


def _kept(frame: pl.DataFrame, table: Table, owners: Owners, counts: Counter[str]) -> pl.DataFrame:
    """The rows in use, with hadm_id, subject_id and bucket; cheap and selective rules come first."""
    if table.category is not None:
        used = [as_category(word) for word in _categories(table.name)]
        frame = _keep(frame, category(table.category).is_in(used), "unmapped_code", counts)
    if table.name == "patient":
        ids = owners.table.unique("patient_id", keep="first", maintain_order=True).select("patient_id", "subject_id", "bucket")
        return _keep(
            frame.join(ids, on="patient_id", how="left", maintain_order="left"), pl.col("bucket").is_not_null(), "no_icu_stay", counts
        )
    ids = owners.table.drop("patient_id")
    frame = _keep(
        frame.join(ids, on="hospitalization_id", how="left", maintain_order="left"), pl.col("bucket").is_not_null(), "no_icu_stay", counts
    )
    if table.time is not None:
        fallback = [table.fallback] if table.fallback is not None else []
        frame = frame.with_columns(pl.coalesce(table.time, *fallback).alias(table.time))
        frame = _keep(frame, pl.col(table.time).is_not_null(), "without_time", counts)
        near = pl.col(table.time).is_between(pl.col("earliest"), pl.col("latest"))
        frame = frame if table.holds else _keep(frame, near, "outside_stay", counts)
    return frame.drop("earliest", "latest")


def _categories(table: str) -> list[str]:
    """Categories in use of a table that has a column of them."""
    known = clif_map()
    return {
        "vitals": list(known["vitals"]),
        "labs": list(known["labs"]),
        "patient_assessments": list(known["assessments"]),
    }[table]


def _keep(frame: pl.DataFrame, condition: pl.Expr, rule: str, counts: Counter[str]) -> pl.DataFrame:
    kept = frame.filter(condition)
    if kept.height < frame.height:
        counts[rule] += frame.height - kept.height
    return kept
