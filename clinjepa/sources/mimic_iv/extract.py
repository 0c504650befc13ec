"""Extraction of one MIMIC-IV table: its csv is streamed once into Parquet files that can be read by patient.

A patient belongs to one of `num_buckets` buckets, by a fixed function of the subject id. Kept are rows of patients with an ICU stay,
of items in use, near these stays. Each chunk file has one row group per bucket, so a bucket is read without the others. The record
under `parts/` is written last. Memory does not depend on the size of the table; only the number of chunks does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.errors import SourceError
from clinjepa.sources.files.buckets import BucketWriter, bucket_of, read_rows_of_bucket
from clinjepa.sources.files.csv_rows import CsvFile, Keep, parse_times
from clinjepa.sources.files.csv_stream import ScanPlan, scan
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.mimic_iv.tables import Table
from clinjepa.sources.schema import longest_lookback_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

SCHEMA_VERSION = 3
_MARGIN_HOURS = 24
"""Margin around the stays' windows beyond the longest look-back: dates without a time are at 00:00. `read` cuts exactly."""

_DROPPED_AFTER_USE = ("warning", "statusdescription", "bucket")


@dataclass(frozen=True)
class Patients:
    """Patients whose rows are kept. `table`: subject_id, bucket, earliest, latest (times). `num_buckets`: of the whole extraction."""

    table: pl.DataFrame
    num_buckets: int

    @classmethod
    def of(cls, stays: pl.DataFrame, num_buckets: int) -> Patients:
        """The patients of usable stays (subject_id, intime, outtime)."""
        before = pl.duration(hours=longest_lookback_hours() + _MARGIN_HOURS)
        table = stays.group_by("subject_id").agg(
            (pl.col("intime").min() - before).alias("earliest"),
            (pl.col("outtime").max() + pl.duration(hours=_MARGIN_HOURS)).alias("latest"),
        )
        return cls(table.with_columns(bucket_of(pl.col("subject_id"), num_buckets).alias("bucket")), num_buckets)


