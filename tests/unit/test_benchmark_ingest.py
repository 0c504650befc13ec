"""The ingest benchmark's own arithmetic: copies whose ids all move, the scaling exponent, the extrapolation."""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pytest

from benchmarks.harness import Cost
from benchmarks.ingest import FULL_SIZE, Size, extrapolated, scaling_exponent
from benchmarks.mimic_copies import copy_demo, moved

TABLE = pl.DataFrame({"subject_id": ["10"], "hadm_id": [None], "pharmacy_id": ["7"], "poe_id": ["10-3"], "itemid": ["220045"]})


def write(folder: Path, name: str, text: str) -> None:
    path = folder / f"{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def test_every_id_of_a_copy_moves_and_nothing_else_does():
    copied = moved(TABLE.with_columns(pl.col("hadm_id").cast(pl.String)), 2)
    assert copied.rows() == [("200010", None, "200000007", "200010-3", "220045")]


def test_copies_have_the_rows_of_the_demo_times_the_factor_and_no_id_twice(tmp_path):
    write(tmp_path / "demo", "icu/icustays", "subject_id,stay_id\n10,30\n11,31\n")
    write(tmp_path / "demo", "icu/d_items", "itemid,label\n1,one\n")
    rows = copy_demo(tmp_path / "demo", tmp_path / "out", 3)
    stays = pl.read_csv(gzip.decompress((tmp_path / "out" / "icu" / "icustays.csv.gz").read_bytes()))
    assert (rows, stays.height, stays["stay_id"].n_unique(), stays["subject_id"].n_unique()) == (
        {"icu/icustays": 6, "icu/d_items": 1},
        6,
        6,
        6,
    )


def test_the_first_copy_is_the_demo_itself(tmp_path):
    write(tmp_path / "demo", "hosp/patients", 'subject_id,gender,note\n10,F,"a, b"\n')
    copy_demo(tmp_path / "demo", tmp_path / "out", 1)
    assert gzip.decompress((tmp_path / "out" / "hosp" / "patients.csv.gz").read_bytes()) == b'subject_id,gender,note\n10,F,"a, b"\n'


def test_time_that_doubles_with_size_beyond_the_start_up_has_exponent_one():
    assert scaling_exponent((20.0, 4.0 + 10.0), (40.0, 4.0 + 20.0), 4.0) == pytest.approx(1.0)


def size(factor: int, chart_rows: int, stays: int, project: Cost, extract: float, ingest: float, unzip: float) -> Size:
    return Size(
        factor=factor,
        rows={"icu/chartevents": chart_rows, "icu/icustays": stays},
        project=project,
        limit=Cost(1.0, 1.0, 1),
        steps={"extract": extract, "ingest": ingest},
        results={},
        unzip=Cost(unzip, unzip, 1),
    )


def test_the_extrapolation_takes_reading_by_rows_and_the_rest_by_stays():
    """100 further CPU s, a quarter of the further wall time is reading: 25 s x 10 (rows) + 75 s x 100 (stays) = 7,750 s, on 16 cores
    484.4 s; of 30 and 50 s of wall time 10 s are the start, since the larger size is twice the smaller."""
    rows, stays = FULL_SIZE["chartevents"] // 10, FULL_SIZE["stays"] // 100
    small = size(1, rows, stays, Cost(30.0, 60.0, 3 * 10**9), 5.0, 15.0, 2.0)
    large = size(2, 2 * rows, 2 * stays, Cost(50.0, 160.0, 3 * 10**9), 10.0, 30.0, 4.0)
    found = extrapolated(small, large, Cost(4.0, 10.0, 10**9), cpus=2)
    assert found["cpu_seconds"] == pytest.approx(7750, rel=1e-3)
    assert found["minutes"] == pytest.approx((10 + 7750 / 16) / 60, rel=1e-3)
    assert found["decompression_floor_seconds"] == pytest.approx(20.0)
    assert found["peak_gb"] == pytest.approx(1 + 2 * 8)
