"""Extraction of a mapped MEDS data set: its files streamed into buckets of patients, with counts of the codes that the map lacks.

Kept are rows of the map's codes, of patients with an ICU stay, near these stays. Memory does not depend on the size of the files.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import polars as pl

from clinjepa.clinical.code_maps import CodeMap
from clinjepa.sources.files.buckets import BucketWriter, bucket_of
from clinjepa.sources.mapped_meds.codes import CodeReader
from clinjepa.sources.mapped_meds.coverage import CoverageCounter
from clinjepa.sources.mapped_meds.files import blocks
from clinjepa.sources.schema import longest_lookback_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

SCHEMA_VERSION = 3
_MARGIN_HOURS = 24
_BYTES_A_ROW = 300
_MOST_ROWS = 1_000_000
_KEPT = ("subject_id", "time", "key", "rest", "numeric_value", "text_value", "unit", "order", "stored", "row", "bucket")


@dataclass(frozen=True)
class StayWindows:
    """Whose rows are kept. patients: subject_id, bucket, earliest, latest. stays: subject_id, intime, outtime, sorted by intime.

    An unknown end of a stay is null.
    """

    patients: pl.DataFrame
    stays: pl.DataFrame
    num_buckets: int

    @classmethod
    def of(cls, stays: pl.DataFrame, num_buckets: int) -> StayWindows:
        """From the usable stays (`structure.icu_stays`)."""
        margin, latest = pl.duration(hours=_MARGIN_HOURS), pl.col("outtime").max() + pl.duration(hours=_MARGIN_HOURS)
        patients = stays.group_by("subject_id", maintain_order=True).agg(
            (pl.col("intime").min() - pl.duration(hours=longest_lookback_hours()) - margin).alias("earliest"),
            pl.when(pl.col("outtime").is_null().any()).then(None).otherwise(latest).alias("latest"),
        )
        patients = patients.with_columns(bucket_of(pl.col("subject_id"), num_buckets).alias("bucket"))
        return cls(patients, stays.select("subject_id", "intime", "outtime").sort("intime"), num_buckets)


@dataclass(frozen=True)
class Piece:
    """Files that are extracted together: name -> place among all files of the data set."""

    name: str
    files: dict[str, int]


def extract_piece(folder: Folder, piece: Piece, code_map: CodeMap, windows: StayWindows, out: Folder, memory_mb: int) -> dict[str, int]:
    """Stream a piece's files into `out/<piece>/`; a finished piece is not read again.

    Returns:
        Rows left out, by rule: `row_without_subject`, `row_without_code`, `no_icu_stay`, `unmapped_code`, `excluded:not_used`,
        `row_without_time`, `outside_stay`.
    """
    finished = finished_part(out, piece.name, SCHEMA_VERSION)
    if finished is not None:
        known: dict[str, int] = finished["counts"]
        return known
    counts: Counter[str] = Counter()
    coverage, reader = CoverageCounter(), CodeReader(code_map)
    budget = max(1, memory_mb // 4) * 2**20
    writer = BucketWriter(out, piece.name, windows.num_buckets, budget)
    block_rows = min(_MOST_ROWS, max(10_000, budget // _BYTES_A_ROW))
    for name, place in piece.files.items():
        for block in blocks(folder, name, code_map, place, block_rows):
            writer.add(_kept(block, reader, windows, counts, coverage))
    if not writer.num_rows:
        writer.add(_kept(_nothing(), reader, windows, Counter(), CoverageCounter()))
    left_out = {rule: number for rule, number in sorted(counts.items()) if number}
    record = {"schema_version": SCHEMA_VERSION, "files": writer.close(), "num_kept": writer.num_rows}
    write_record(out, piece.name, record | {"counts": left_out, "coverage": coverage.result()})
    return left_out


def _kept(block: pl.DataFrame, reader: CodeReader, windows: StayWindows, counts: Counter[str], coverage: CoverageCounter) -> pl.DataFrame:
    """The rows in use, with key, rest and bucket; cheap and selective rules come first."""
    rows = _keep(block, pl.col("subject_id").is_not_null(), "row_without_subject", counts)
    rows = _keep(rows, pl.col("code").is_not_null(), "row_without_code", counts)
    rows = rows.join(windows.patients, on="subject_id", how="left", maintain_order="left")
    rows = reader.place(_keep(rows, pl.col("bucket").is_not_null(), "no_icu_stay", counts))
    coverage.add(_inside(rows, windows))
    rows = _keep(rows, pl.col("kind").is_not_null(), "unmapped_code", counts)
    rows = _keep(rows, pl.col("kind") != "not_used", "excluded:not_used", counts)
    rows = rows.filter(pl.col("kind") == "code")  # rows of structure are read on their own
    rows = _keep(rows, pl.col("time").is_not_null(), "row_without_time", counts)
    near = (pl.col("time") >= pl.col("earliest")) & (pl.col("latest").is_null() | (pl.col("time") <= pl.col("latest")))
    return _keep(rows, near, "outside_stay", counts).select(_KEPT)


def _inside(rows: pl.DataFrame, windows: StayWindows) -> pl.DataFrame:
    """Rows at a time inside an ICU stay of their patient."""
    timed = rows.filter(pl.col("time").is_not_null()).select("subject_id", "time", "code", "numeric_value", "kind").sort("time")
    found = timed.join_asof(windows.stays, left_on="time", right_on="intime", by="subject_id", strategy="backward", check_sortedness=False)
    return found.filter(pl.col("intime").is_not_null() & (pl.col("outtime").is_null() | (pl.col("time") <= pl.col("outtime"))))


def _keep(frame: pl.DataFrame, condition: pl.Expr, rule: str, counts: Counter[str]) -> pl.DataFrame:
    kept = frame.filter(condition)
    if kept.height < frame.height:
        counts[rule] += frame.height - kept.height
    return kept


def _nothing() -> pl.DataFrame:
    text = dict.fromkeys(("code", "text_value", "stay", "hospitalization", "unit", "order", "care_unit"), pl.String())
    number = dict.fromkeys(("subject_id", "row"), pl.Int64())
    return pl.DataFrame(schema={**number, **text, "time": pl.Datetime("us"), "stored": pl.Datetime("us"), "numeric_value": pl.Float64()})
