"""Versions of the coming actions of one stay, in a world worked out by hand: the latent of an action is its number of letters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.forecasts.scoring.distributions import Distribution
from clinjepa.evaluation.forecasts.what_if import FrozenModel, OneStay, VersionForecast, plan_warnings, variable_hours, what_if
from tests.evaluation.forecasts.test_forecast_patients import SWITCH, by_hand, line_measurements, random_predictor

HOUR = 5
GIVEN = [
    *(f"t={hour}h | Norepinephrine: 0.1 mcg/kg/min." for hour in range(9)),
    *(f"t={hour}h | FiO2: 60 %." for hour in range(9, 30)),
]


def encode(texts: list[str]) -> np.ndarray:
    return np.array([[len(text.partition(" | ")[2]) / 10] for text in texts], dtype=np.float32)


class Latents:
    dim = 1

    def __init__(self, texts: Sequence[str]) -> None:
        self.z_action_TD = encode(list(texts))

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        z_TD = np.arange(len(self.z_action_TD), dtype=np.float32)[hours, None]
        return z_TD[0], z_TD, self.z_action_TD[hours]


def found(texts: Sequence[str] = GIVEN, hour: int = HOUR, encoder=encode) -> dict[str, VersionForecast]:  # type: ignore[no-untyped-def]
    stay = OneStay(0, hour, Latents(texts), line_measurements([70.0] * len(texts)), texts)
    model = FrozenModel(random_predictor(), by_hand(), [SWITCH])
    return {own["version"]: own for own in what_if(model, stay, encoder)}


def test_recorded_actions_that_repeat_the_last_one_give_its_numbers() -> None:
    carried, _, recorded = found(GIVEN[:9] + GIVEN[:5]).values()
    again, _, same = found([GIVEN[0]] * 30).values()
    assert again["values"] == same["values"] and again["events"] == same["events"] and again["version"] == "carried_forward"
    assert carried["values"][0] == recorded["values"][0], "no action after the last known hour reaches one hour ahead"


def test_a_horizon_and_an_event_beyond_the_recorded_actions_have_none() -> None:
    """A horizon of 3 h reads the actions of two coming hours, an event within 8 h those of seven."""
    for num_later, horizons, event in ((1, {1}, False), (2, {1, 3}, False), (6, {1, 3}, False), (7, {1, 3}, True)):
        recorded = found(GIVEN[: HOUR + 1 + num_later])["recorded"]
        assert {row["horizon"] for row in recorded["values"]} == horizons
        (own,) = recorded["events"]
        assert (own["probability"] is not None) == event
        assert event or own["reason"] == f"the recorded actions reach {num_later + 1} h ahead"
    none = found(GIVEN[: HOUR + 1])["recorded"]
    assert (none["values"], none["events"], none["reason"]) == ([], [], "no hour after the last known one is recorded")


def test_the_encoder_is_not_asked_where_nothing_changes() -> None:
    """The text of the last known hour says that nothing is given, so that no treatment is the action carried forward."""

    def never(texts: list[str]) -> np.ndarray:
        raise AssertionError

    nothing = [f"t={hour}h | No active interventions." for hour in range(30)]
    own = found(nothing, encoder=never)
    assert own["none"]["values"] == own["carried_forward"]["values"]
    assert own["none"]["coming_actions"][0] == {"hour": 6, "given": "No active interventions."}


def test_each_text_is_encoded_once_and_under_the_hour_of_the_last_known_text() -> None:
    """Otherwise the hour alone would make versions differ."""
    asked: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return encode(texts)

    found(encoder=counting)
    assert asked == ["t=5h | No active interventions."]


def test_versions_have_the_errors_of_the_action_carried_forward() -> None:
    """A level between two versions would add other past errors to each: 100 mmHg between points whose estimates hardly differ."""
    stay = OneStay(0, HOUR, Latents(GIVEN), line_measurements([70.0] * len(GIVEN)), GIVEN)
    plain = {own["version"]: own["values"][1]["point"] for own in what_if(FrozenModel(random_predictor(), by_hand(), []), stay, encode)}
    carried, none = (plain[name] - 19 for name in ("carried_forward", "none"))  # type: ignore[operator]
    assert carried != none
    errors = [np.full(20, 0.0), np.full(20, 100.0), np.full(20, 100.0)]
    cut = Distribution("by_level", np.array([(carried + none) / 2, 1000.0]), errors)
    model = FrozenModel(random_predictor(), by_hand(distributions={"model": [[cut]] * 2}), [])
    points = {own["version"]: own["values"][1]["point"] for own in what_if(model, stay, encode)}
    assert points["none"] - points["carried_forward"] == pytest.approx(none - carried, abs=1e-3)  # type: ignore[operator]


@pytest.mark.parametrize(("number", "words"), [(0, "no stay of the run's training split was given"), (None, "is not known"), (3, None)])
def test_a_drug_that_training_never_had_is_one_line(number: int | None, words: str | None) -> None:
    found = plan_warnings([{"drug": "esmolol", "num_training_stays": number}, {"drug": "norepinephrine", "num_training_stays": 9}])
    assert len(found) == (words is not None) and all(words in line and "esmolol" in line for line in found if words)
    assert not any("norepinephrine" in line for line in found)


def test_the_measured_values_are_those_of_the_day_before_and_of_the_hours_ahead() -> None:
    values = [float(hour) for hour in range(30)]
    values[20] = np.nan
    stay = OneStay(0, 26, Latents(GIVEN), line_measurements(values), GIVEN)
    (own,) = variable_hours(by_hand(), stay)
    assert (own["variable"], own["unit"]) == ("map", "mmHg")
    assert own["hours"] == [*range(3, 20), *range(21, 27)] == own["values"]
    assert own["later_hours"] == [27, 28, 29] == own["later_values"]


def test_a_stay_that_is_too_short_is_refused() -> None:
    with pytest.raises(EvaluationError, match="needs 4 known hours, and up to hour 2 there are 3; the stay has 3 h: it is too short"):
        found(GIVEN[:3], hour=2)
    with pytest.raises(EvaluationError, match="hour 40 is not one of this stay"):
        found(hour=40)
