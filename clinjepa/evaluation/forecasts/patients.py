"""Forecasts of patients whose future is not known: values with intervals, and probabilities of events.

A prediction point is (stay, hour): the last known hour. The `context` hours up to it are given; nothing after it is read. The coming
actions are the last given one, carried forward, or given latents (what if). All fitted parts come from a `Forecaster`, whose errors are
those of rollouts with the action carried forward: intervals under other actions assume that errors would be as large.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.drift_windows import Windows
from clinjepa.evaluation.forecasts.events import LEAST, event_probabilities, in_event_before, why_not_forecast
from clinjepa.evaluation.forecasts.forecaster import Forecaster
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.evaluation.forecasts.points.rollouts import rolled_out
from clinjepa.evaluation.forecasts.result import MODEL
from clinjepa.evaluation.forecasts.scoring.distributions import LEVELS, Shown
from clinjepa.evaluation.forecasts.windows import check_fits
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor

_KNOWN = ("point", "median", *(f"{end}_{round(100 * level)}" for level in LEVELS for end in ("low", "high")), "last_value", "hours_since")
VALUES = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("hour", pa.int32()),
        ("variable", pa.string()),
        ("unit", pa.string()),
        ("horizon", pa.int32()),
        *((name, pa.float32()) for name in _KNOWN),
        ("measured_probability", pa.float32()),
        ("distribution", pa.string()),
    ]
)
"""One row is one variable `horizon` hours after the last known `hour`: the point forecast, the median and the central intervals of its
predictive distribution, and the last measured value, all in `unit`; hours since that value; probability that the variable is measured then;
kind of distribution. The point is the median; where there were too few tuning errors for a distribution, it is the decoder's estimate, and
median and intervals are null. Forecasts lie in the variable's plausible range. Null also: no forecast was fitted, or never measured."""
EVENTS = pa.schema(
    [
        ("stay_id", pa.int64()),
        ("hour", pa.int32()),
        ("task", pa.string()),
        ("horizon_hours", pa.int32()),
        ("probability", pa.float64()),
        ("in_event", pa.bool_()),
        ("reason", pa.string()),
    ]
)
"""One row is one event task at one prediction point: the probability of its label, whether the last known state is the event already, and
why there is no probability. A task that counts only switches into the event has its least probability where that state is the event."""


@dataclass(frozen=True)
class KnownHours:
    """P prediction points, and the measured values of their stays: stay_P, hour_P (the last known hour, from 0), and measurements with the
    hours 0 … hour of these stays. Later hours may be among them and are not read; variables that the forecaster does not know neither."""

    stay_P: np.ndarray
    hour_P: np.ndarray
    measurements: Measurements

    @classmethod
    def of(cls, stay: int | Sequence[int], hour: int | Sequence[int], measurements: Measurements) -> KnownHours:
        """One stay and hour, or as many hours as stays."""
        stay_P, hour_P = (np.atleast_1d(np.asarray(each, dtype=np.int64)) for each in (stay, hour))
        return cls(stay_P, hour_P, measurements)


@dataclass(frozen=True)
class PatientForecasts:
    """Tables of VALUES, by prediction point, horizon and variable, and of EVENTS, by task and prediction point; estimate_PHV, the decoder's
    estimates behind the values, before errors are added and values clipped."""

    values: pa.Table
    events: pa.Table
    estimate_PHV: np.ndarray


