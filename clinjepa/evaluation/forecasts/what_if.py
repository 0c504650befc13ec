"""What if: the coming hours of one stay forecast under several versions of its actions, side by side.

From the last known hour on: the last action carried forward, no treatment, a plan, and the actions that were recorded later. Each version
is a sequence of action latents for `patients.forecast_values`. A text begins with its hour, and that number moves a forecast as well. So
all versions but the recorded one are read under the number of the last known hour, as carrying forward does, for which the errors are
calibrated: they differ by their actions alone. For the same reason all versions have the past errors of the forecast with the last action
carried forward. Differences between versions are associations learnt from data, not effects of treatments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from clinjepa.clinical import Task
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.forecasts.forecaster import Forecaster
from clinjepa.evaluation.forecasts.patients import KnownHours, PatientForecasts, forecast_values
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor
from clinjepa.trajectory.hours.action_plan import PlanEntry, planned_texts
from clinjepa.trajectory.hours.text import action_text, phrases_of

SCHEMA_VERSION = 2
HISTORY_HOURS = 24
Version = Literal["carried_forward", "none", "plan", "recorded"]
NOTES = (
    "Differences between versions are associations that the model learnt from data, not effects of the treatment: patients who get more of "
    "a drug are often sicker. Nothing here says what would happen if the treatment were changed.",
    "Intervals and event probabilities were calibrated on forecasts with the last actions carried forward. Under other actions errors may "
    "be larger than the intervals say. All versions have the errors of that forecast, so their points differ by what the model predicts.",
    "Actions as recorded use what happened later. They are shown for comparison and are no forecast that could have been made. Their texts "
    "also count the hours on, which moves a forecast by itself.",
    "None means that nothing is given: no drug, no fluid, and no ventilation either.",
)
"""What a reader of the versions must know."""
Encode = Callable[[list[str]], np.ndarray]
"""Latents [N, D] float32 of N action texts, by the encoder of the stay's latents and as its latent store holds them."""
_BOUNDS = ("point", "median", "low_50", "high_50", "low_90", "high_90")


class HourAction(TypedDict):
    """What is given in an hour of the stay: its action text without the hour at its beginning."""

    hour: int
    given: str


class History(TypedDict):
    """Hours of the stay that the forecast reads: the last ones that are known. `last_action`: what is given in the last of them."""

    first_hour: int
    last_hour: int
    last_action: HourAction


class ForecastHours(TypedDict):
    """Hours of the stay that are forecast; none of them is known. There are values at the horizons."""

    first_hour: int
    last_hour: int


class PlannedDrug(TypedDict):
    """A drug of the plan, and how many stays of the run's training split were given it; null where the run's ingest is no longer stored."""

    drug: str
    num_training_stays: int | None


class ValueForecast(TypedDict):
    """One variable in hour `hour` of the stay, `horizon` hours after the last known one, in its unit. null: no forecast or no interval was
    fitted."""

    variable: str
    hour: int
    horizon: int
    point: float | None
    median: float | None
    low_50: float | None
    high_50: float | None
    low_90: float | None
    high_90: float | None
    measured_probability: float | None


class EventForecast(TypedDict):
    """The probability of an event task within `horizon_hours`, from the forecasts alone (no probe), or the reason why there is none."""

    task: str
    horizon_hours: int
    probability: float | None
    in_event: bool | None
    reason: str | None


class VersionForecast(TypedDict):
    """The forecasts under one version of the actions. coming_actions: those of hours that are forecast. `reason`: why there are none."""

    version: Version
    uses_future: bool
    coming_actions: list[HourAction]
    values: list[ValueForecast]
    events: list[EventForecast]
    reason: str | None


class VariableHours(TypedDict):
    """Measured values of a variable: in the last HISTORY_HOURS hours up to the last known one, and after it, where these are recorded."""

    variable: str
    unit: str
    hours: list[int]
    values: list[float]
    later_hours: list[int]
    later_values: list[float]


class WhatIf(TypedDict):
    """Content of `forecast.json`. All hours are those of the stay, from 0; hour: the last known one, between history and forecast."""

    schema_version: int
    run: str
    recipe: str
    seed: int
    data: str
    hour: int
    history: History
    forecast: ForecastHours
    context_hours: int
    horizons: list[int]
    notes: list[str]
    warnings: list[str]
    plan_drugs: list[PlannedDrug]
    variables: list[VariableHours]
    versions: list[VersionForecast]


