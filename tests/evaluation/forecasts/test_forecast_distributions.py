"""Predictive distributions against closed forms and against a forecaster whose noise is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clinjepa.evaluation.forecasts.scoring.distributions import (
    KINDS,
    LEVELS,
    UNBOUNDED,
    Distribution,
    Estimates,
    PlausibleRange,
    choose_kind,
    conformal_bounds,
    crps_of_sample,
    fit_distribution,
    shown,
)

SIGMA = 3.0


def forecasts(number: int, seed: int, scale: float = SIGMA, rising: float = 0.0) -> Estimates:
    """Points around 80 with normal errors, whose standard deviation may rise with the point."""
    rng = np.random.default_rng(seed)
    point_N = rng.normal(80, 10, number)
    error_N = rng.normal(size=number) * (scale + rising * np.maximum(point_N - 80, 0))
    return Estimates(point_N, point_N + error_N, rng.choice([0.0, 9.0], number), np.arange(number) // 3)


def free(observed_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """No bounds."""
    return np.full(len(observed_N), -np.inf), np.full(len(observed_N), np.inf)


def estimates(*values: float, observed: float = np.nan) -> Estimates:
    number = len(values)
    return Estimates(np.array(values), np.full(number, observed), np.zeros(number), np.arange(number))


def test_crps_of_a_sample_is_its_definition() -> None:
    rng = np.random.default_rng(1)
    sample_J, observed_N = np.sort(rng.normal(size=37).round(1)), rng.normal(size=50).round(1)
    by_hand = [np.abs(sample_J - y).mean() - 0.5 * np.abs(sample_J[:, None] - sample_J).mean() for y in observed_N]
    np.testing.assert_allclose(crps_of_sample(sample_J, observed_N, *free(observed_N)), by_hand, atol=1e-12)


def test_crps_of_a_large_normal_sample_is_the_closed_form() -> None:
    """CRPS of N(0, σ) at y: σ [y/σ (2Φ − 1) + 2φ − 1/√π] (Gneiting and Raftery, 2007, equation 21 and below)."""
    quantiles = SIGMA * stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    y = np.array([-6.0, -1.0, 0.0, 2.5])
    u = y / SIGMA
    closed = SIGMA * (u * (2 * stats.norm.cdf(u) - 1) + 2 * stats.norm.pdf(u) - 1 / np.sqrt(np.pi))
    np.testing.assert_allclose(crps_of_sample(quantiles, y, *free(y)), closed, rtol=1e-3)


def test_crps_of_a_sample_is_the_area_between_the_step_functions() -> None:
    """∫ (F(x) − 1{y ≤ x})² dx of the sample 0, 1, 3 at y = 2, by hand: 1/9 on [0, 1], 4/9 on [1, 2], 1/9 on [2, 3]."""
    y = np.array([2.0])
    assert crps_of_sample(np.array([0.0, 1.0, 3.0]), y, *free(y))[0] == pytest.approx(1 / 9 + 4 / 9 + 1 / 9)


def test_the_integral_transform_spreads_a_value_over_its_gap_between_errors_by_hand() -> None:
    """Errors −2, 0, 2 cut [0, 1] into quarters: an error of 1 lies in the third, one of −9 in the first; 0 ties with an error: half."""
    own = Distribution("residuals", np.zeros(0), [np.array([-2.0, 0.0, 2.0])])
    point_N = np.zeros(1)
    for error, low, high in ((1.0, 0.5, 0.75), (-9.0, 0.0, 0.25), (0.0, 0.25, 0.75)):
        edges = np.arange(11) / 10
        expected = np.diff(np.clip((edges - low) / (high - low), 0, 1))
        np.testing.assert_allclose(own.pit(Estimates(point_N, point_N + error, point_N, np.zeros(1, int))), expected, atol=1e-12)


def test_conformal_bounds_are_the_ranks_of_the_formula() -> None:
    errors = np.arange(1.0, 40.0)  # n = 39: (n + 1) · 0.05 = 2
    assert conformal_bounds(errors, 0.9) == (2.0, 38.0)
    assert conformal_bounds(errors, 0.5) == (10.0, 30.0)
    assert conformal_bounds(np.arange(1.0, 6.0), 0.9) == (1.0, 5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_forecaster_with_known_noise_has_nominal_coverage_width_crps_and_a_flat_pit(kind: str) -> None:
    own = fit_distribution(kind, forecasts(3000, 0), UNBOUNDED)  # type: ignore[arg-type]
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
        own, scored = fit_distribution("residuals", forecasts(25, seed), UNBOUNDED), forecasts(200, 1000 + seed)
        assert own is not None
        low_N, high_N = own.interval(scored, 0.9)
        hits.append(((scored.observed_N >= low_N) & (scored.observed_N <= high_N)).mean())
    assert 0.895 < np.mean(hits) < 0.945


def test_too_narrow_distributions_have_a_u_shaped_pit() -> None:
    own = fit_distribution("residuals", forecasts(3000, 0, scale=SIGMA / 3), UNBOUNDED)
    assert own is not None
    pit = own.pit(forecasts(5000, 1))
    assert pit[0] > 0.3 and pit[-1] > 0.3 and pit[4] < 0.1


def test_noise_that_grows_with_the_level_is_found_on_tuning_patients() -> None:
    tuning = {1: forecasts(600, 0, scale=1.0, rising=1.0), 6: forecasts(600, 2, scale=1.0, rising=1.0)}
    assert choose_kind(tuning, UNBOUNDED) == "by_level"
    own, scored = fit_distribution("by_level", tuning[1], UNBOUNDED), forecasts(6000, 3, scale=1.0, rising=1.0)
    plain = fit_distribution("residuals", tuning[1], UNBOUNDED)
    assert own is not None and plain is not None
    assert own.crps(scored).mean() < plain.crps(scored).mean()


def test_groups_without_a_difference_are_not_chosen() -> None:
    chosen = [choose_kind({1: forecasts(60, seed), 6: forecasts(60, 100 + seed)}, UNBOUNDED) for seed in range(20)]
    assert sum(kind in ("residuals", "symmetric") for kind in chosen) >= 16


def test_too_few_errors_make_no_distribution() -> None:
    assert fit_distribution("residuals", forecasts(19, 0), UNBOUNDED) is None
    assert fit_distribution("by_level", forecasts(50, 0), UNBOUNDED) is None


PERCENTAGE = PlausibleRange(0.0, 100.0)
SPREAD = [np.arange(-19.0, 20.0, 2.0)]
"""Errors −19, −17, … 19. With n = 20 the 90 % interval has the ranks 1 and 20, the 50 % interval 5 and 16, and the median is 0."""


def test_a_distribution_half_outside_the_range_is_clipped_by_hand() -> None:
    """Around 98 %, m + e is 79, 81, … 117: quantiles above 100 are 100. Around −30 and 130 all of it is at the bound."""
    own = Distribution("residuals", np.zeros(0), SPREAD, PERCENTAGE)
    found = shown(own, PERCENTAGE, estimates(98.0, 5.0, -30.0, 130.0))
    assert found.point_N.tolist() == [98.0, 5.0, 0.0, 100.0]
    assert found.low_LN.tolist() == [[87.0, 0.0, 0.0, 100.0], [79.0, 0.0, 0.0, 100.0]]
    assert found.high_LN.tolist() == [[100.0, 16.0, 0.0, 100.0], [100.0, 24.0, 0.0, 100.0]]


def test_the_point_is_the_median_where_the_estimate_lies_outside_its_interval() -> None:
    """All errors are 3 and more: the estimate itself is below its 90 % interval, the median of 3 … 41 is 22 above it."""
    one_sided = [np.arange(3.0, 42.0)]  # n = 39: ranks 2 and 38
    own = Distribution("residuals", np.zeros(0), one_sided, UNBOUNDED)
    found = shown(own, UNBOUNDED, estimates(50.0))
    assert found.point_N.tolist() == [72.0] and found.low_LN[1].tolist() == [54.0] and found.high_LN[1].tolist() == [90.0]
    skewed = Distribution("residuals", np.zeros(0), [np.sort([-1.0] * 30 + [500.0])], UNBOUNDED)  # the mean error 15.2 is above the 90 %
    assert shown(skewed, UNBOUNDED, estimates(50.0)).point_N.tolist() == [49.0]
    assert shown(skewed, UNBOUNDED, estimates(50.0)).high_LN[0].tolist() == [49.0]


def test_without_a_distribution_the_estimate_is_clipped() -> None:
    found = shown(None, PERCENTAGE, estimates(-4.0, 40.0, 140.0))
    assert found.point_N.tolist() == [0.0, 40.0, 100.0] and np.isnan(found.low_LN).all() and np.isnan(found.high_LN).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [0.0, 25.0])
def test_what_is_shown_is_ordered_and_plausible_and_covers_what_it_covered(kind: str, bias: float) -> None:
    """Half of the distribution is above 85. A value inside the range is covered exactly where the unclipped interval covers it."""
    plausible = PlausibleRange(40.0, 85.0)
    tuning, scored = (forecasts(number, seed) for number, seed in ((300, 0), (2000, 1)))
    tuning, scored = (Estimates(each.estimate_N - bias, *_rest(each)) for each in (tuning, scored))
    own, free_own = (fit_distribution(kind, tuning, each) for each in (plausible, UNBOUNDED))  # type: ignore[arg-type]
    assert own is not None and free_own is not None
    found = shown(own, plausible, scored)
    order = np.stack([found.low_LN[1], found.low_LN[0], found.point_N, found.high_LN[0], found.high_LN[1]])
    assert (np.diff(order, axis=0) >= 0).all() and order.min() >= 40 and order.max() <= 85
    assert (order == 85).any() and (free_own.interval(scored, 0.9)[1] > 85).mean() > 0.2
    inside_N = (scored.observed_N > 40) & (scored.observed_N < 85)
    for place, level in enumerate(LEVELS):
        low_N, high_N = free_own.interval(scored, level)
        before_N = (scored.observed_N >= low_N) & (scored.observed_N <= high_N)
        after_N = (scored.observed_N >= found.low_LN[place]) & (scored.observed_N <= found.high_LN[place])
        np.testing.assert_array_equal(before_N[inside_N], after_N[inside_N])


def _rest(each: Estimates) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return each.observed_N, each.hours_since_N, each.subject_N


def test_crps_of_a_clipped_sample_is_the_definition_for_the_clipped_sample() -> None:
    rng = np.random.default_rng(3)
    sample_J = np.sort(rng.normal(size=31).round(1))
    for low, high in ((-0.5, 0.8), (-9.0, 0.0), (0.0, 9.0), (4.0, 5.0), (-7.0, -6.0), (-np.inf, 0.3), (-0.2, np.inf)):
        y_N = np.concatenate([rng.normal(size=40).round(1), [-8.0, 8.0, *np.nan_to_num([low, high], posinf=1.0, neginf=-1.0)]])
        x_J = np.clip(sample_J, low, high)
        by_hand = [np.abs(x_J - y).mean() - 0.5 * np.abs(x_J[:, None] - x_J).mean() for y in y_N]
        found = crps_of_sample(sample_J, y_N, np.full(len(y_N), low), np.full(len(y_N), high))
        np.testing.assert_allclose(found, by_hand, atol=1e-12)


def test_the_scores_are_those_of_the_clipped_distribution_by_hand() -> None:
    """Errors −2, 0, 2 around 99 %: the values are 97, 99 and 100. CRPS at 100: mean distance (3 + 1 + 0) / 3, half the mean of the nine
    differences (2 · (2 + 3 + 1)) / 9 / 2. The transform of 100 reaches from two errors below it to the top: 2/4 to 1."""
    own = Distribution("residuals", np.zeros(0), [np.array([-2.0, 0.0, 2.0])], PERCENTAGE)
    assert own.crps(estimates(99.0, observed=100.0))[0] == pytest.approx(4 / 3 - 6 / 9)
    np.testing.assert_allclose(own.pit(estimates(99.0, observed=100.0)), [0] * 5 + [0.2] * 5, atol=1e-12)
    low = Distribution("residuals", np.zeros(0), [np.array([-2.0, 0.0, 2.0])], PERCENTAGE)
    np.testing.assert_allclose(low.pit(estimates(1.0, observed=0.0)), [0.2] * 5 + [0] * 5, atol=1e-12)


def test_the_level_of_another_estimate_chooses_the_errors() -> None:
    thirds = Distribution("by_level", np.array([10.0, 20.0]), [np.zeros(20), np.full(20, 5.0), np.full(20, 9.0)], UNBOUNDED)
    own = estimates(9.0, 15.0)
    assert shown(thirds, UNBOUNDED, own).point_N.tolist() == [9.0, 20.0]
    other = Estimates(own.estimate_N, *_rest(own), level_N=np.array([25.0, 1.0]))
    assert shown(thirds, UNBOUNDED, other).point_N.tolist() == [18.0, 15.0]
    assert shown(thirds, UNBOUNDED, other.where(np.array([True, False]))).point_N.tolist() == [18.0]