def extract_table(
    file: CsvFile, table: Table, patients: Patients, out: Folder, memory_mb: int, reasons: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Stream one table into `out/<table>/`. A finished table is not read again.

    Args:
        file: The table's csv.
        table: Columns, time column and kind of the table.
        patients: Patients whose rows are kept.
        out: Folder of the extraction.
        memory_mb: Memory that this call may use.
        reasons: Rule -> rows whose specific reason is known; they are subtracted from `no_icu_stay`.

    Returns:
        Rows left out, by rule: `unmapped_code` (items that map to nothing), `no_icu_stay`, `without_stay`, `without_time`,
        `outside_stay`, `flagged_by_warning`, `rewritten`, `empty_table:<table>`.
    """
    finished = finished_part(out, table.name, SCHEMA_VERSION)
    if finished is not None:
        known: dict[str, int] = finished["counts"]
        return known
    plan = ScanPlan.within(memory_mb)
    counts: Counter[str] = Counter()
    writer = BucketWriter(out, table.name, patients.num_buckets, plan.buffer_bytes)
    num_rows = 0
    for frame, rows_of_block in scan(file, plan, _row_filter(file, table, patients), counts):
        writer.add(frame)
        num_rows += rows_of_block
    if not num_rows:
        if table.needed and table.time is None:
            raise SourceError(f"{file.where}: there is a header but no row; get the file again")
        counts[f"empty_table:{table.name}"] += 1
        writer.add(_row_filter(file, table, patients)(_empty(file), Counter()))
    counts.update(reasons or {})
    counts["no_icu_stay"] -= sum((reasons or {}).values())
    left_out = {rule: number for rule, number in sorted(counts.items()) if number}
    record = {
        "schema_version": SCHEMA_VERSION,
        "files": writer.close(),
        "num_rows": num_rows,
        "num_kept": writer.num_rows,
        "counts": left_out,
    }
    write_record(out, table.name, record)
    return left_out


def read_bucket(extracted: Folder, table: str, bucket: int) -> pl.DataFrame:
    """The rows of one bucket of an extracted table, in the file's order."""
    return read_rows_of_bucket(extracted, table, bucket, SCHEMA_VERSION)


def _row_filter(file: CsvFile, table: Table, patients: Patients) -> Keep:
    """The function that selects rows of a block; cheap and selective rules come first."""
    items = pl.Series(_items_in_use(table.name)) if table.items else None
    texts = _items_read_as_text(table.name)
    has_stays = "stay_id" in table.columns
    absent = [name for name in table.optional if name not in file.columns]
    types = {"integer": pl.Int64(), "number": pl.Float64(), "text": pl.String(), "time": pl.Datetime("us")}

    def keep(frame: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        if items is not None:
            frame = _keep(frame, pl.col("itemid").is_in(items.implode()), "unmapped_code", counts)
        if "warning" in frame.columns:
            frame = _keep(frame, pl.col("warning").fill_null(0) == 0, "flagged_by_warning", counts)
        if "statusdescription" in frame.columns:
            frame = _keep(frame, pl.col("statusdescription").ne_missing("Rewritten"), "rewritten", counts)
        frame = _keep(
            frame.join(patients.table, on="subject_id", how="left", maintain_order="left"),
            pl.col("bucket").is_not_null(),
            "no_icu_stay",
            counts,
        )
        if has_stays and table.time is not None:
            frame = _keep(frame, pl.col("stay_id").is_not_null(), "without_stay", counts)
        frame = parse_times(frame, file)
        if table.time is not None:
            frame = _keep(frame, pl.col(table.time).is_not_null(), "without_time", counts)
            frame = _keep(frame, pl.col(table.time).is_between(pl.col("earliest"), pl.col("latest")), "outside_stay", counts)
        if texts and "value" in frame.columns:
            frame = frame.with_columns(pl.when(pl.col("itemid").is_in(texts)).then(pl.col("value")).alias("value"))
        frame = frame.with_columns(pl.lit(None, types[table.optional[name]]).alias(name) for name in absent)
        return frame.select("row", *table.columns, *(name for name in table.optional if name not in _DROPPED_AFTER_USE), "bucket")

    return keep


def _keep(frame: pl.DataFrame, condition: pl.Expr, rule: str, counts: Counter[str]) -> pl.DataFrame:
    kept = frame.filter(condition)
    if kept.height < frame.height:
        counts[rule] += frame.height - kept.height
    return kept


def _empty(file: CsvFile) -> pl.DataFrame:
    types = {"integer": pl.Int64, "number": pl.Float64, "text": pl.String, "time": pl.String}
    return pl.DataFrame(schema={name: types[kind] for name, kind in file.columns.items()} | {"row": pl.Int64})


@lru_cache(maxsize=8)
def _items_in_use(table: str) -> list[int]:
    """Item ids of a table that map to a variable or a named medication, or that have their own rule of dropping."""
    items = {
        item for variable in load_variables().values() for source in variable.sources if source.table == table for item in source.itemids
    }
    if table == "labevents":
        items.add(mimic_map()["specimens"]["item"])
    if table == "inputevents":
        items |= {item for group in mimic_map()["medication_items"].values() for item in group} | set(mimic_map()["dropped_items"])
    return sorted(items)


@lru_cache(maxsize=8)
def _items_read_as_text(table: str) -> list[int]:
    """Items whose text is read: charted categories, items with a conversion that tests the text, the specimen of a blood gas."""
    if table == "labevents":
        return [mimic_map()["specimens"]["item"]]
    return sorted(
        {
            item
            for variable in load_variables().values()
            if variable.kind == "category" or any(rule.text is not None for rule in variable.conversions)
            for source in variable.sources
            if source.table == table == "chartevents"
            for item in source.itemids
        }
    )