def forecast_values(
    predictor: Predictor,
    latents: Latents,
    forecaster: Forecaster,
    known: KnownHours,
    z_action: np.ndarray | None = None,
    tasks: Sequence[Task] = (),
    level_PHV: np.ndarray | None = None,
) -> PatientForecasts:
    """Forecasts of every variable of the forecaster at every horizon, and of event tasks, at some prediction points.

    Args:
        predictor: The predictor that the forecaster was fitted with; it is set to evaluation mode.
        latents: Latents of the stays, from the encoder of that predictor; the `context` hours up to each point are read.
        forecaster: The fitted parts.
        known: Prediction points and measured values.
        z_action: Latents of the actions of the coming hours, [H, D] for all points or [P, H, D]: the first is of the hour after the last
            known one. H is the forecaster's last step − 1 at least. None: the last given action, carried forward.
        tasks: Event tasks; one whose rule cannot be forecast has a reason.
        level_PHV: Estimates of other forecasts of these points whose level chooses the past errors, so that both are read with the same
            errors. None: their own.

    Raises:
        EvaluationError: A point has fewer known hours than the forecaster's context or is not among the measurements; the forecaster is of
            another predictor; `z_action` has another shape; a predicted latent is NaN or infinite.
    """
    check_fits(forecaster, predictor.eval(), latents)
    history = _history(forecaster, known)
    steps = forecaster.steps
    windows = _windows(forecaster, known)
    later_WHD = _later(z_action, len(windows), int(steps.steps_S[-1]), latents.dim)
    z_WHD = np.zeros((len(windows), len(steps.horizons), latents.dim), dtype=np.float32)
    estimate_WSV = np.zeros((len(windows), len(steps.steps_S), len(forecaster.names)), dtype=np.float32)
    for rows, z_BSD in rolled_out(predictor, latents, windows, steps.steps_S, later_WHD=later_WHD):
        z_WHD[rows], estimate_WSV[rows] = z_BSD[:, steps.at_H], forecaster.decoder(z_BSD)
    estimate_PHV = estimate_WSV[:, steps.at_H]
    shown = forecaster.shown(estimate_PHV, history.hours_since_PV, level_PHV)
    values = _values(forecaster, known, history, z_WHD, shown)
    return PatientForecasts(values, _events(forecaster, known, history, estimate_WSV, tasks), estimate_PHV)


@dataclass(frozen=True)
class _History:
    """What was known: the forecaster's variables in all rows, the row of each prediction point, and the last measured value and the hours
    since it [P, V]."""

    measurements: Measurements
    row_P: np.ndarray
    last_PV: np.ndarray
    hours_since_PV: np.ndarray


def _history(forecaster: Forecaster, known: KnownHours) -> _History:
    context, own = forecaster.steps.context, known.measurements
    if known.stay_P.shape != known.hour_P.shape or known.stay_P.ndim != 1:
        raise EvaluationError(f"{known.stay_P.size} stays and {known.hour_P.size} hours were given; give one hour for each stay")
    short = int((known.hour_P < context - 1).sum())
    if short:
        raise EvaluationError(f"{short} of {len(known.hour_P)} prediction points have fewer than {context} known hours, the given hours")
    row_P = np.array([own.first_row.get(int(stay), len(own.stay_R)) for stay in known.stay_P], dtype=np.int64) + known.hour_P
    inside_P = row_P < len(own.stay_R)
    inside_P[inside_P] = own.stay_R[row_P[inside_P]] == known.stay_P[inside_P]
    if not inside_P.all():
        raise EvaluationError(f"the measurements lack the last known hour of {int((~inside_P).sum())} of {len(inside_P)} prediction points")
    values_RV = np.stack([own.column(name) for name in forecaster.names], axis=1)
    own = Measurements(forecaster.names, values_RV, own.stay_R, own.first_row)
    last_PV = own.last_known(np.isfinite(values_RV))[row_P]
    ever_PV = last_PV >= 0
    value_PV = np.where(ever_PV, np.take_along_axis(values_RV, np.maximum(last_PV, 0), axis=0), np.nan)
    return _History(own, row_P, value_PV, np.where(ever_PV, row_P[:, None] - last_PV, np.inf))


def _windows(forecaster: Forecaster, known: KnownHours) -> Windows:
    steps, number = forecaster.steps, len(known.stay_P)
    start_P = known.hour_P + 1 - steps.context
    return Windows(steps.context, known.stay_P, start_P, known.stay_P, np.full(number, steps.steps_S[-1]))


