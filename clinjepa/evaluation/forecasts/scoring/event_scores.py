"""Scores of event probabilities at the windows that have a label of the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import Task
from clinjepa.evaluation.drift_windows import Windows
from clinjepa.evaluation.forecasts.result import EventForecast, TaskForecast
from clinjepa.evaluation.forecasts.scoring.calibration import brier_draws, ece_draws, reliability, slope_draws
from clinjepa.evaluation.metrics import Ranking, interval_fault
from clinjepa.evaluation.resampling import PatientBootstrap, ratio

MIN_PATIENTS = 5
"""Fewest patients with a label of each class."""


@dataclass(frozen=True)
class EventPoints:
    """The windows of a split that have a label of a task at their last given hour: rows of the windows, stay, hour, label in {0, 1}."""

    row_N: np.ndarray
    stay_N: np.ndarray
    hour_N: np.ndarray
    subject_N: np.ndarray
    label_N: np.ndarray

    @classmethod
    def of(cls, task: Task, labels: pa.Table, windows: Windows) -> EventPoints:
        """The labels of a task in a table with stay_id, task, hour, label."""
        own = labels.filter(pc.equal(labels["task"].cast(pa.string()), task.name))
        keys = zip(own["stay_id"].to_pylist(), own["hour"].to_pylist(), strict=True)
        label_of = dict(zip(keys, own["label"].to_numpy().astype(np.float64), strict=True))
        hour_W = windows.start_W + windows.context - 1
        places = zip(windows.stay_W.tolist(), hour_W.tolist(), strict=True)
        label_W = np.array([label_of.get(place, np.nan) for place in places], dtype=np.float64)
        row_N = np.flatnonzero(np.isfinite(label_W))
        return cls(row_N, windows.stay_W[row_N], hour_W[row_N], windows.subject_W[row_N], label_W[row_N])

    @property
    def num_positive_patients(self) -> int:
        return len(np.unique(self.subject_N[self.label_N == 1]))

    def why_not(self) -> str | None:
        """Why nothing can be scored; None where both classes have MIN_PATIENTS patients."""
        for kind, value in (("a positive", 1.0), ("a negative", 0.0)):
            number = len(np.unique(self.subject_N[self.label_N == value]))
            if number < MIN_PATIENTS:
                return f"{number} patients with {kind} label; at least {MIN_PATIENTS} are needed"
        return None


def task_forecast(
    task: Task, points: EventPoints, probabilities: Mapping[str, np.ndarray], reason: str | None, num_bootstrap: int
) -> TaskForecast:
    """The scores of every method's probabilities [W].

    Args:
        task: The task.
        points: The windows that have a label.
        probabilities: {method: probability of each window of the split}.
        reason: Why there are no probabilities; None where there are.
        num_bootstrap: Number of resamplings of the patients with a label.
    """
    reason = reason or points.why_not()
    found: TaskForecast = {
        "horizon_hours": task.horizon_hours,
        "methods": {},
        "num_positive": int(points.label_N.sum()),
        "num_total": len(points.label_N),
        "num_positive_patients": points.num_positive_patients,
        "prevalence": float(points.label_N.mean()) if len(points.label_N) else None,
    }
    if reason is not None:
        return {**found, "reason": reason}
    own = PatientBootstrap(points.subject_N, num_bootstrap, 0)
    found["methods"] = {method: _scores(points, probability_W[points.row_N], own) for method, probability_W in probabilities.items()}
    return found


def _scores(points: EventPoints, probability_N: np.ndarray, draws: PatientBootstrap) -> EventForecast:
    label_N, every_N = points.label_N, np.ones(len(points.label_N), dtype=bool)
    bins = reliability(label_N, probability_N)
    curve = {"predicted": bins.predicted_B.tolist(), "observed": bins.observed_B.tolist(), "number": bins.number_B.tolist()}
    brier_R = brier_draws(label_N, probability_N, draws)
    share_R = ratio(draws.total(label_N, every_N), draws.total(np.ones(len(label_N)), every_N))
    slope_R, intercept_R = slope_draws(label_N, probability_N, draws)
    values = {
        "auroc": Ranking(label_N, probability_N).over_draws("auroc", draws.counts_RP, draws.index_N),
        "brier": brier_R,
        "brier_skill": 1 - ratio(brier_R, share_R * (1 - share_R)),
        "ece": ece_draws(label_N, probability_N, draws),
        "slope": slope_R,
        "intercept": intercept_R,
    }
    fault = interval_fault(label_N, draws.index_N)
    if fault is None and values["auroc"][0] in (0.0, 1.0):
        fault = "the classes are separated without an error: an interval would have no width"
    figures = {name: draws.figure(values_R[:1] if fault else values_R, every_N) for name, values_R in values.items()}
    found: EventForecast = {**figures, "reliability": curve}  # type: ignore[typeddict-item]  # the names are EventForecast's
    if None in figures.values():
        found["reason"] = "a logistic model of the outcome on the log-odds has no finite solution"
    if fault:
        found["interval_reason"] = fault
    return found
