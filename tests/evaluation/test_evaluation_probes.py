"""Probes on frozen features: they find what is there, know only what train and tuning tell, and repeat exactly."""

from __future__ import annotations

import numpy as np
import pytest

from clinjepa.config.schema import ProbeConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.probe_rows import Rows, Standardiser
from clinjepa.evaluation.downstream.probes import probe_scores
from clinjepa.evaluation.metrics import auroc, log_loss

CONFIG = ProbeConfig(hidden_size=32, batch_size=128, max_epochs=40, learning_rate=1e-2)


def _rows(num: int, seed: int, *, curved: bool = False) -> Rows:
    rng = np.random.default_rng(seed)
    x_NF = rng.normal(size=(num, 6)).astype(np.float32)
    signal_N = x_NF[:, 0] * x_NF[:, 1] if curved else x_NF[:, 0]
    return Rows(x_NF * 100 + 5, (signal_N + 0.3 * rng.normal(size=num) > 0).astype(np.float64), np.arange(num))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_probe_finds_a_linear_signal_in_unscaled_features(kind: str) -> None:
    scored = _rows(400, 3)
    scores_N = probe_scores(kind, _rows(600, 1), _rows(200, 2), scored.x_NF, CONFIG, seed=0)
    assert auroc(scored.y_N, scores_N) > 0.93


def test_only_the_mlp_finds_an_interaction() -> None:
    train, tuning, scored = _rows(1500, 1, curved=True), _rows(300, 2, curved=True), _rows(600, 3, curved=True)
    found = {kind: auroc(scored.y_N, probe_scores(kind, train, tuning, scored.x_NF, CONFIG, seed=0)) for kind in ("linear", "mlp")}
    assert found["linear"] < 0.65 < 0.85 < found["mlp"]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_scores_of_a_row_do_not_depend_on_the_other_scored_rows(kind: str) -> None:
    train, tuning, scored = _rows(200, 1), _rows(100, 2), _rows(50, 3)
    alone = probe_scores(kind, train, tuning, scored.x_NF[:1], CONFIG, seed=0)
    shifted = np.concatenate([scored.x_NF[:1], scored.x_NF[1:] + 1e4])
    np.testing.assert_allclose(probe_scores(kind, train, tuning, shifted, CONFIG, seed=0)[:1], alone, rtol=1e-5)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_same_seed_gives_the_same_scores(kind: str) -> None:
    arguments = (kind, _rows(200, 1), _rows(100, 2), _rows(50, 3).x_NF, CONFIG)
    np.testing.assert_array_equal(probe_scores(*arguments, seed=4), probe_scores(*arguments, seed=4))


def test_linear_probe_is_regularised_as_much_as_tuning_asks_for() -> None:
    rng = np.random.default_rng(0)
    parts = []
    for num in (80, 200, 400):
        x_NF = rng.normal(size=(num, 150)).astype(np.float32)  # one column tells something, the others tempt to overfit
        parts.append(Rows(x_NF, (x_NF[:, 0] + 2 * rng.normal(size=num) > 0).astype(np.float64), np.arange(num)))
    train, tuning, scored = parts
    assert log_loss(scored.y_N, probe_scores("linear", train, tuning, scored.x_NF, CONFIG, seed=0)) < 0.75


def test_tuning_of_one_class_still_chooses() -> None:
    train, tuning, scored = _rows(300, 1), _rows(50, 2), _rows(200, 3)
    tuning.y_N[:] = 0
    assert auroc(scored.y_N, probe_scores("linear", train, tuning, scored.x_NF, CONFIG, seed=0)) > 0.9


def test_constant_columns_become_zero_instead_of_noise() -> None:
    x_NF = np.full((20, 1), 1234.5, dtype=np.float32)
    assert Standardiser.fit(x_NF)(x_NF + 1).tolist() == [[0.0]] * 20


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("part", ["train", "tuning", "scored"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_feature_that_is_not_finite_is_an_error_and_no_chance_score(kind: str, part: str, bad: float) -> None:
    parts = {"train": _rows(60, 1), "tuning": _rows(20, 2), "scored": _rows(10, 3)}
    parts[part].x_NF[4, 2] = bad
    with pytest.raises(EvaluationError, match="a feature of the probe is NaN or infinite"):
        probe_scores(kind, parts["train"], parts["tuning"], parts["scored"].x_NF, CONFIG, seed=0)


def test_an_mlp_that_diverges_is_an_error_and_no_chance_score() -> None:
    diverging = CONFIG.model_copy(update={"learning_rate": 1e30, "max_epochs": 3})
    with pytest.raises(EvaluationError, match="a score of the mlp probe is NaN or infinite"):
        probe_scores("mlp", _rows(60, 1), _rows(20, 2), _rows(10, 3).x_NF, diverging, seed=0)
