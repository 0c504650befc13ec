"""Calibration figures against scikit-learn and by hand; scores of many variables against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from clinjepa.evaluation.forecasts.scoring.calibration import brier_draws, ece_draws, reliability, slope_draws
from clinjepa.evaluation.forecasts.scoring.scores import mean_draws, spearman_draws
from clinjepa.evaluation.resampling import PatientBootstrap


def world(number: int = 4000, slope: float = 1.0, shift: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray, PatientBootstrap]:
    """(labels, probabilities, draws): events follow the log-odds `shift + slope · logit(p)`."""
    rng = np.random.default_rng(seed)
    probability_N = 1 / (1 + np.exp(-rng.normal(-1, 1.2, number)))
    logit_N = np.log(probability_N / (1 - probability_N))
    label_N = (rng.random(number) < 1 / (1 + np.exp(-(shift + slope * logit_N)))).astype(np.float64)
    return label_N, probability_N, PatientBootstrap(np.arange(number) // 4, 100, 0)


def test_brier_reliability_and_slope_are_those_of_scikit_learn() -> None:
    label_N, probability_N, draws = world(slope=0.6, shift=0.4)
    assert brier_draws(label_N, probability_N, draws)[0] == pytest.approx(brier_score_loss(label_N, probability_N))
    bins = reliability(label_N, probability_N)
    observed_B, predicted_B = calibration_curve(label_N, probability_N, n_bins=10, strategy="quantile")
    np.testing.assert_allclose(bins.observed_B, observed_B, atol=0.01)
    np.testing.assert_allclose(bins.predicted_B, predicted_B, atol=0.01)
    logit_N = np.log(probability_N / (1 - probability_N))
    model = LogisticRegression(C=1e9, tol=1e-8).fit(logit_N[:, None], label_N)
    slope_R, _ = slope_draws(label_N, probability_N, draws)
    assert slope_R[0] == pytest.approx(model.coef_[0, 0], rel=1e-3)


def test_ece_by_hand() -> None:
    label_N = np.array([0.0, 1.0, 1.0, 1.0, 0.0, 0.0])
    probability_N = np.array([0.2, 0.2, 0.2, 0.7, 0.7, 0.7])
    draws = PatientBootstrap(np.arange(6), 10, 0)
    assert ece_draws(label_N, probability_N, draws)[0] == pytest.approx(0.5 * abs(0.2 - 2 / 3) + 0.5 * abs(0.7 - 1 / 3))


def test_calibrated_probabilities_have_slope_one_and_intercept_zero_within_their_intervals() -> None:
    label_N, probability_N, draws = world()
    slope_R, intercept_R = slope_draws(label_N, probability_N, draws)
    assert np.percentile(slope_R[1:], 2.5) < 1 < np.percentile(slope_R[1:], 97.5)
    assert np.percentile(intercept_R[1:], 2.5) < 0 < np.percentile(intercept_R[1:], 97.5)
    assert ece_draws(label_N, probability_N, draws)[0] < 0.03


def test_too_extreme_and_shifted_probabilities_are_found() -> None:
    slope_R, intercept_R = slope_draws(*world(slope=0.5)[:2], PatientBootstrap(np.arange(4000) // 4, 100, 0))
    assert slope_R[0] == pytest.approx(0.5, abs=0.1)
    label_N, probability_N, draws = world(shift=1.0)
    intercept_R = slope_draws(label_N, probability_N, draws)[1]
    assert intercept_R[0] == pytest.approx(1.0, abs=0.15)
    logit_N = np.log(probability_N / (1 - probability_N))
    expected = 1 / (1 + np.exp(-(intercept_R[0] + logit_N)))
    assert expected.sum() == pytest.approx(label_N.sum(), rel=1e-6)  # the score equation of the offset model


def test_separated_classes_have_no_slope() -> None:
    label_N = np.array([0.0] * 10 + [1.0] * 10)
    slope_R, _ = slope_draws(label_N, np.where(label_N == 1, 0.9, 0.1), PatientBootstrap(np.arange(20), 10, 0))
    assert np.isnan(slope_R[0])


def test_errors_and_ranks_of_many_variables_are_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    observed_WX = rng.normal(size=(80, 3)).round(1)
    forecast_WX = observed_WX + rng.normal(size=(80, 3)).round(1)
    observed_WX[rng.random((80, 3)) < 0.3] = np.nan
    draws = PatientBootstrap(np.arange(80) // 2, 50, 0)
    mae_RX = mean_draws(draws, np.abs(observed_WX - forecast_WX))
    rho_RX = spearman_draws(draws, forecast_WX, observed_WX)
    for column in range(3):
        known_W = np.isfinite(observed_WX[:, column])
        assert mae_RX[0, column] == pytest.approx(np.abs(observed_WX - forecast_WX)[known_W, column].mean())
        expected = stats.spearmanr(forecast_WX[known_W, column], observed_WX[known_W, column]).statistic
        assert rho_RX[0, column] == pytest.approx(expected, abs=1e-9)


def test_a_draw_is_the_figure_of_the_drawn_patients() -> None:
    rng = np.random.default_rng(0)
    values_WX, draws = rng.normal(size=(30, 1)), PatientBootstrap(np.repeat(np.arange(10), 3), 5, 0)
    repeated = np.repeat(values_WX[:, 0], draws.counts_RP[2].astype(int)[draws.index_N])
    assert mean_draws(draws, values_WX)[2, 0] == pytest.approx(repeated.mean())


def test_a_constant_forecast_has_no_rank_correlation() -> None:
    draws = PatientBootstrap(np.arange(30), 5, 0)
    assert np.isnan(spearman_draws(draws, np.ones((30, 1)), np.arange(30.0)[:, None])).all()