def _later(z_action: np.ndarray | None, number: int, last: int, dim: int) -> np.ndarray | None:
    """Latents of the coming actions [P, last, D]; the last step reads none."""
    if z_action is None:
        return None
    shape = z_action.shape
    if z_action.ndim not in (2, 3) or shape[-1] != dim or shape[-2] < last - 1 or (z_action.ndim == 3 and shape[0] != number):
        raise EvaluationError(f"z_action has shape {list(shape)}; give [H, {dim}] or [{number}, H, {dim}] with H of at least {last - 1}")
    used = np.asarray(z_action[..., : last - 1, :], dtype=np.float32)
    if not np.isfinite(used).all():
        raise EvaluationError("a latent of a coming action is NaN or infinite; encode the actions again")
    return np.broadcast_to(used, (number, *used.shape[-2:]))


def _values(forecaster: Forecaster, known: KnownHours, history: _History, z_PHD: np.ndarray, shown: Shown) -> pa.Table:
    point_PHV = shown.point_N
    found = {"point": point_PHV, "median": np.where(np.isfinite(shown.low_LN[0]), point_PHV, np.nan)}
    for place, level in enumerate(LEVELS):
        found |= {f"low_{round(100 * level)}": shown.low_LN[place], f"high_{round(100 * level)}": shown.high_LN[place]}
    found["last_value"] = np.broadcast_to(history.last_PV[:, None], point_PHV.shape)
    hours_PV = np.where(np.isfinite(history.hours_since_PV), history.hours_since_PV, np.nan)
    found["hours_since"] = np.broadcast_to(hours_PV[:, None], point_PHV.shape)
    measured_PHV = np.full(point_PHV.shape, np.nan)
    kinds = np.full(point_PHV.shape[1:], None, dtype=object)
    for place, head in enumerate(forecaster.heads):
        if head is not None and len(z_PHD):
            measured_PHV[:, place] = np.exp(-np.logaddexp(0.0, -head(z_PHD[:, place])))
        for column, own in enumerate(forecaster.distributions[MODEL][place]):
            if own is not None:
                kinds[place, column] = own.kind
    number, num_horizons, num_variables = point_PHV.shape
    each = num_horizons * num_variables
    keys = [
        np.repeat(known.stay_P, each),
        np.repeat(known.hour_P, each),
        forecaster.names * (number * num_horizons),
        forecaster.units * (number * num_horizons),
        np.tile(np.repeat(forecaster.steps.horizons, num_variables), number),
    ]
    columns = [pa.array(key, field.type) for key, field in zip(keys, VALUES, strict=False)]
    numbers = [*(found[name] for name in _KNOWN), measured_PHV]
    columns += [pa.array(values.astype(np.float32).ravel(), pa.float32(), from_pandas=True) for values in numbers]
    return pa.table([*columns, pa.array(kinds.ravel().tolist() * number, pa.string())], schema=VALUES)


def _events(forecaster: Forecaster, known: KnownHours, history: _History, estimate_PSV: np.ndarray, tasks: Sequence[Task]) -> pa.Table:
    tables = [EVENTS.empty_table()]
    number = len(known.stay_P)
    for task in tasks:
        ahead = task.horizon_hours or 0
        reason = why_not_forecast(task, forecaster.names) or forecaster.steps.why_no_path(ahead)
        probability_P, before_P = np.full(number, np.nan), np.zeros(number, dtype=bool)
        if reason is None:
            errors_JHV = forecaster.paths[MODEL][:, :ahead]
            probability_P = event_probabilities(task, forecaster.names, estimate_PSV[:, :ahead], errors_JHV, forecaster.ranges_V2)
            before_P = in_event_before(task, history.measurements, history.row_P)
            if task.switches_only:
                probability_P = np.where(before_P, LEAST, probability_P)
        why_P = [reason if reason is not None else None if np.isfinite(p) else _NO_PATH for p in probability_P]
        columns = [
            pa.array(known.stay_P, pa.int64()),
            pa.array(known.hour_P, pa.int32()),
            pa.array([task.name] * number, pa.string()),
            pa.array([task.horizon_hours] * number, pa.int32()),
            pa.array(probability_P, pa.float64(), from_pandas=True),
            pa.array(before_P, pa.bool_(), mask=np.full(number, reason is not None)),
            pa.array(why_P, pa.string()),
        ]
        tables.append(pa.table(columns, schema=EVENTS))
    return pa.concat_tables(tables)


_NO_PATH = "no tuning window has a measurement in the coming hours"
