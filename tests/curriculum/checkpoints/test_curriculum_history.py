"""When a gradient norm is too large, or a figure not finite, so that training cannot go on."""

from __future__ import annotations

import pytest

from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.errors import TrainingError


def history_of(norms: list[float]) -> TrainingHistory:
    history = TrainingHistory()
    for step, norm in enumerate(norms):
        history.add({"step": step, "loss": 1.0, "grad_norm_predictor": 1e6, "grad_norm_encoder": norm}, num_tokens=1)
    return history


def row(norm: float) -> dict[str, float]:
    return {"step": 99, "loss": 1.0, "grad_norm_predictor": 1e6, "grad_norm_encoder": norm}


def test_a_gradient_norm_above_a_thousand_times_its_own_groups_median_stops_the_training():
    history = history_of([1.0] * 19 + [500.0])
    with pytest.raises(TrainingError, match="step 99: grad_norm_encoder is 1.*, more than 1000 times the median of the last 20 steps"):
        history.check(row(1001.0), "phase joint", "checkpoints")


@pytest.mark.parametrize(("norms", "norm"), [([1.0] * 20, 999.0), ([1.0] * 19, 1e9), ([1.0] * 60 + [10.0] * 50, 9999.0)])
def test_a_gradient_norm_within_the_limit_or_of_a_training_that_has_just_begun_goes_on(norms, norm):
    history_of(norms).check(row(norm), "phase joint", "checkpoints")


NAN = float("nan")
NOT_FINITE = {"step": 7, "loss": NAN, "rollout": 1.0, "mine": NAN, "grad_norm_predictor": NAN, "lr_predictor": 1e-3}


@pytest.mark.parametrize(
    ("steps", "figures", "message"),
    [
        (
            0,
            NOT_FINITE,
            "phase joint · own, step 7: loss term mine is not finite before the first update; a term divides .* correct it",
        ),
        (1, NOT_FINITE, "phase joint · own, step 7: loss term mine is not finite; .* kept under there; lower the learning rate"),
        (1, row(float("inf")), "phase joint · own, step 99: grad_norm_encoder is not finite; .* lower the learning rate"),
    ],
)
def test_a_term_that_is_not_finite_is_named_with_its_phase_and_the_remedy(steps, figures, message):
    with pytest.raises(TrainingError, match=message) as raised:
        history_of([1.0] * steps).check(figures, "phase joint · own", "there")
    assert "\n" not in str(raised.value)