class FrozenModel(NamedTuple):
    """What forecasts: predictor, the fitted forecaster, and the event tasks that it is asked for."""

    predictor: Predictor
    forecaster: Forecaster
    tasks: Sequence[Task]


@dataclass(frozen=True)
class OneStay:
    """A stay whose hours after `hour` are to be forecast. Of `measurements` and `latents` later hours serve the recorded version only;
    action_texts are those of all recorded hours."""

    stay_id: int
    hour: int
    latents: Latents
    measurements: Measurements
    action_texts: Sequence[str]

    @property
    def last_text(self) -> str:
        return self.action_texts[self.hour]


def coming_hours(forecaster: Forecaster, hour: int) -> range:
    """Hours of the stay after the last known one whose actions a forecast reads."""
    return range(hour + 1, hour + int(forecaster.steps.steps_S[-1]))


def what_if(
    model: FrozenModel, stay: OneStay, encode: Encode, plan: Sequence[PlanEntry] | None = None, max_decimals: int = 2
) -> list[VersionForecast]:
    """The forecasts of one stay under each version of the coming actions.

    Args:
        model: The fitted parts.
        stay: The stay.
        encode: Encodes action texts; it is not called where every hour keeps the last action.
        plan: Entries of a plan; None leaves that version out.
        max_decimals: `text.max_decimals` of the ingest that wrote the stay's texts.

    Raises:
        EvaluationError: The hour is not one of the stay, or has fewer known hours than the forecaster's context; the forecaster is of
            another predictor; a latent is NaN or infinite.
    """
    _check(model.forecaster, stay)
    hours = coming_hours(model.forecaster, stay.hour)
    texts: dict[Version, list[str]] = {"none": [action_text(hour, ()) for hour in hours]}
    if plan is not None:
        texts["plan"] = planned_texts(plan, stay.last_text, hours, max_decimals)
    latents = _encoded(stay, texts, encode)
    carried = _forecasts(model, stay, None)
    level = carried.estimate_PHV
    found = [_version(stay, "carried_forward", [stay.last_text] * len(hours), carried)]
    found += [_version(stay, name, texts[name], _forecasts(model, stay, latents[name], level)) for name in texts]
    return [*found, _recorded(model, stay, hours, level)]


def stay_hours(forecaster: Forecaster, stay: OneStay) -> tuple[History, ForecastHours]:
    """The hours of the stay that are read, and those that are forecast."""
    hour = stay.hour
    last: HourAction = {"hour": hour, "given": _given(stay.last_text)}
    return (
        {"first_hour": hour + 1 - forecaster.steps.context, "last_hour": hour, "last_action": last},
        {"first_hour": hour + 1, "last_hour": hour + int(forecaster.steps.steps_S[-1])},
    )


def plan_warnings(drugs: Sequence[PlannedDrug]) -> list[str]:
    """One line where the plan names drugs that no training stay was given, and one where this is not known; empty otherwise."""
    never, unknown = ([each["drug"] for each in drugs if each["num_training_stays"] == number] for number in (0, None))
    lines = []
    if never:
        lines.append(
            f"the plan names {', '.join(never)}, which no stay of the run's training split was given: the model never saw it, and what it "
            "forecasts under the plan is a guess"
        )
    if unknown:
        lines.append(f"whether the training split was given {', '.join(unknown)} is not known: the ingest of the run is no longer stored")
    return lines


def variable_hours(forecaster: Forecaster, stay: OneStay) -> list[VariableHours]:
    """Measured values of the forecaster's variables around the last known hour, as far as they are recorded."""
    first = max(0, stay.hour + 1 - HISTORY_HOURS)
    last = min(len(stay.action_texts) - 1, stay.hour + int(forecaster.steps.steps_S[-1]))
    row = stay.measurements.first_row[stay.stay_id]
    found: list[VariableHours] = []
    for name, unit in zip(forecaster.names, forecaster.units, strict=True):
        column = stay.measurements.column(name)[row : row + last + 1]
        known, later = (
            [h for h in span if np.isfinite(column[h])] for span in (range(first, stay.hour + 1), range(stay.hour + 1, last + 1))
        )
        found.append(
            {
                "variable": name,
                "unit": unit,
                "hours": known,
                "values": [float(column[hour]) for hour in known],
                "later_hours": later,
                "later_values": [float(column[hour]) for hour in later],
            }
        )
    return found


