"""Calibration figures equal library values, and their intervals hold the truth of simulated forecasters."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from clinjepa.evaluation.forecasts.scoring.calibration import ece_draws, slope_draws
from clinjepa.evaluation.risk.calibration import NO_SOLUTION, calibration
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints
from clinjepa.evaluation.risk.recalibration import recalibration


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-x)))


def simulated(seed: int, *, slope: float = 1.0, shift: float = 0.0, patients: int = 80, num_bootstrap: int = 200):
    """Five points a patient with a common part of the risk; the label follows shift + slope · log-odds."""
    rng = np.random.default_rng(seed)
    log_odds_N = np.repeat(rng.normal(size=patients), 5) + rng.normal(size=5 * patients) - 1
    label_N = (rng.random(5 * patients) < sigmoid(shift + slope * log_odds_N)).astype(float)
    subject_N = np.repeat(np.arange(patients), 5)
    points = RiskPoints.of(subject_N, np.tile(np.arange(5), patients), label_N, subject_N, num_bootstrap)
    return points, log_odds_N


def test_figures_equal_those_of_scikit_learn() -> None:
    points, log_odds_N = simulated(0, slope=0.6, shift=0.4)
    found = calibration(points, MethodScores(log_odds_N[None], True), 10)
    fitted = LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000).fit(log_odds_N[:, None], points.label_N)
    assert found["slope"]["value"] == pytest.approx(fitted.coef_[0, 0], rel=1e-5)
    assert found["brier"]["value"] == pytest.approx(brier_score_loss(points.label_N, sigmoid(log_odds_N)), rel=1e-12)
    offset = found["intercept"]["value"]
    assert sigmoid(log_odds_N + offset).mean() == pytest.approx(points.label_N.mean(), rel=1e-9)


def test_draws_on_the_grid_equal_fits_of_every_point() -> None:
    points, log_odds_N = simulated(1)
    fast = recalibration(points.label_N, log_odds_N, points.draws)
    slope_R, intercept_R = slope_draws(points.label_N, sigmoid(log_odds_N), points.draws)
    np.testing.assert_allclose(fast.slope_R, slope_R, rtol=2e-3)
    np.testing.assert_allclose(fast.intercept_R, intercept_R, atol=2e-3)
    few_N = np.round(log_odds_N)
    np.testing.assert_allclose(
        recalibration(points.label_N, few_N, points.draws).slope_R, slope_draws(points.label_N, sigmoid(few_N), points.draws)[0], rtol=1e-6
    )


def test_calibration_error_and_curve_by_hand() -> None:
    """Two bins: predictions 0.2 with 1 of 4 positive, 0.8 with 2 of 4; |0.2 − 0.25| / 2 + |0.8 − 0.5| / 2 = 0.175."""
    label_N = np.array([0, 0, 0, 1, 0, 0, 1, 1])
    probability_N = np.repeat([0.2, 0.8], 4)
    points = RiskPoints.of(np.arange(8), np.zeros(8, int), label_N, np.arange(8), 50)
    found = calibration(points, MethodScores((np.log(probability_N) - np.log1p(-probability_N))[None], True), 2)
    assert found["ece"]["value"] == pytest.approx(0.175)
    curve = [(row["predicted"], row["observed"]["value"], row["num_total"]) for row in found["reliability"]]
    assert curve == [(pytest.approx(0.2), 0.25, 4), (pytest.approx(0.8), 0.5, 4)]
    assert found["reliability"][0]["observed"]["ci95"] is None  # one patient with a positive label
    assert found["reliability"][1]["observed"]["ci95"] is not None


def test_calibration_error_equals_that_of_the_forecasts() -> None:
    points, log_odds_N = simulated(2)
    found = calibration(points, MethodScores(log_odds_N[None], True), 10)
    ece_R = ece_draws(points.label_N, sigmoid(log_odds_N), points.draws)
    assert found["ece"]["value"] == pytest.approx(ece_R[0])
    shifted = np.percentile(ece_R[1:], [2.5, 97.5]) * ece_R[0] / np.median(ece_R[1:])  # the median of the draws is the estimate
    assert found["ece"]["ci95"] == pytest.approx(shifted.tolist())


def test_intervals_of_a_right_forecaster_hold_slope_1_and_intercept_0() -> None:
    """In 300 worlds of 80 patients 95 % of the intervals hold the truth; a share of 300 has a standard error of 1.3 %."""
    held = np.zeros((300, 2))
    for seed in range(300):
        points, log_odds_N = simulated(seed)
        fit = recalibration(points.label_N, log_odds_N, points.draws)
        for column, (draws_R, truth) in enumerate(((fit.slope_R, 1.0), (fit.intercept_R, 0.0))):
            low, high = np.nanpercentile(draws_R[1:], [2.5, 97.5])
            held[seed, column] = low <= truth <= high
    assert (held.mean(0) > 0.90).all() and (held.mean(0) < 0.985).all(), held.mean(0)


def test_a_forecaster_at_chance_has_slope_0() -> None:
    points, log_odds_N = simulated(3, patients=400)
    shuffled_N = np.random.default_rng(0).permutation(log_odds_N)
    found = calibration(points, MethodScores(shuffled_N[None], True), 10)
    low, high = found["slope"]["ci95"]
    assert low < 0 < high < 1


def test_one_class_or_separated_classes_give_a_reason() -> None:
    points, log_odds_N = simulated(4)
    score_1N = np.where(points.label_N == 1, 2.0, -2.0)[None]
    separated = calibration(points, MethodScores(score_1N, True), 10)
    assert separated["slope"] is None and separated["reason"] == NO_SOLUTION and separated["brier"] is not None
    single = RiskPoints.of(points.stay_N, points.hour_N, np.zeros(len(points)), points.draws.subjects_N, 20)
    found = calibration(single, MethodScores(log_odds_N[None], True), 10)
    assert found["slope"] is None and found["intercept"] is None
    assert found["brier"]["ci95"] is None and found["interval_reason"].startswith("0 patient with a positive label")


def test_seeds_are_averaged_within_each_draw() -> None:
    points, log_odds_N = simulated(5)
    other_N = simulated(6)[1]
    one, two, both = (
        calibration(points, MethodScores(np.array(each), True), 10) for each in ([log_odds_N], [other_N], [log_odds_N, other_N])
    )
    assert both["brier"]["value"] == pytest.approx((one["brier"]["value"] + two["brier"]["value"]) / 2)
    assert both["brier"]["num_seeds"] == 2 and both["reliability"] == one["reliability"]
