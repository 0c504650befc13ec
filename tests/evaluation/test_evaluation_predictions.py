"""Kept predictions give the table's figures again, and differences between methods that scored the same points."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from clinjepa.errors import StoreError
from clinjepa.evaluation.downstream.prediction_points import Points, score_cell
from clinjepa.evaluation.predictions import PREDICTIONS_SCHEMA, KeptPredictions, cell_predictions, compare_predictions

NUM = 60
POINTS = Points(
    np.arange(NUM), np.full(NUM, 23), (np.arange(NUM) % 3 == 0).astype(float), np.arange(NUM) // 2, np.full(NUM, "held_out", dtype=object)
)


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=NUM) + POINTS.label_N


def predictions(seed: int, tasks: tuple[str, ...] = ("a", "b"), points: Points = POINTS) -> pa.Table:
    kept = KeptPredictions()
    for task in tasks:
        kept.add(task, "linear", "history_only", points, scores(seed)[: len(points)])
        kept.add(task, "linear", "recorded_actions", points, np.zeros(len(points)))
    return cell_predictions(kept.table(), "linear", "history_only")


def test_a_cell_can_be_made_again_from_its_predictions() -> None:
    kept = predictions(0, ("a",))
    again = Points(*(kept[name].to_numpy() for name in ("stay_id", "hour", "label", "subject_id")), POINTS.split_N)
    assert score_cell(again, kept["score"].to_numpy(), 50, 0) == score_cell(POINTS, scores(0), 50, 0)
    assert kept.schema == PREDICTIONS_SCHEMA == KeptPredictions().table().schema


def test_methods_are_compared_task_by_task_with_one_family() -> None:
    found = compare_predictions({"ours": [predictions(0)], "twin": [predictions(0)], "other": [predictions(1)]}, "ours", 200)
    assert list(found) == ["a", "b"] and list(found["a"]) == ["twin", "other"]
    expected = roc_auc_score(POINTS.label_N, scores(1)) - roc_auc_score(POINTS.label_N, scores(0))
    assert found["a"]["other"]["difference"]["value"] == pytest.approx(expected)
    assert found["a"]["twin"]["difference"]["ci95"] == [0.0, 0.0]
    assert found["a"]["other"]["p_holm"] == pytest.approx(min(1.0, 4 * found["a"]["other"]["p_value"]))


def test_seeds_are_averaged_and_each_is_given_apart() -> None:
    found = compare_predictions({"ours": [predictions(0)], "other": [predictions(seed) for seed in (1, 2, 3)]}, "ours", 50)["a"]["other"]
    assert found["difference"]["num_seeds"] == 3 == len(found["single_seeds"])
    assert found["difference"]["value"] == pytest.approx(np.mean(found["single_seeds"]))


def test_the_order_of_rows_changes_nothing_and_other_points_are_refused() -> None:
    table = predictions(1)
    turned = table.take(np.arange(table.num_rows)[::-1])
    ours = [predictions(0)]
    assert compare_predictions({"ours": ours, "x": [turned]}, "ours", 20) == compare_predictions({"ours": ours, "x": [table]}, "ours", 20)
    fewer = predictions(1, points=POINTS.where(POINTS.stay_N < 50))
    with pytest.raises(StoreError, match="scored different prediction points"):
        compare_predictions({"ours": ours, "x": [fewer]}, "ours", 20)


def test_a_task_without_predictions_of_a_method_leaves_that_method_out() -> None:
    assert compare_predictions({"ours": [predictions(0)], "x": [predictions(1, ("b",))]}, "ours", 20).keys() == {"b"}
    assert compare_predictions({"ours": [PREDICTIONS_SCHEMA.empty_table()]}, "ours", 20) == {}
