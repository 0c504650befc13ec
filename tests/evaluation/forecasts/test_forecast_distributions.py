"""Predictive distributions against closed forms and against a forecaster whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clinjepa.evaluation.forecasts.scoring.distributions import (
    KINDS,
    Distribution,
    Forecasts,
    choose_kind,
    conformal_bounds,
    crps_of_sample,
    fit_distribution,
)

SIGMA = 3.0


def forecasts(number: int, seed: int, scale: float = SIGMA, rising: float = 0.0) -> Forecasts:
    """Points around 80 with normal errors, whose standard deviation may rise with the point."""
    rng = np.random.default_rng(seed)
    point_N = rng.normal(80, 10, number)
    error_N = rng.normal(size=number) * (scale + rising * np.maximum(point_N - 80, 0))
    return Forecasts(point_N, point_N + error_N, rng.choice([0.0, 9.0], number), np.arange(number) // 3)


def test_crps_of_a_sample_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    sample_J, observed_N = np.sort(rng.normal(size=37).round(1)), rng.normal(size=50).round(1)
    by_hand = [np.abs(sample_J - y).mean() - 0.5 * np.abs(sample_J[:, None] - sample_J).mean() for y in observed_N]
    np.testing.assert_allclose(crps_of_sample(sample_J, observed_N), by_hand, atol=1e-12)


def test_crps_of_a_large_normal_sample_is_the_closed_form() -> None:
    """CRPS of N(0, σ) at y: σ [y/σ (2Φ − 1) + 2φ − 1/√π] (Gneiting and Raftery, 2007, equation 21 and below)."""
    quantiles = SIGMA * stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    y = np.array([-6.0, -1.0, 0.0, 2.5])
    u = y / SIGMA
    closed = SIGMA * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps_of_sample(quantiles, y), closed, rtol=1e-3)


def test_crps_of_a_sample_is_the_area_between_the_step_functions() -> None:
    """∫ (F(x) − 1{y ≤ x})² dx of the sample 0, 1, 3 at y = 2, by hand: 1/9 on [0, 1], 4/9 on [1, 2], 1/9 on [2, 3]."""
    assert crps_of_sample(np.array([0.0, 1.0, 3.0]), np.array([2.0]))[0] == pytest.approx(1 / 9 + 4 / 9 + 1 / 9)


def test_the_integral_transform_spreads_a_value_over_its_gap_between_errors_by_hand() -> None:
    """Errors −2, 0, 2 cut [0, 1] into quarters: an error of 1 lies in the third, one of −9 in the first; 0 ties with an error: half."""
    own = Distribution("residuals", np.zeros(0), [np.array([-2.0, 0.0, 2.0])])
    point_N = np.zeros(1)
    for error, low, high in ((1.0, 0.5, 0.75), (-9.0, 0.0, 0.25), (0.0, 0.25, 0.75)):
        edges = np.arange(11) / 10
        expected = np.diff(np.clip((edges - low) / (high - low), 0, 1))
        np.testing.assert_allclose(own.pit(Forecasts(point_N, point_N + error, point_N, np.zeros(1, int))), expected, atol=1e-12)


def test_conformal_bounds_are_the_ranks_of_the_formula() -> None:
    errors = np.arange(1.0, 40.0)  # n = 39: (n + 1) · 0.05 = 2
    assert conformal_bounds(errors, 0.9) == (2.0, 38.0)
    assert conformal_bounds(errors, 0.5) == (10.0, 30.0)
    assert conformal_bounds(np.arange(1.0, 6.0), 0.9) == (1.0, 5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forecaster_with_known_noise_has_nominal_coverage_width_crps_and_a_flat_pit(kind: str) -> None:
    own = fit_distribution(kind, forecasts(3000, 0))  # type: ignore[arg-type]
    scored = forecasts(20000, 1)
    assert own is not None
    for level in (0.5, 0.9):
        low_N, high_N = own.interval(scored, level)
        assert ((scored.observed_N >= low_N) & (scored.observed_N <= high_N)).mean() == pytest.approx(level, abs=0.025)
        assert (high_N - low_N).mean() == pytest.approx(2 * SIGMA * stats.norm.ppf(0.5 + level / 2), rel=0.08)
    assert own.crps(scored).mean() == pytest.approx(SIGMA / np.sqrt(np.pi), rel=0.02)
    np.testing.assert_allclose(own.pit(scored), 0.1, atol=0.02)


def test_small_tuning_sets_cover_at_least_nominally_on_average() -> None:
    """Split conformal holds for any number of errors: 300 worlds of 25 tuning values."""
    hits = []
    for seed in range(300):
        own, scored = fit_distribution("residuals", forecasts(25, seed)), forecasts(200, 1000 + seed)
        assert own is not None
        low_N, high_N = own.interval(scored, 0.9)
        hits.append(((scored.observed_N >= low_N) & (scored.observed_N <= high_N)).mean())
    assert 0.895 < np.mean(hits) < 0.945


def test_too_narrow_distributions_have_a_u_shaped_pit() -> None:
    own = fit_distribution("residuals", forecasts(3000, 0, scale=SIGMA / 3))
    assert own is not None
    pit = own.pit(forecasts(5000, 1))
    assert pit[0] > 0.3 and pit[-1] > 0.3 and pit[4] < 0.1


def test_noise_that_grows_with_the_level_is_found_on_tuning_patients() -> None:
    tuning = {1: forecasts(600, 0, scale=1.0, rising=1.0), 6: forecasts(600, 2, scale=1.0, rising=1.0)}
    assert choose_kind(tuning) == "by_level"
    own, scored = fit_distribution("by_level", tuning[1]), forecasts(6000, 3, scale=1.0, rising=1.0)
    plain = fit_distribution("residuals", tuning[1])
    assert own is not None and plain is not None
    assert own.crps(scored).mean() < plain.crps(scored).mean()


def test_groups_without_a_difference_are_not_chosen() -> None:
    chosen = [choose_kind({1: forecasts(60, seed), 6: forecasts(60, 100 + seed)}) for seed in range(20)]
    assert sum(kind in ("residuals", "symmetric") for kind in chosen) >= 16


def test_too_few_errors_make_no_distribution() -> None:
    assert fit_distribution("residuals", forecasts(19, 0)) is None
    assert fit_distribution("by_level", forecasts(50, 0)) is None
