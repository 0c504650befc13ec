"""Event probabilities by the task's rule, against probabilities that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from clinjepa.clinical import load_task
from clinjepa.evaluation.forecasts.events import event_probabilities, in_event_before, why_not_forecast
from clinjepa.evaluation.forecasts.points.measurements import Measurements

HYPOTENSION, HYPERGLYCAEMIA = load_task("hypotension_8h"), load_task("hyperglycaemia_8h")
SIGMA, HOURS = 5.0, 8
ANY = np.array([[0.0, 1000.0]])


def errors(number: int = 200, seed: int = 0, measured: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise_JHV = SIGMA * rng.normal(size=(number, HOURS, 1))
    return np.where(rng.random(noise_JHV.shape) < measured, noise_JHV, np.nan)


def test_independent_normal_errors_give_the_closed_form() -> None:
    level_W = np.array([60.0, 68.0, 74.0, 90.0])
    forecast_WHV = np.repeat(level_W[:, None, None], HOURS, axis=1)
    found_W = event_probabilities(HYPOTENSION, ["map"], forecast_WHV, errors(), ANY)
    expected_W = 1 - stats.norm.sf((65 - level_W) / SIGMA) ** HOURS
    np.testing.assert_allclose(found_W, expected_W, atol=0.08)
    assert (0 < found_W).all() and (found_W < 1).all()


def test_errors_that_hold_for_a_whole_path_are_not_taken_for_independent_ones() -> None:
    together_JHV = np.repeat(errors()[:, :1], HOURS, axis=1)
    found_W = event_probabilities(HYPOTENSION, ["map"], np.full((1, HOURS, 1), 70.0), together_JHV, ANY)
    assert found_W[0] == pytest.approx(stats.norm.cdf(-1.0), abs=0.06)


def test_an_hour_without_a_measurement_can_hold_no_event() -> None:
    """One measured hour in eight: the probability is that of one hour, and paths without any hour are left out."""
    one_JHV = np.full((200, HOURS, 1), np.nan)
    one_JHV[:150, 3] = errors()[:150, 3]
    found_W = event_probabilities(HYPOTENSION, ["map"], np.full((1, HOURS, 1), 70.0), one_JHV, ANY)
    assert found_W[0] == pytest.approx(stats.norm.cdf(-1.0), abs=0.08)
    nothing = event_probabilities(HYPOTENSION, ["map"], np.full((1, HOURS, 1), 70.0), np.full((20, HOURS, 1), np.nan), ANY)
    assert np.isnan(nothing[0])


def test_a_path_never_leaves_the_plausible_range() -> None:
    """With a MAP of 66 mmHg at least no path is below 65, whatever its errors say."""
    low_WHV = np.full((1, HOURS, 1), 50.0)
    assert event_probabilities(HYPOTENSION, ["map"], low_WHV, errors(), ANY)[0] > 0.98
    assert event_probabilities(HYPOTENSION, ["map"], low_WHV, errors(), np.array([[66.0, 300.0]]))[0] < 0.01


def test_any_of_two_variables_makes_the_event() -> None:
    names = ["glucose", "glucose_fingerstick"]
    forecast_WHV = np.tile(np.array([100.0, 300.0]), (1, HOURS, 1))
    assert event_probabilities(HYPERGLYCAEMIA, names, forecast_WHV, np.zeros((50, HOURS, 2)), np.repeat(ANY, 2, 0))[0] > 0.98
    assert event_probabilities(HYPERGLYCAEMIA, names[:1], forecast_WHV[:, :, :1], np.zeros((50, HOURS, 1)), ANY)[0] < 0.02


def test_the_last_known_state_is_that_of_the_same_stay_and_of_no_later_hour() -> None:
    values_RV = np.array([60, np.nan, 70, 60, np.nan, 50, 70], dtype=np.float32)[:, None]
    own = Measurements(["map"], values_RV, np.array([1, 1, 1, 1, 2, 2, 2]), {1: 0, 2: 4})
    assert in_event_before(HYPOTENSION, own, np.arange(7)).tolist() == [True, True, False, True, False, True, False]


@pytest.mark.parametrize(
    ("task", "names", "words"),
    [
        ("circulatory_failure_8h", ["map", "lactate"], "reads treatments"),
        ("hyperglycaemia_8h", ["map"], "measured too rarely"),
        ("in_hospital_death", ["map"], "no event"),
    ],
)
def test_a_rule_that_cannot_be_applied_says_why(task: str, names: list[str], words: str) -> None:
    assert words in str(why_not_forecast(load_task(task), names))
    assert why_not_forecast(HYPOTENSION, ["map"]) is None