def _check(forecaster: Forecaster, stay: OneStay) -> None:
    num_hours, context = len(stay.action_texts), forecaster.steps.context
    if not 0 <= stay.hour < num_hours:
        raise EvaluationError(f"hour {stay.hour} is not one of this stay, which has the hours 0 to {num_hours - 1}")
    if stay.hour < context - 1:
        raise EvaluationError(
            f"a forecast needs {context} known hours, and up to hour {stay.hour} there are {stay.hour + 1}; "
            f"the stay has {num_hours} h: " + (f"give an hour from {context - 1} on" if num_hours >= context else "it is too short")
        )


def _encoded(stay: OneStay, texts: dict[Version, list[str]], encode: Encode) -> dict[Version, np.ndarray]:
    """Latents [H, D] of the versions' texts under the head of the last known hour; each is encoded once, and the last one is known."""
    _, _, z_last_1D = stay.latents.stay(stay.stay_id, stay.hour, 1)
    read = {name: [action_text(stay.hour, phrases_of(text)) for text in own] for name, own in texts.items()}
    last = action_text(stay.hour, phrases_of(stay.last_text))
    new = list(dict.fromkeys(text for own in read.values() for text in own if text != last))
    rows_ND = np.concatenate([z_last_1D, encode(new)]) if new else z_last_1D
    place = {text: row for row, text in enumerate([last, *new])}
    return {name: rows_ND[np.array([place[text] for text in own], dtype=np.int64)] for name, own in read.items()}


def _recorded(model: FrozenModel, stay: OneStay, hours: range, level_PHV: np.ndarray) -> VersionForecast:
    """The version with the recorded actions, as far as they reach: a horizon h needs those of the h − 1 hours after the last known one."""
    there = range(hours.start, min(hours.stop, len(stay.action_texts)))
    if not there:
        reason = (
            "no hour after the last known one is recorded" if len(stay.action_texts) <= stay.hour + 1 else "the forecast reads no action"
        )
        return {"version": "recorded", "uses_future": True, "coming_actions": [], "values": [], "events": [], "reason": reason}
    _, _, z_TD = stay.latents.stay(stay.stay_id, there.start, len(there))
    z_HD = np.concatenate([z_TD, np.repeat(z_TD[-1:], len(hours) - len(there), axis=0)])
    found = _version(stay, "recorded", [stay.action_texts[hour] for hour in there], _forecasts(model, stay, z_HD, level_PHV))
    reach = len(there) + 1
    found["values"] = [row for row in found["values"] if row["horizon"] <= reach]
    for row in found["events"]:
        if row["probability"] is not None and row["horizon_hours"] > reach:
            row["probability"], row["reason"] = None, f"the recorded actions reach {reach} h ahead"
    return found


def _forecasts(model: FrozenModel, stay: OneStay, z_HD: np.ndarray | None, level_PHV: np.ndarray | None = None) -> PatientForecasts:
    known = KnownHours.of(stay.stay_id, stay.hour, stay.measurements)
    return forecast_values(model.predictor, stay.latents, model.forecaster, known, z_HD, model.tasks, level_PHV)


def _version(stay: OneStay, name: Version, texts: Sequence[str], found: PatientForecasts) -> VersionForecast:
    values, events = _rows(found)
    actions: list[HourAction] = [{"hour": hour, "given": _given(text)} for hour, text in enumerate(texts, start=stay.hour + 1)]
    return {
        "version": name,
        "uses_future": name == "recorded",
        "coming_actions": actions,
        "values": values,
        "events": events,
        "reason": None,
    }


def _given(text: str) -> str:
    """An action text without its hour: actions carried forward have the hour of the last known text, which is not theirs."""
    return text.partition(" | ")[2]


def _rows(found: PatientForecasts) -> tuple[list[ValueForecast], list[EventForecast]]:
    kept = ("variable", "horizon", *_BOUNDS, "measured_probability")
    values: list[Any] = [{"hour": row["hour"] + row["horizon"], **{name: row[name] for name in kept}} for row in found.values.to_pylist()]
    events: list[Any] = [{name: row[name] for name in EventForecast.__annotations__} for row in found.events.to_pylist()]
    return values, events
