"""Paired differences in the absolute error of numbers, on kept predictions; tasks with numbers leave those with 0/1 labels as they are."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.errors import StoreError
from clinjepa.evaluation.differences.between_runs import Method, run_differences
from clinjepa.evaluation.differences.of_errors import CellName, error_differences, number_cells
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.predictions import KeptPredictions, cell_predictions, compare_predictions, mean_over_tasks, of_a_run, with_times
from clinjepa.evaluation.resampling import PatientBootstrap
from pipelines.results.number_tables import number_tables

NUM = 80
COLUMN = "history_only"
POINTS = Points(
    np.arange(NUM), np.full(NUM, 23), 80 + np.random.default_rng(0).normal(size=NUM), np.arange(NUM) // 2, np.full(NUM, "x", dtype=object)
)
EVENTS = Points(POINTS.stay_N, POINTS.hour_N, (POINTS.label_N > 80).astype(float), POINTS.subject_N, POINTS.split_N)


def kept(seed: int, noise: float, points: Points = POINTS) -> pa.Table:
    """An artifact's predictions: an event task and a number task, two probes; the second input adds an error of 1 everywhere."""
    found = KeptPredictions()
    rng = np.random.default_rng(seed)
    for method in ("linear", "mlp"):
        found.add("hypotension_8h", method, COLUMN, EVENTS, rng.normal(size=NUM) + EVENTS.label_N)
        over_N = points.label_N + noise * np.abs(rng.normal(size=len(points)))
        found.add("map_8h", method, COLUMN, points, over_N, "number")
        found.add("map_8h", method, "recorded_actions", points, over_N + 1, "number")
    return found.table()


def cells(*tables: tuple[str | None, int | None, pa.Table]) -> dict[CellName, list[pa.Table]]:
    return number_cells(tables)


REFERENCE = CellName("a · linear", COLUMN)


def test_the_difference_is_that_of_the_mean_absolute_errors_and_equal_predictions_give_zero() -> None:
    found = error_differences(cells(("a", 0, kept(0, 1.0)), ("twin", 0, kept(0, 1.0))), REFERENCE, 200)
    assert list(found) == ["map_8h"] and REFERENCE not in found["map_8h"] and len(found["map_8h"]) == 7
    assert found["map_8h"][CellName("twin · linear", COLUMN)] == {"value": 0.0, "ci95": [0.0, 0.0], "num_patients": 40, "num_seeds": 1}
    one_more = found["map_8h"][CellName("a · linear", "recorded_actions")]
    assert one_more["value"] == pytest.approx(1.0, rel=1e-5) and one_more["ci95"] == pytest.approx([1.0, 1.0], rel=1e-5)


def test_the_interval_is_that_of_the_paired_difference_over_patients() -> None:
    ours, other = kept(0, 1.0), kept(1, 2.0)
    found = error_differences(cells(("a", 0, ours), ("b", 0, other)), REFERENCE, 300)["map_8h"][CellName("b · linear", COLUMN)]
    numbers = [cell_predictions(table, "linear", COLUMN).filter(pa.array([False] * NUM + [True] * NUM)) for table in (ours, other)]
    errors = [np.abs(table["score"].to_numpy() - table["float_value"].to_numpy()) for table in numbers]
    boot, every_N = PatientBootstrap(POINTS.subject_N, 300, 0), np.ones(NUM, dtype=bool)
    draws_R = boot.total(errors[1] - errors[0], every_N) / boot.total(np.ones(NUM), every_N)
    assert found["value"] == pytest.approx(errors[1].mean() - errors[0].mean())
    assert found["ci95"] == pytest.approx(np.percentile(draws_R[1:], [2.5, 97.5]))


def test_seeds_are_averaged_and_counted() -> None:
    tables = [kept(seed, 2.0) for seed in (1, 2, 3)]
    found = error_differences(cells(("a", 0, kept(0, 1.0)), *(("b", seed, one) for seed, one in enumerate(tables))), REFERENCE, 50)
    single = [
        error_differences(cells(("a", 0, kept(0, 1.0)), ("b", 0, one)), REFERENCE, 50)["map_8h"][CellName("b · mlp", COLUMN)]["value"]
        for one in tables
    ]
    combined = found["map_8h"][CellName("b · mlp", COLUMN)]
    assert combined["num_seeds"] == 3 and combined["value"] == pytest.approx(np.mean(single))


def test_other_points_are_refused_and_no_reference_gives_nothing() -> None:
    fewer = kept(1, 1.0, POINTS.where(POINTS.stay_N < 50))
    with pytest.raises(StoreError, match="scored different prediction points"):
        error_differences(cells(("a", 0, kept(0, 1.0)), ("b", 0, fewer)), REFERENCE, 20)
    assert error_differences(cells(("b", 0, kept(0, 1.0))), REFERENCE, 20) == {}
    assert error_differences({}, REFERENCE, 20) == {}


def test_tasks_with_numbers_do_not_enter_comparisons_of_auroc() -> None:
    ours, other = (cell_predictions(kept(seed, 1.0), "linear", COLUMN) for seed in (0, 1))
    methods = {"ours": [ours], "other": [other]}
    assert list(compare_predictions(methods, "ours", 20)) == ["hypotension_8h"]
    assert mean_over_tasks(methods, "ours", 20)["other"]["num_tasks"] == 1
    stays = pa.table({"stay_id": range(NUM), "intime": pa.array([datetime(2150, 1, 1)] * NUM, pa.timestamp("us"))})
    runs = {name: of_a_run([(name, 0, with_times(kept(seed, 1.0), stays))]) for seed, name in enumerate(("a", "b"))}
    between = run_differences(runs, Method("a", "a · linear"), COLUMN, num_bootstrap=20)
    assert list(between["tasks"]) == ["hypotension_8h"] and between["unpaired"] == []
    assert {one["num_tasks"] for one in between["mean"]} == {1}


def test_differences_between_runs_are_those_within_one() -> None:
    stays = pa.table({"stay_id": range(NUM), "intime": pa.array([datetime(2150, 1, 1)] * NUM, pa.timestamp("us"))})
    parts = {"a": ("a", 0, kept(0, 1.0)), "b": ("b", 0, kept(1, 2.0))}
    runs = {name: of_a_run([(recipe, seed, with_times(table, stays))]) for name, (recipe, seed, table) in parts.items()}
    between = run_differences(runs, Method("a", REFERENCE.method), COLUMN, num_bootstrap=100)["errors"]["map_8h"]
    within = error_differences(cells(*parts.values()), REFERENCE, 100)["map_8h"]
    assert len(between) == 3
    assert [one["difference"] for one in between] == [within[CellName(one["method"], COLUMN)] for one in between]


def test_cells_of_the_report_have_their_unit_and_their_difference() -> None:
    differences = error_differences(cells(("a", 0, kept(0, 1.0)), (None, None, kept(1, 2.0))), REFERENCE, 20)
    cell = {"mae": None, "r2": None, "num_total": NUM, "reason": "made up"}
    tables = {"map_8h": {method: {COLUMN: cell} for method in ("a · linear", "linear", "sofa")}}
    found = number_tables(tables, differences)["map_8h"]  # type: ignore[arg-type]  # cells as JSON gives them
    assert found["a · linear"][COLUMN] == {**cell, "unit": "mmHg"} == found["sofa"][COLUMN]
    assert found["linear"][COLUMN]["mae_difference"] == differences["map_8h"][CellName("linear", COLUMN)]
