"""Probes of several tasks in one fit: the optimum and the strength of scikit-learn, and no task that depends on its neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream import linear_probe, mlp_probe
from clinjepa.evaluation.downstream.linear_probe import fit_linear
from clinjepa.evaluation.downstream.probe_rows import CUT, ProbeTask, Standardiser
from clinjepa.evaluation.downstream.probes import REGULARISATION, scores_of_tasks
from clinjepa.evaluation.metrics import log_loss
from tests.support.data.probe_points import NUM_FEATURES, probe_points

CONFIG = ProbeConfig(hidden_size=16, batch_size=64, max_epochs=12, patience=2, learning_rate=1e-2)


def world(num_points: int = 900, num_tasks: int = 5, seed: int = 0) -> tuple[np.ndarray, list[ProbeTask]]:
    """Tasks with labels 0 and 1 of unequal prevalence."""
    return probe_points(lambda signal_N, number: (signal_N > 0.8 * number - 1).astype(np.float64), num_points, num_tasks, seed)


def library(x_NF: np.ndarray, task: ProbeTask, strength: float) -> LogisticRegression:
    """The same model of scikit-learn, converged."""
    standardise = Standardiser.fit(x_NF[task.train_N])
    model = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    return model.fit(standardise(x_NF[task.train_N]).astype(np.float64), task.train_y_N)


def test_every_fit_has_the_log_odds_of_scikit_learn() -> None:
    x_NF, tasks = world()
    standards = [Standardiser.fit(x_NF[task.train_N]) for task in tasks]
    assert any((np.abs(standardise(x_NF[task.train_N])) == CUT).any() for task, standardise in zip(tasks, standards, strict=True))
    for task, standardise, coefficients_SF in zip(tasks, standards, fit_linear(x_NF, tasks, standards, REGULARISATION), strict=True):
        z_NF = standardise(x_NF)
        for strength, coefficients_F in zip(REGULARISATION, coefficients_SF, strict=True):
            expected_N = library(x_NF, task, strength).decision_function(z_NF)
            found_N = z_NF @ coefficients_F[:-1] + coefficients_F[-1]
            np.testing.assert_allclose(found_N, expected_N, rtol=1e-3, atol=1e-3 * np.abs(expected_N).max())


def test_tuning_chooses_the_strength_that_scikit_learn_s_models_would_give() -> None:
    x_NF, tasks = world(seed=1)
    chosen = []
    for task, scores_N in zip(tasks, scores_of_tasks("linear", x_NF, tasks, CONFIG, 0), strict=True):
        standardise = Standardiser.fit(x_NF[task.train_N])
        models = [library(x_NF, task, strength) for strength in REGULARISATION]
        losses = [log_loss(task.tuning_y_N, model.decision_function(standardise(x_NF[task.tuning_N]))) for model in models]
        chosen.append(int(np.argmin(losses)))
        expected_N = models[chosen[-1]].decision_function(standardise(x_NF[task.scored_N]))
        np.testing.assert_allclose(scores_N, expected_N, rtol=1e-3, atol=1e-3 * np.abs(expected_N).max())
    assert len(set(chosen)) > 1


def test_more_features_than_training_rows_converge_too() -> None:
    rng = np.random.default_rng(0)
    x_NF = rng.normal(size=(150, 200)).astype(np.float32)
    label_N = (x_NF[:, 0] > 0).astype(np.float64)
    task = ProbeTask(np.arange(60), np.arange(60, 100), np.arange(100, 150), label_N[:60], label_N[60:100])
    standardise = Standardiser.fit(x_NF[:60])
    coefficients_F = fit_linear(x_NF, [task], [standardise], [1.0])[0][0]
    expected_N = library(x_NF, task, 1.0).decision_function(standardise(x_NF))
    np.testing.assert_allclose(standardise(x_NF) @ coefficients_F[:-1] + coefficients_F[-1], expected_N, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_task_alone_has_the_scores_that_it_has_among_others(kind: str) -> None:
    x_NF, tasks = world()
    together = scores_of_tasks(kind, x_NF, tasks, CONFIG, seed=0)
    for task, among_N in zip(tasks, together, strict=True):
        alone_N = scores_of_tasks(kind, x_NF, [task], CONFIG, seed=0)[0]
        np.testing.assert_allclose(alone_N, among_N, rtol=1e-4, atol=1e-4 * np.abs(among_N).max())


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_tasks_in_many_groups_have_the_same_scores(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x_NF, tasks = world()
    together = scores_of_tasks(kind, x_NF, tasks, CONFIG, seed=0)
    for module in (linear_probe, mlp_probe):
        monkeypatch.setattr(module, "_CELLS", 1)
    for apart_N, among_N in zip(scores_of_tasks(kind, x_NF, tasks, CONFIG, seed=0), together, strict=True):
        np.testing.assert_allclose(apart_N, among_N, rtol=1e-4, atol=1e-4 * np.abs(among_N).max())


def test_the_order_of_tasks_changes_nothing() -> None:
    x_NF, tasks = world()
    for kind in ("linear", "mlp"):
        forwards, backwards = (scores_of_tasks(kind, x_NF, each, CONFIG, seed=0) for each in (tasks, tasks[::-1]))
        for one_N, other_N in zip(forwards, backwards[::-1], strict=True):
            np.testing.assert_allclose(one_N, other_N, rtol=1e-4, atol=1e-4 * np.abs(one_N).max())


def test_written_out_gradients_are_those_of_autograd() -> None:
    """One step of AdamW on one batch, with dropout, against torch's own differentiation."""
    import torch

    x_NF, tasks = world(num_points=80, num_tasks=1)
    standardise = Standardiser.fit(x_NF[tasks[0].train_N])
    first = mlp_probe._first_weights(NUM_FEATURES, CONFIG.hidden_size, 0)
    training = mlp_probe._Training(x_NF, tasks[0], standardise, mlp_probe._Start(first, CONFIG, 0, mlp_probe.LOG_LOSS))
    kept_BH = mlp_probe._dropout(30, CONFIG, (0, 0, 0))
    with torch.no_grad():
        training.step(torch.arange(30), kept_BH, torch.empty(30, CONFIG.hidden_size))
    weights = [weight.clone().requires_grad_() for weight in first]
    hidden_BH = torch.relu(training.x_NF[:30] @ weights[0].T + weights[1]) * kept_BH
    loss = torch.nn.functional.binary_cross_entropy_with_logits(hidden_BH @ weights[2] + weights[3], training.y_N[:30])
    loss.backward()  # type: ignore[no-untyped-call]
    for found, expected in zip(training.weights, weights, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-6)


def test_dropout_keeps_its_share_and_its_first_rows_whatever_their_number() -> None:
    config = ProbeConfig(hidden_size=512, dropout=0.1)
    many_BH, few_BH = (mlp_probe._dropout(num_rows, config, (0, 3, 1)) for num_rows in (400, 7))
    assert bool((many_BH[:7] == few_BH).all())
    assert float(many_BH.mean()) == pytest.approx(1.0, abs=0.01)
    assert sorted(set(many_BH.flatten().tolist())) == pytest.approx([0.0, 1 / 0.9])


def test_early_stopping_of_one_task_leaves_others_training(monkeypatch: pytest.MonkeyPatch) -> None:
    x_NF, tasks = world()
    epochs: dict[int, int] = {}
    ended = mlp_probe._Training.end_epoch

    def counted(self: mlp_probe._Training, *given: object) -> None:
        epochs[id(self)] = epochs.get(id(self), 0) + 1
        ended(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(mlp_probe._Training, "end_epoch", counted)
    scores_of_tasks("mlp", x_NF, tasks, CONFIG.model_copy(update={"max_epochs": 60}), seed=0)
    assert len(epochs) == len(tasks) and len(set(epochs.values())) > 1 and max(epochs.values()) < 60
