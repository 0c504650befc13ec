"""The prediction points of a task with the draws of patients that all figures of the task share, and a method's scores at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.resampling import PatientBootstrap
from clinjepa.evaluation.risk.result import Counts

NO_WIDTH = "every resampling repeats the value, so an interval would have no width"


@dataclass(frozen=True)
class RiskPoints:
    """N points sorted by (stay, hour): stay_N int64, hour_N int, label_N float in {0, 1}, and the draws over the patients of the points."""

    stay_N: np.ndarray
    hour_N: np.ndarray
    label_N: np.ndarray
    draws: PatientBootstrap

    @classmethod
    def of(cls, stay_N: np.ndarray, hour_N: np.ndarray, label_N: np.ndarray, subject_N: np.ndarray, num_bootstrap: int) -> RiskPoints:
        """Points with `num_bootstrap` draws of their patients; seed 0, as in the paired comparisons."""
        return cls(stay_N, hour_N, label_N.astype(np.float64), PatientBootstrap(subject_N, num_bootstrap, 0))

    def __len__(self) -> int:
        return len(self.label_N)

    def num_patients(self, of_N: np.ndarray) -> int:
        """Patients of the points in `of_N` (bool)."""
        return len(np.unique(self.draws.index_N[of_N]))

    def counts(self, of_N: np.ndarray) -> Counts:
        """Counts of the points in `of_N` (bool), of which there is at least one."""
        positive_N = of_N & (self.label_N == 1)
        return {
            "num_total": int(of_N.sum()),
            "num_positive": int(positive_N.sum()),
            "num_patients": self.num_patients(of_N),
            "num_positive_patients": self.num_patients(positive_N),
            "prevalence": float(positive_N.sum() / of_N.sum()),
        }


@dataclass(frozen=True)
class MethodScores:
    """Scores [S, N] of S training seeds at the points of a task; `is_log_odds`: of a positive label, else they only order the points."""

    score_SN: np.ndarray
    is_log_odds: bool

    @property
    def probability_SN(self) -> np.ndarray:
        """Probabilities of a positive label."""
        return np.asarray(np.exp(-np.logaddexp(0.0, -self.score_SN)))


def seed_mean(values_SR: np.ndarray, num_patients: int, with_interval: bool = True) -> Figure | None:
    """The figure of values [S, 1 + R] of S seeds, the estimates first: their mean within each draw, and each estimate in `seeds`.

    None where an estimate is not finite.

    Args:
        values_SR: Estimate and R draws of each seed.
        num_patients: Patients that the figure rests on.
        with_interval: False leaves the interval out.
    """
    mean_R = np.atleast_2d(values_SR).mean(0)
    if not np.isfinite(mean_R[0]):
        return None
    estimates_S = np.atleast_2d(values_SR)[:, 0]
    found = figure(mean_R[0], mean_R[1:] if with_interval else None, num_patients, len(estimates_S))
    if len(estimates_S) > 1:
        found["seeds"] = [float(value) for value in estimates_S]
    return found


def has_no_width(values_SR: np.ndarray) -> bool:
    """Whether every finite draw equals the estimate, as where no prediction is wrong."""
    mean_R = np.atleast_2d(values_SR).mean(0)
    return bool((mean_R[np.isfinite(mean_R)] == mean_R[0]).all())
