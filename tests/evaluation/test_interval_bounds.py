"""Intervals keep within the bounds of their figures, hold their value, and are missing where they allow no statement."""

from __future__ import annotations

import numpy as np
import pytest

from clinjepa.evaluation.comparisons import seed_differences
from clinjepa.evaluation.interval_bounds import TOO_WIDE, bounded
from clinjepa.evaluation.risk.calibration import calibration
from clinjepa.evaluation.risk.points import MethodScores, RiskPoints
from clinjepa.evaluation.seeds import combine_seeds


def _figure(value: float, low: float, high: float) -> dict:
    return {"value": value, "ci95": [low, high], "num_patients": 40, "num_seeds": 1}


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("coverage_90", (0.966, 0.846, 1.08), [0.846, 1.0]),
        ("farther_share", (0.438, -1.97, 2.84), [0.0, 1.0]),
        ("recall", (0.5, -0.1, 0.7), [0.0, 0.7]),
        ("centred_cosine", (0.9, 0.8, 1.2), [0.8, 1.0]),
        ("brier_skill", (0.1, -0.4, 1.5), [-0.4, 1.0]),
        ("variance_ratio", (0.3, -0.1, 0.9), [0.0, 0.9]),
        ("ece", (0.0472, 0.0501, 0.117), [0.0472, 0.117]),  # the resampled value is biased: widened to the value
        ("intercept", (0.5, -3.0, 4.0), [-3.0, 4.0]),  # without bounds
    ],
)
def test_an_interval_keeps_within_the_bounds_of_its_figure_and_holds_its_value(name: str, given: tuple, kept: list[float]) -> None:
    assert bounded({name: {"model": _figure(*given)}})[name]["model"]["ci95"] == kept
    assert bounded({"task": [{name: _figure(*given)}]})["task"][0][name]["ci95"] == kept


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("variance_ratio", (0.263, 1.8e-06, 18426.0)),
        ("width_50", (30.8, 0.324, 2586.0)),
        ("brier_skill", (-1.44, -2275.0, 0.998)),
        ("ratio", (1.5, 0.1, 11.0)),
    ],
)
def test_an_interval_over_a_factor_of_100_is_not_known(name: str, given: tuple) -> None:
    found = bounded({name: _figure(*given)})[name]
    assert found["value"] == given[0] and found["ci95"] is None and found["interval_reason"] == TOO_WIDE


def test_narrower_intervals_rates_near_0_and_differences_stay() -> None:
    for name, given in (("ratio", (1.5, 0.2, 19.0)), ("false_alarms_per_day", (0.02, 1e-4, 0.05)), ("difference", (0.1, 0.0001, 0.3))):
        assert bounded({name: _figure(*given)})[name]["ci95"] == list(given[1:])


def test_a_share_over_two_distant_seeds_keeps_within_0_and_1() -> None:
    """Before, the t distribution with one degree of freedom gave (-1.97, 2.84)."""
    found = combine_seeds([{"farther_share": _figure(0.25, 0.0, 0.5)}, {"farther_share": _figure(0.625, 0.25, 1.0)}])["farther_share"]
    assert found["ci95"] == [0.125, 0.75] and found["seeds"] == [0.25, 0.625]


def test_seeds_are_subtracted_seed_by_seed() -> None:
    assert seed_differences(np.array([0.62, 0.60]), np.array([0.60, 0.64])) == pytest.approx([0.02, -0.04])
    assert seed_differences(np.array([0.7]), np.array([0.60, 0.64])) == pytest.approx([0.1, 0.06])  # a baseline
    assert seed_differences(np.array([0.6, 0.7, 0.8]), np.array([0.60, 0.64])) == pytest.approx([-0.02, 0.08, 0.18])


def test_the_interval_of_the_calibration_error_holds_the_estimate() -> None:
    """A right forecaster of 60 patients: resampled calibration errors are larger than the estimate."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        score_N = rng.normal(-1.0, 1.0, 300)
        label_N = (rng.random(300) < 1 / (1 + np.exp(-score_N))).astype(float)
        subject_N = np.repeat(np.arange(60), 5)
        points = RiskPoints.of(subject_N, np.tile(np.arange(5), 60), label_N, subject_N, 200)
        found = calibration(points, MethodScores(score_N[None], True), 10)["ece"]
        assert found is not None and found["ci95"] is not None
        low, high = found["ci95"]
        assert 0 < low < found["value"] < high < 1
        assert low < 0.85 * found["value"] and high > 1.15 * found["value"]  # shifted, not merely widened to the value


def test_a_difference_of_shares_is_no_share() -> None:
    gain = {"value": -0.02, "ci95": [-0.04, 0.0], "num_patients": 50, "num_seeds": 1}
    found = {"shares": {"1": {"auroc": {"both": share(0.8, [0.7, 1.2])}, "differences": {"lightgbm": {"both": {"auroc": gain}}}}}}
    kept = bounded(found)["shares"]["1"]
    assert kept["differences"]["lightgbm"]["both"]["auroc"] == gain
    assert kept["auroc"]["both"]["ci95"] == [0.7, 1.0]


def share(value: float, ends: list[float]) -> dict[str, object]:
    return {"value": value, "ci95": ends, "num_patients": 50, "num_seeds": 1}
