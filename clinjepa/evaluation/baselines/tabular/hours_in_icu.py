"""The hours in the ICU alone: what the clock of the stay says about an hourly task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.clinical import Task
from clinjepa.evaluation.baselines.linear_fits import few_features
from clinjepa.evaluation.baselines.protocol import Baseline, Predictions, Problem, Settings


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """From the hour and its logarithm."""
    hour_P = problem.inputs.hour_P
    return few_features(problem, np.stack([hour_P + 1, np.log1p(hour_P)], axis=1).astype(np.float32), splits, seed)


def _hourly_events(task: Task) -> bool:
    return task.is_classification and task.is_hourly


BASELINE = Baseline(
    fit, docs="Control: a linear probe on the hours in the ICU, for hourly tasks.", reads=frozenset(), answers=_hourly_events
)
