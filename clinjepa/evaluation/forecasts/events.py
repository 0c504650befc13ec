"""Probability that a task's event comes, by the task's own rule and without a probe (zero-shot).

Paths of the coming hours are simulated: the estimates of hours 1 … H plus the errors that the same regression made in hours 1 … H of one
tuning window, clipped to the plausible range, for each of many tuning windows. Errors of one window keep their dependence between hours and
variables, and an hour in which that window had no measurement has none in the path. The rule of the task (`clinjepa.trajectory.labels`) is
applied to every path: 1 where an hour is in the event, 0 where none is and one is known not to be, else the path is left out. The
probability is the share of ones. So it is that of the label, which counts an event only where it was measured.
"""

from __future__ import annotations

import numpy as np

from clinjepa.clinical import Combination, Condition, Task
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.trajectory.labels.states import evaluate

MOST_PATHS = 200
LEAST = 0.5 / (MOST_PATHS + 1)
"""The smallest probability that MOST_PATHS paths can give."""
_WINDOWS_AT_ONCE = 128


def why_not_forecast(task: Task, names: list[str]) -> str | None:
    """Why the rule of a task cannot be applied to forecasts of `names`; None where it can."""
    if task.kind != "event" or task.state is None or task.horizon_hours is None:
        return "the task is no event in the coming hours"
    conditions = _conditions(task.state)
    if any(each.stat == "given" for each in conditions):
        return "its rule reads treatments, which are not forecast"
    if not all(set(each.variables) & set(names) for each in conditions):
        unknown = sorted({name for each in conditions for name in each.variables} - set(names))
        return f"its rule reads {', '.join(unknown)}, which is measured too rarely here to be forecast"
    return None


def draw_paths(error_JHV: np.ndarray, seed: int) -> np.ndarray:
    """The errors of at most MOST_PATHS tuning windows, drawn without replacement, in their order; seed: of the draw."""
    if len(error_JHV) <= MOST_PATHS:
        return error_JHV
    return error_JHV[np.sort(np.random.default_rng([seed, 0xE7]).choice(len(error_JHV), MOST_PATHS, replace=False))]


def event_probabilities(task: Task, names: list[str], estimate_WHV: np.ndarray, error_JHV: np.ndarray, ranges_V2: np.ndarray) -> np.ndarray:
    """Probability [W] of an event in hours 1 … H of each window, inside (0, 1); NaN where no path has a known outcome.

    Args:
        task: An event task that `why_not_forecast` accepts.
        names: The V variables.
        estimate_WHV: Estimates of hours 1 … H in the variables' units.
        error_JHV: Observed minus estimate of J tuning windows (`draw_paths`); NaN where not measured.
        ranges_V2: Plausible range of each variable.
    """
    assert task.state is not None
    found_W = np.full(len(estimate_WHV), np.nan)
    for begin in range(0, len(estimate_WHV), _WINDOWS_AT_ONCE):
        part_BHV = estimate_WHV[begin : begin + _WINDOWS_AT_ONCE]

        def column(name: str, part_BHV: np.ndarray = part_BHV) -> np.ndarray:
            shape = (len(part_BHV), *error_JHV.shape[:2])
            if name not in names:
                return np.full(shape, np.nan)
            place = names.index(name)
            return np.asarray(np.clip(part_BHV[:, None, :, place] + error_JHV[None, :, :, place], *ranges_V2[place]))

        state_BJH = evaluate(task.state, column)
        event_BJ = (state_BJH == 1).any(2)
        known_B = (event_BJ | (state_BJH == 0).any(2)).sum(1)
        # Half a path is added to both outcomes: a share of 0 of n paths is no probability of 0.
        found_W[begin : begin + len(part_BHV)] = np.where(known_B > 0, (event_BJ.sum(1) + 0.5) / (known_B + 1), np.nan)
    return found_W


def in_event_before(task: Task, measurements: Measurements, row_W: np.ndarray) -> np.ndarray:
    """Whether the last known state of the task up to each grid row is the event [W].

    With `switches_only` such a point has only labels of 0, or none: the rule leaves the others out.
    """
    assert task.state is not None
    state_R = evaluate(task.state, measurements.column)
    last_R = measurements.last_known(~np.isnan(state_R)[:, None])[:, 0]
    last_W = last_R[row_W]
    return np.asarray((last_W >= 0) & (state_R[np.maximum(last_W, 0)] == 1))


def _conditions(node: Condition | Combination) -> list[Condition]:
    return [node] if isinstance(node, Condition) else [each for part in node.parts for each in _conditions(part)]
