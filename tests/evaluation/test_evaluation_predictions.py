"""Kept predictions give the table's figures again, and differences between methods that scored the same points."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from clinjepa.errors import StoreError
from clinjepa.evaluation.differences.between_runs import Method, run_differences
from clinjepa.evaluation.downstream.prediction_points import Points, score_cell
from clinjepa.evaluation.predictions import (
    PREDICTIONS_SCHEMA,
    SCORES_SCHEMA,
    KeptPredictions,
    cell_predictions,
    compare_predictions,
    mean_over_tasks,
    of_a_run,
    with_times,
)
from tests.repository.test_docs import blocks
from tests.support.machines.cli import ROOT

PLACE = "output/artifacts/downstream/KEY/predictions.parquet"

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
    label_N = np.array(kept["boolean_value"].to_pylist(), dtype=float)
    again = Points(kept["stay_id"].to_numpy(), kept["hour"].to_numpy(), label_N, kept["subject_id"].to_numpy(), POINTS.split_N)
    assert score_cell(again, kept["score"].to_numpy(), 50, 0) == score_cell(POINTS, scores(0), 50, 0)
    assert kept.schema == SCORES_SCHEMA == KeptPredictions().table().schema


def test_probabilities_stand_beside_log_odds_and_not_beside_other_scores() -> None:
    kept = KeptPredictions()
    kept.add("a", "linear", "history_only", POINTS.where(POINTS.stay_N < 4), np.array([-800.0, 0.0, 1.0, 800.0]))
    kept.add("a", "last_value", "history_only", POINTS.where(POINTS.stay_N < 4), np.array([1.0, 2.0, 3.0, 4.0]), "order")
    linear, other = (cell_predictions(kept.table(), name, "history_only") for name in ("linear", "last_value"))
    assert linear["predicted_boolean_probability"].to_pylist() == pytest.approx([0, 0.5, 1 / (1 + np.exp(-1)), 1])
    assert linear["predicted_boolean_value"].to_pylist() == [False, True, True, True]
    assert other["predicted_boolean_probability"].null_count == other["predicted_boolean_value"].null_count == 4


def test_the_number_of_a_regression_task_stands_beside_its_label() -> None:
    numbers = Points(np.arange(2), np.zeros(2, dtype=np.int32), np.array([1.5, 2.5]), np.arange(2), np.full(2, "held_out", dtype=object))
    kept = KeptPredictions()
    kept.add("log_lactate_4h", "ridge", "history_only", numbers, np.array([1.0, 3.0]), "number")
    assert [(row["float_value"], row["score"], row["boolean_value"]) for row in kept.table().to_pylist()] == [
        (1.5, 1.0, None),
        (2.5, 3.0, None),
    ]


def timed(table: pa.Table) -> pa.Table:
    """With stay i admitted i minutes after noon."""
    intime = [datetime(2150, 3, 1, 12) + timedelta(minutes=stay) for stay in reversed(range(NUM))]
    return with_times(table, pa.table({"stay_id": list(reversed(range(NUM))), "intime": pa.array(intime, pa.timestamp("us"))}))


def test_the_time_is_the_end_of_the_hour() -> None:
    kept = timed(predictions(0, ("a",)))
    assert kept.schema == PREDICTIONS_SCHEMA and set(kept["hour"].to_pylist()) == {23}
    assert kept["prediction_time"].to_pylist() == [datetime(2150, 3, 2, 12) + timedelta(minutes=stay) for stay in range(NUM)]
    assert timed(SCORES_SCHEMA.empty_table()).schema == PREDICTIONS_SCHEMA


def test_one_table_has_the_predictions_of_a_whole_run_with_recipe_and_seed() -> None:
    ours, other = timed(predictions(0, ("a",))), timed(predictions(1, ("a",)))
    whole = of_a_run([("clin_jepa", 3, ours), (None, None, other)])
    assert whole.column_names == [*PREDICTIONS_SCHEMA.names[:2], "seed", *PREDICTIONS_SCHEMA.names[2:]]
    assert whole["method"].to_pylist() == ["clin_jepa · linear"] * NUM + ["linear"] * NUM
    assert whole["seed"].to_pylist() == [3] * NUM + [None] * NUM
    assert whole["score"].to_pylist() == ours["score"].to_pylist() + other["score"].to_pylist()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    kept = KeptPredictions()
    for method, seed in (("linear", 0), ("mlp", 1)):
        kept.add("a", method, "history_only", POINTS, scores(seed))
    pq.write_table(timed(kept.table()), tmp_path / "predictions.parquet")
    return tmp_path / "predictions.parquet"


def run_example(number: int, path: Path) -> dict:
    """A block of docs/report.md's section on predictions, with its file in place of the page's; its names afterwards."""
    source = blocks(ROOT / "docs" / "report.md", "python", since="## Figures from the predictions", until="## Making")[number]
    assert PLACE in source
    names: dict = {}
    exec(source.replace(PLACE, str(path)), names)
    return names


def test_the_page_s_example_gives_the_figures_again_from_the_table_alone(written: Path) -> None:
    found = run_example(0, written)["figures"]
    for method, seed in (("linear", 0), ("mlp", 1)):
        cell = score_cell(POINTS, scores(seed), 200, 0)
        assert found["a", method, "history_only"] == pytest.approx((cell["auroc"]["value"], cell["auprc"]["value"]))


def test_the_page_s_example_gives_differences_with_intervals_again(written: Path) -> None:
    table = pq.read_table(written)
    methods = {name: [cell_predictions(table, name, "history_only")] for name in ("linear", "mlp")}
    assert run_example(1, written)["differences"] == compare_predictions(methods, "linear", 1000)


def test_meds_evaluation_reads_a_cell(written: Path) -> None:
    pytest.importorskip("meds_evaluation")
    found = run_example(2, written)["report"]
    cell = score_cell(POINTS, scores(0), 200, 0)
    assert found["samples_equally_weighted"]["roc_auc_score"] == pytest.approx(cell["auroc"]["value"])
    assert found["samples_equally_weighted"]["average_precision_score"] == pytest.approx(cell["auprc"]["value"])
    assert set(found["subjects_equally_weighted"]) >= {"brier_score", "calibration_error", "f1_score"}


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
    assert compare_predictions({"ours": [SCORES_SCHEMA.empty_table()]}, "ours", 20) == {}


def kept(strength: float, seed: int) -> pa.Table:
    """Predictions of two tasks by a linear probe, with times, as an artifact keeps them."""
    found = KeptPredictions()
    for task in ("a", "b"):
        scores_N = np.random.default_rng([seed, len(task)]).normal(size=NUM) + strength * POINTS.label_N
        found.add(task, "linear", "history_only", POINTS, scores_N)
        found.add(task, "linear", "recorded_actions", POINTS, np.zeros(NUM))
    stays = pa.table({"stay_id": range(NUM), "intime": pa.array([datetime(2150, 1, 1)] * NUM, pa.timestamp("us"))})
    return with_times(found.table(), stays)


def test_predictions_of_runs_give_the_differences_and_the_mean_of_one_run() -> None:
    strong, weak = [kept(2.0, seed) for seed in (0, 1)], [kept(0.5, seed) for seed in (2, 3)]
    cells = {name: [cell_predictions(one, "linear", "history_only") for one in of] for name, of in (("s", strong), ("w", weak))}
    within = mean_over_tasks(cells, "s", 100)["w"]
    singly = [one["w"]["difference"]["value"] for one in compare_predictions(cells, "s", 100).values()]
    assert within["difference"]["value"] == pytest.approx(np.mean(singly)) and within["difference"]["num_seeds"] == 2
    tables = {name: of_a_run([(name, seed, one) for seed, one in enumerate(of)]) for name, of in (("s", strong), ("w", weak))}
    between = run_differences(tables, Method("s", "s · linear"), "history_only", num_bootstrap=100)
    assert between["unpaired"] == []
    assert [(one["run"], one["method"]) for one in between["mean"]] == [("w", "w · linear")]
    assert between["mean"][0]["difference"] == within["difference"]
    assert [rows[0]["difference"]["value"] for rows in between["tasks"].values()] == pytest.approx(singly)
