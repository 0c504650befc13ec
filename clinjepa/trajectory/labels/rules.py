"""Label rules: pure functions from hour rows to labels, one per kind of task (kinds: `clinjepa/clinical/tasks.py`).

A label at hour h is predicted at intime + (h + 1) h from hours 0 to h. The rule of event tasks is `eep_label` of
eth-mds/icu-features. Where a label would read hours that the cohort cut off, there is none. Tasks are data:
`clinjepa/clinical/tasks/*.yaml`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np

from clinjepa.clinical import CarriedEvent, Combination, Condition, StayOutcome, Target, Task
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.hour_rows import HourRows
from clinjepa.trajectory.labels.states import compare, evaluate

TIME_COLUMNS = (
    "outtime",
    "death_time",
    "hospital_admission_time",
    "hospital_discharge_time",
    "next_icu_admission_time",
    "next_hospital_admission_time",
)
FLAG_COLUMNS = ("died_in_hospital", "died_in_icu", "sepsis", "chronic_dialysis")
"""Columns of `stays` that rules read; `artifact.label_rows` turns times into hours after ICU admission and flags into 0, 1 or NaN."""

_HISTORY = ("chronic_dialysis",)
"""Flags that say what was before the stay: data without diagnoses know of none. The other flags are outcomes."""


def hourly_labels(task: Task, state: DerivedState) -> np.ndarray:
    """The labels of an hourly task per row; NaN where there is none, and on all rows before ICU admission."""
    rows = state.rows
    if task.kind == "event":
        labels = _event_labels(task, state)
    elif task.kind == "time":
        labels = _time_labels(task, rows)
    elif task.kind == "change":
        values, op = state.column(task.column or ""), task.op or ">="
        change = rows.shifted(values, -(task.horizon_hours or 0)) - values
        labels = np.where(np.isnan(change), np.nan, compare(change, op, task.value or 0.0))
    elif task.kind == "column":
        labels = state.column(task.column or "")
    elif task.target is not None:
        labels = _target_values(task.target, state)
    else:
        raise ValueError(f"task {task.name} is not an hourly one")
    return np.where((rows.hour_R < 0) | _excluded(task, rows) | _beyond_cut(task, rows), np.nan, labels)


def stay_labels(task: Task, state: DerivedState, prediction_hour: int) -> np.ndarray:
    """The labels of a once-per-stay task; NaN on all rows except the row of the prediction.

    That row is hour `prediction_hour` - 1 of stays that last until then with a living patient, or, for tasks at ICU discharge, the
    last hour of stays that end in a discharge.
    """
    rows = state.rows
    ends = rows.constants["outtime"]
    if task.at == "icu_discharge":
        # The grid reaches the end of the stay (the cohort did not cut it), and the patient leaves alive.
        here = (rows.row_R == rows.last_R) & (rows.hour_R + 1 >= ends) & (rows.constants["died_in_icu"] == 0)
    else:
        dead = rows.constants["death_time"] <= prediction_hour
        here = (rows.hour_R == prediction_hour - 1) & (ends >= prediction_hour) & ~dead
    labels = _target_values(task.target, state, here) if task.target else _outcome_labels(task.outcome or StayOutcome(), state)
    taken = _excluded(task, rows) | _beyond_cut(task, rows)
    if task.unless is not None:
        taken |= rows.ever(_state(task.unless, state) == 1)
    return np.where(here & ~taken, labels, np.nan)


def eep_labels(
    state_R: np.ndarray, stay_id_R: np.ndarray, horizon_hours: int, switches_only: bool, carried_event: CarriedEvent = "negatives_only"
) -> np.ndarray:
    """Early-event labels per hour: 1, 0, or NaN where there is none. Source: eth-mds/icu-features, `eep_label`.

    No label where the hour itself is in the event. 1 where an event lies in the next `horizon_hours` hours. 0 where none does and
    one of these hours is known to be without the event.

    Args:
        state_R: 1 event, 0 no event, NaN unknown, one row per hour.
        stay_id_R: rows of a stay are consecutive and hourly.
        horizon_hours: hours ahead that the label covers.
        switches_only: no label 1 where the last known state up to the hour was the event.
        carried_event: with `switches_only`, what becomes of the label 0 of such an hour: `negatives_only` keeps it where recovery follows,
            as the source does; `unknown` leaves it out, so that the outcome does not decide which hours have a label.
    """
    num_rows = len(state_R)
    if not num_rows:
        return np.zeros(0, dtype=np.float64)
    rows = np.arange(num_rows)
    starts = np.flatnonzero(np.concatenate([[True], stay_id_R[1:] != stay_id_R[:-1]]))
    ends = np.append(starts[1:], num_rows) - 1
    which = np.repeat(np.arange(len(starts)), ends - starts + 1)
    window_end = np.minimum(rows + horizon_hours, ends[which])

    def seen_ahead(value: float) -> np.ndarray:
        count = np.cumsum(state_R == value)
        return np.asarray(count[window_end] - count > 0)

    labels = np.where(seen_ahead(1.0), 1.0, np.where(seen_ahead(0.0), 0.0, np.nan))
    labels[state_R == 1.0] = np.nan
    if switches_only:
        last_known = np.maximum.accumulate(np.where(np.isnan(state_R), -1, rows))
        was_event = (last_known >= starts[which]) & (state_R[np.maximum(last_known, 0)] == 1.0)
        labels[was_event & ((labels == 1.0) | (carried_event == "unknown"))] = np.nan
    return labels


def _event_labels(task: Task, state: DerivedState) -> np.ndarray:
    if task.state is None:
        raise ValueError(f"task {task.name} has no hourly state")
    rows, hourly = state.rows, _state(task.state, state)
    labels = eep_labels(hourly, rows.stay_id_R, task.horizon_hours or 0, task.switches_only, task.carried_event)
    if task.free_hours is not None:
        in_event = hourly == 1
        recently = rows.ever(in_event) if task.free_hours == "all" else rows.trailing_count(in_event, task.free_hours) > 0
        labels = np.where(recently, np.nan, labels)
    if task.unless is not None:
        labels = np.where(_state(task.unless, state) == 1, np.nan, labels)
    return labels


def _state(node: Condition | Combination, state: DerivedState) -> np.ndarray:
    """A condition per row; NaN before ICU admission, where the grid has no rows (derived quantities read the history themselves)."""
    return np.where(state.rows.hour_R < 0, np.nan, evaluate(node, state.column))


def _time_labels(task: Task, rows: HourRows) -> np.ndarray:
    """1 where the time lies more than `gap_hours` and at most `gap_hours` + horizon ahead; NaN from that time on."""
    ahead = _time_of(task.time or "", rows) - (rows.hour_R + 1)
    inside = (ahead > task.gap_hours) & (ahead <= task.gap_hours + (task.horizon_hours or 0))
    labels = np.where(_unknown_time(task.time or "", rows) | (ahead <= 0), np.nan, inside.astype(np.float64))
    if task.only_if is not None:
        flag = rows.constants[task.only_if]
        labels = np.where(np.isnan(flag), np.nan, np.where(flag == 1, labels, np.where(np.isnan(labels), np.nan, 0.0)))
    return labels


def _target_values(target: Target, state: DerivedState, here_R: np.ndarray | None = None) -> np.ndarray:
    """The number to predict per row; with `here_R` (bool), computed on these rows only and NaN on others."""
    rows = state.rows
    if target.time is not None:
        left = _time_of(target.time, rows) - (rows.hour_R + 1)
        return np.where(left > 0, left / target.unit_hours, np.nan)
    values = state.column(target.column or "")
    wanted = np.flatnonzero(here_R if here_R is not None else np.ones(len(rows), bool))
    ahead = np.stack([rows.shifted(values, -hours)[wanted] for hours in range(target.first_hour, target.last_hour + 1)])
    chosen = np.full(len(rows), np.nan)
    chosen[wanted] = _statistic(ahead, target.statistic)
    if target.whole_window:
        chosen = np.where(_time_of("outtime", rows) >= rows.hour_R + 1 + target.last_hour, chosen, np.nan)
    if target.transform == "log":
        positive = chosen + target.offset > 0
        chosen = np.log(np.where(positive, chosen + target.offset, np.nan))
    return chosen


_STATISTICS: dict[str, Callable[..., np.ndarray]] = {"median": np.nanmedian, "mean": np.nanmean, "min": np.nanmin, "max": np.nanmax}


def _statistic(ahead_HR: np.ndarray, statistic: str) -> np.ndarray:
    """A statistic over the known values of axis 0 (hours ahead), [R]."""
    if statistic in ("first", "last"):
        known = ~np.isnan(ahead_HR)
        at = known.argmax(axis=0) if statistic == "first" else len(ahead_HR) - 1 - known[::-1].argmax(axis=0)
        return np.asarray(np.take_along_axis(ahead_HR, at[None], axis=0)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all hours unknown: the result is NaN
        return np.asarray(_STATISTICS[statistic](ahead_HR, axis=0))


def _outcome_labels(outcome: StayOutcome, state: DerivedState) -> np.ndarray:
    rows = state.rows
    if outcome.flag is not None:
        return rows.constants[outcome.flag]
    if outcome.state is not None:
        hourly = _state(outcome.state, state)
        later = {value: _ever_after(rows, hourly == value) for value in (0.0, 1.0)}
        labels = np.where(later[1.0], 1.0, np.where(later[0.0], 0.0, np.nan))
        return np.where(rows.ever(hourly == 1), np.nan, labels)
    since = np.zeros(len(rows)) if outcome.since == "intime" else _time_of(outcome.since or "", rows)
    after = _time_of(outcome.time or "", rows) - since
    if outcome.within_hours is not None:
        labels = ((after >= 0) & (after <= outcome.within_hours)).astype(np.float64)
    else:
        labels = (after > (outcome.beyond_hours or 0.0)).astype(np.float64)
    unknown = _unknown_time(outcome.time or "", rows) | np.isnan(since)
    for name in outcome.known_if:
        unknown |= np.isnan(rows.constants[name])
    return np.where(unknown, np.nan, labels)


def _ever_after(rows: HourRows, mask_R: np.ndarray) -> np.ndarray:
    """Whether the mask is true in a later hour of the stay."""
    upcoming = rows.next_true(mask_R)
    return np.asarray(rows.shifted((upcoming <= rows.last_R).astype(np.float64), -1, 0.0) == 1)


def _time_of(name: str, rows: HourRows) -> np.ndarray:
    """A time as hours after ICU admission; NaN for never or unknown."""
    return rows.constants[name]


def _unknown_time(name: str, rows: HourRows) -> np.ndarray:
    """Where a missing time means unknown, not never: a death in hospital without a time, an unknown outcome, a stay without an end."""
    missing = np.isnan(rows.constants[name])
    if name == "death_time":
        return np.asarray(missing & (rows.constants["died_in_hospital"] != 0))
    return np.asarray(missing & (name == "outtime"))


def _beyond_cut(task: Task, rows: HourRows) -> np.ndarray:
    """Rows whose label reads hours that the cohort cut off (`cohort.max_stay_hours`): what happened in them is unknown.

    An event that is seen before the cut gives no label either: otherwise the outcome would decide which of these hours have one, and all
    labels shortly before the cut would be 1.
    """
    last_hour_R = rows.hour_R[rows.last_R]
    ahead = task.reads_hours_ahead
    reads_beyond = True if ahead is None else rows.hour_R + ahead > last_hour_R
    return np.asarray((last_hour_R + 1 < rows.constants["outtime"]) & reads_beyond)


def _excluded(task: Task, rows: HourRows) -> np.ndarray:
    """Rows of stays that the task leaves out; an unknown outcome leaves a stay out too, an unknown history does not."""
    excluded = np.zeros(len(rows), bool)
    for name in task.exclude_stays:
        flag = rows.constants[name]
        excluded |= (flag == 1) | (np.isnan(flag) & (name not in _HISTORY))
    return excluded
