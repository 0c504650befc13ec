"""The ingest benchmark's own arithmetic: copies whose ids all move, the scaling exponent, the extrapolation."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmarks.ingest import FULL_SIZE, Size, extrapolated, scaling_exponent
from benchmarks.support.harness import Cost, StepCost
from benchmarks.support.mimic_copies import copy_demo, moved

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


def size(factor: int, chart_rows: int, stays: int, wall: float, reading: StepCost, rest: StepCost, unzip: float) -> Size:
    steps = {"extract": reading, "ingest": rest}
    return Size(
        factor=factor,
        rows={"icu/chartevents": chart_rows, "icu/icustays": stays},
        project=Cost(wall, reading.cpu_seconds + rest.cpu_seconds, rest.peak_bytes, steps),
        limit=Cost(1.0, 1.0, 1),
        steps={},
        results={},
        unzip=Cost(unzip, unzip, 1),
    )


def of_twice_the_size(extract_bytes: int) -> dict[str, Any]:
    """25 further CPU s of reading, 75 of the rest, 20 s of wall time from a tenth (rows) and a hundredth (stays) to twice that."""
    rows, stays = FULL_SIZE["chartevents"] // 10, FULL_SIZE["stays"] // 100
    small = size(1, rows, stays, 30.0, StepCost(20.0), StepCost(40.0), 2.0)
    large_steps = StepCost(45.0, 9 * 10**9, 8 * 10**9, 10**9), StepCost(115.0, 3 * 10**9, 4 * 10**8, 10**9)
    return extrapolated(small, size(2, 2 * rows, 2 * stays, 50.0, *large_steps, 4.0), 2, extract_bytes)


def test_the_extrapolation_takes_reading_by_rows_and_the_rest_by_stays():
    """25 s x 10 (rows) + 75 s x 100 (stays) = 7,750 s, on 16 cores 484.4 s; of 30 and 50 s of wall time 10 s are the start."""
    found = of_twice_the_size(10**9)
    assert found["cpu_seconds"] == pytest.approx(7750, rel=1e-3)
    assert found["minutes"] == pytest.approx((10 + 7750 / 16) / 60, rel=1e-3)
    assert found["decompression_floor_seconds"] == pytest.approx(20.0)


@pytest.mark.parametrize(("budget_gb", "peak_gb"), [(4, 1 + 16 * 0.4), (10, 1 + 10)])
def test_the_extrapolated_memory_is_a_largest_task_on_every_core_or_the_budget_of_the_extraction(budget_gb, peak_gb):
    assert of_twice_the_size(budget_gb * 10**9)["peak_gb"] == pytest.approx(peak_gb)
