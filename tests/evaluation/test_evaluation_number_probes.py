"""Probes of numbers: scikit-learn's ridge regression, a closed form that is reached, and no task that depends on its neighbours."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from sklearn.linear_model import Ridge

from clinjepa.clinical import Task, load_task
from clinjepa.config.schema import DownstreamConfig, ProbeConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream import mlp_probe, ridge_probe
from clinjepa.evaluation.downstream.evaluate import DownstreamResults, evaluate_downstream, score_downstream
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.downstream.probe_rows import CUT, ProbeTask, Standardiser
from clinjepa.evaluation.downstream.probes import PENALTIES, numbers_of_tasks
from clinjepa.evaluation.downstream.regression_cells import regression_cell
from clinjepa.evaluation.metrics import squared_error
from clinjepa.evaluation.predictions import cell_predictions
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec
from tests.evaluation.test_evaluation_downstream import MemoryLatents, _labels, _stays
from tests.support.data.probe_points import NUM_FEATURES, probe_points

CONFIG = ProbeConfig(hidden_size=32, batch_size=128, max_epochs=30, learning_rate=1e-2)
NUMBER, OTHER, EVENT = load_task("map_8h"), load_task("urine_rate_2h"), load_task("hypotension_8h")
SETTINGS = DownstreamConfig(rollout_hours=6, min_positives=5, num_bootstrap=50, pooling="last", probe=ProbeConfig(kinds=["linear"]))


def world(num_points: int = 900, num_tasks: int = 3, seed: int = 0) -> tuple[np.ndarray, list[ProbeTask]]:
    """Tasks with noisy linear labels of unequal unit."""
    return probe_points(lambda signal_N, number: 80 + 10.0**number * signal_N, num_points, num_tasks, seed)


def library(x_NF: np.ndarray, task: ProbeTask, penalty: float) -> Ridge:
    """The same model of scikit-learn."""
    z_NF = Standardiser.fit(x_NF[task.train_N])(x_NF[task.train_N]).astype(np.float64)
    return Ridge(alpha=penalty * len(z_NF)).fit(z_NF, task.train_y_N)


@pytest.mark.parametrize("num_train", [None, NUM_FEATURES - 3])
def test_every_penalty_has_the_predictions_of_scikit_learn(num_train: int | None) -> None:
    """Also with fewer training rows than features."""
    x_NF, (task, *_) = world()
    task = ProbeTask(task.train_N[:num_train], task.tuning_N, task.scored_N, task.train_y_N[:num_train], task.tuning_y_N)
    standardise = Standardiser.fit(x_NF[task.train_N])
    z_NF = standardise(x_NF)
    assert (np.abs(z_NF) == CUT).any()
    for penalty, coefficients_F in zip(PENALTIES, ridge_probe.fit_ridge(x_NF, task, standardise, PENALTIES), strict=True):
        found_N = z_NF.astype(np.float64) @ coefficients_F[:-1] + coefficients_F[-1]
        np.testing.assert_allclose(found_N, library(x_NF, task, penalty).predict(z_NF), rtol=1e-4)


def test_blocks_of_rows_give_the_fit_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NF, (task, *_) = world()
    standardise = Standardiser.fit(x_NF[task.train_N])
    whole = ridge_probe.fit_ridge(x_NF, task, standardise, PENALTIES)
    monkeypatch.setattr(ridge_probe, "_ROWS_AT_ONCE", 37)
    np.testing.assert_allclose(ridge_probe.fit_ridge(x_NF, task, standardise, PENALTIES), whole, rtol=1e-8, atol=1e-10)


def test_tuning_chooses_the_penalty_of_the_smallest_squared_error() -> None:
    x_NF, tasks = world(num_points=120, seed=2)
    for task, found_N in zip(tasks, numbers_of_tasks("linear", x_NF, tasks, CONFIG, 0), strict=True):
        standardise = Standardiser.fit(x_NF[task.train_N])
        models = [library(x_NF, task, penalty) for penalty in PENALTIES]
        best = np.argmin([squared_error(task.tuning_y_N, model.predict(standardise(x_NF[task.tuning_N]))) for model in models])
        np.testing.assert_allclose(found_N, models[best].predict(standardise(x_NF[task.scored_N])), rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_task_alone_has_the_predictions_that_it_has_among_others(kind: str) -> None:
    x_NF, tasks = world(num_points=400)
    for task, among_N in zip(tasks, numbers_of_tasks(kind, x_NF, tasks, CONFIG, seed=0), strict=True):
        alone_N = numbers_of_tasks(kind, x_NF, [task], CONFIG, seed=0)[0]
        np.testing.assert_allclose(alone_N, among_N, rtol=1e-4)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_predictions_follow_the_unit_of_the_label(kind: str) -> None:
    """Labels in another unit, a · y + b, give the same predictions in that unit."""
    x_NF, (task, *_) = world()
    other = ProbeTask(task.train_N, task.tuning_N, task.scored_N, 1000 * task.train_y_N - 5, 1000 * task.tuning_y_N - 5)
    one_N, other_N = numbers_of_tasks(kind, x_NF, [task, other], CONFIG, seed=0)
    np.testing.assert_allclose(other_N, 1000 * one_N - 5, rtol=1e-3)


def test_written_out_gradients_of_the_squared_error_are_those_of_autograd() -> None:
    x_NF, (task, *_) = world(num_points=80)
    first = mlp_probe._first_weights(NUM_FEATURES, CONFIG.hidden_size, 0)
    start = mlp_probe._Start(first, CONFIG, 0, mlp_probe.SQUARED_ERROR)
    training = mlp_probe._Training(x_NF, task, Standardiser.fit(x_NF[task.train_N]), start)
    kept_BH = mlp_probe._dropout(30, CONFIG, (0, 0, 0))
    with torch.no_grad():
        training.step(torch.arange(30), kept_BH, torch.empty(30, CONFIG.hidden_size))
    weights = [weight.clone().requires_grad_() for weight in first]
    hidden_BH = torch.relu(training.x_NF[:30] @ weights[0].T + weights[1]) * kept_BH
    torch.nn.functional.mse_loss(hidden_BH @ weights[2] + weights[3], training.y_N[:30]).backward()  # type: ignore[no-untyped-call]
    for found, expected in zip(training.weights, weights, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


def test_only_the_mlp_learns_a_curve() -> None:
    rng = np.random.default_rng(0)
    x_NF = rng.normal(size=(2400, 3)).astype(np.float32)
    label_N = 60 + 15 * np.abs(x_NF[:, 0]) + rng.normal(size=len(x_NF))
    rows = np.split(np.arange(len(x_NF)), [1500, 1800])
    task = ProbeTask(rows[0], rows[1], rows[2], label_N[rows[0]], label_N[rows[1]])
    of_mean = squared_error(label_N[rows[2]], np.full(len(rows[2]), label_N[rows[0]].mean()))
    ratio = {
        kind: squared_error(label_N[rows[2]], numbers_of_tasks(kind, x_NF, [task], CONFIG, 0)[0]) / of_mean for kind in ("linear", "mlp")
    }
    assert ratio["linear"] == pytest.approx(1.0, abs=0.03) and ratio["mlp"] < 0.1


def test_labels_that_are_one_number_and_features_that_are_not_finite_are_errors() -> None:
    x_NF, (task, *_) = world()
    same = ProbeTask(task.train_N, task.tuning_N, task.scored_N, np.full(len(task.train_N), 3.0), task.tuning_y_N)
    with pytest.raises(ValueError, match="labels that differ"):
        numbers_of_tasks("linear", x_NF, [same], CONFIG, 0)
    x_NF[task.scored_N[0], 1] = np.nan
    with pytest.raises(EvaluationError, match="a feature of the probe is NaN or infinite"):
        numbers_of_tasks("mlp", x_NF, [task], CONFIG, 0)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build_predictor(PredictorSpec(latent_dim=6, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, max_hours=24), seed=0)


def numbers(latents: MemoryLatents, noise: float) -> list[tuple[int, int, float]]:
    """Labels 80 + 4 z0 + 3 z1 + noise of the state of the prediction hour: R² = 25 / (25 + noise²)."""
    rng = np.random.default_rng(3)
    return [
        (stay_id, hour, float(80 + 4 * parts[1][hour, 0] + 3 * parts[1][hour, 1] + noise * rng.normal()))
        for stay_id, parts in latents.stays.items()
        for hour in range(3, 20, 4)
    ]


def scored(
    predictor: Predictor, latents: MemoryLatents, labels: pa.Table, *tasks: Task, settings: DownstreamConfig = SETTINGS
) -> DownstreamResults:
    return score_downstream(predictor, latents, labels, _stays(len(latents.stays)), tasks, settings)


def test_a_linear_world_gives_the_r2_and_the_error_of_the_closed_form(predictor: Predictor) -> None:
    latents = MemoryLatents(420)
    found = scored(predictor, latents, _labels(NUMBER, numbers(latents, noise=5.0)), NUMBER)
    cell = found.regression[NUMBER.name]["linear"]["history_only"]
    assert found.tables == {} and list(found.regression[NUMBER.name]["linear"]) == list(COLUMNS)
    assert cell["r2"] is not None and cell["r2"]["value"] == pytest.approx(0.5, abs=0.06)
    assert cell["mae"] is not None and cell["mae"]["value"] == pytest.approx(5.0 * np.sqrt(2 / np.pi), rel=0.06)
    assert cell["mae"]["num_patients"] == 140 and cell["num_total"] == 700
    low, high = cell["r2"]["ci95"] or (np.nan, np.nan)
    assert low < 0.5 < high and high - low < 0.2


def test_predictions_are_kept_as_numbers_and_give_the_figures_again(predictor: Predictor) -> None:
    latents = MemoryLatents(90)
    found = scored(predictor, latents, _labels(NUMBER, numbers(latents, noise=1.0)), NUMBER)
    for column in COLUMNS:
        kept = cell_predictions(found.predictions, "linear", column)
        assert kept["boolean_value"].null_count == kept["predicted_boolean_probability"].null_count == kept.num_rows == 150
        error_N = np.abs(kept["score"].to_numpy() - kept["float_value"].to_numpy())
        assert found.regression[NUMBER.name]["linear"][column]["mae"]["value"] == pytest.approx(error_N.mean(), rel=1e-5)


def test_number_and_event_tasks_have_the_results_that_they_have_alone(predictor: Predictor) -> None:
    latents = MemoryLatents(60)
    rows = numbers(latents, noise=1.0)
    labels = pa.concat_tables(
        [
            _labels(NUMBER, rows),
            _labels(OTHER, [(stay, hour, y**2) for stay, hour, y in rows if stay % 5]),
            _labels(EVENT, [(stay, hour, float(y < 79)) for stay, hour, y in rows]),
        ]
    )
    both = ProbeConfig(kinds=["linear", "mlp"], hidden_size=8, max_epochs=3)
    settings = SETTINGS.model_copy(update={"probe": both})
    together = scored(predictor, latents, labels, NUMBER, EVENT, OTHER, settings=settings)
    assert list(together.regression) == [NUMBER.name, OTHER.name] and list(together.tables) == [EVENT.name]
    for task in (NUMBER, EVENT, OTHER):
        alone = scored(predictor, latents, labels, task, settings=settings).predictions["score"].to_numpy()
        among = together.predictions.filter(pc.equal(together.predictions["task"], task.name))["score"].to_numpy()
        np.testing.assert_allclose(among, alone, rtol=1e-3, atol=1e-4)
    assert evaluate_downstream(predictor, latents, labels, _stays(60), [NUMBER, EVENT], settings) == together.tables


def test_nothing_after_the_prediction_hour_reaches_history_or_carried_actions(predictor: Predictor) -> None:
    """The label is in the latents of the next hour and in nothing before: only recorded actions may find it."""
    latents = MemoryLatents(240)
    rng = np.random.default_rng(5)
    rows = []
    for stay_id, (_, z_state_TD, z_action_TD) in latents.stays.items():
        label = float(rng.integers(-1, 2))
        z_state_TD[12:] += label
        z_action_TD[12:] = 3.0 * label
        rows.append((stay_id, 11, label))
    settings = SETTINGS.model_copy(update={"pooling": "context"})
    before = scored(predictor, latents, _labels(NUMBER, rows), NUMBER, settings=settings)
    found = {column: before.regression[NUMBER.name]["linear"][column]["r2"]["value"] for column in COLUMNS}
    assert found["recorded_actions"] > 0.5 and max(found["history_only"], found["actions_carried_forward"]) < 0.1
    for parts in latents.stays.values():
        parts[1][12:] -= 7.0
    after = scored(predictor, latents, _labels(NUMBER, rows), NUMBER, settings=settings)
    assert after.predictions.equals(before.predictions)


def test_a_rollout_ends_at_the_hours_that_the_number_is_of(predictor: Predictor) -> None:
    """The rollout of 2 h for a number of the next 2 h: later actions change nothing."""
    latents = MemoryLatents(90)
    labels = _labels(OTHER, [(stay, hour, y) for stay, hour, y in numbers(latents, noise=1.0) if hour == 11])
    before = scored(predictor, latents, labels, OTHER)
    for parts in latents.stays.values():
        parts[2][14:] += 5.0
    assert scored(predictor, latents, labels, OTHER).predictions.equals(before.predictions)


@pytest.mark.parametrize(
    ("num_stays", "label", "said"),
    [(90, 3.0, "all 225 labels in train are the same number"), (6, None, "3 patients with a label in train; at least 5 are needed")],
)
def test_what_cannot_be_estimated_is_null_with_the_reason(predictor: Predictor, num_stays: int, label: float | None, said: str) -> None:
    latents = MemoryLatents(num_stays)
    rows = [(stay, hour, y if label is None else label) for stay, hour, y in numbers(latents, noise=1.0)]
    found = scored(predictor, latents, _labels(NUMBER, rows), NUMBER)
    for column in COLUMNS:
        cell = found.regression[NUMBER.name]["linear"][column]
        assert cell["mae"] is cell["r2"] is None and said in cell["reason"]
    assert found.predictions.num_rows == 0
    json.dumps(found.regression, allow_nan=False)


def test_scored_labels_that_are_one_number_have_an_error_and_no_r2(predictor: Predictor) -> None:
    latents = MemoryLatents(90)
    rows = [(stay, hour, 80.0 if stay % 6 > 3 else y) for stay, hour, y in numbers(latents, noise=1.0)]
    cell = scored(predictor, latents, _labels(NUMBER, rows), NUMBER).regression[NUMBER.name]["linear"]["history_only"]
    assert cell["mae"] is not None and cell["r2"] is None and "the same number" in cell["reason"]


def test_a_cut_rollout_is_told_in_the_cell(predictor: Predictor) -> None:
    latents = MemoryLatents(90)
    days = load_task("remaining_stay")
    settings = SETTINGS.model_copy(update={"rollout_hours": 24})
    cell = scored(predictor, latents, _labels(days, numbers(latents, noise=1.0)), days, settings=settings).regression[days.name]["linear"]
    assert all("the rollout of 24 h is cut to" in cell[column]["cut"] for column in COLUMNS)


def test_perfect_predictions_have_no_error_and_an_r2_of_one() -> None:
    points = Points(np.arange(20), np.full(20, 5), np.arange(20.0), np.arange(20), np.full(20, "held_out", dtype=object))
    cell = regression_cell(points, points.label_N, 50, 0)
    assert cell["mae"]["value"] == 0 and cell["r2"]["value"] == 1
