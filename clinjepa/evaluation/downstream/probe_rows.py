"""What a probe reads: rows of one split, rows of a task within the points of several tasks, and the standardisations by training rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clinjepa.evaluation.downstream.prediction_points import Points

CUT = 10.0
"""Standard deviations at which a standardised value is cut."""


@dataclass
class Rows:
    """Features, labels and patients of the rows of one split: x_NF float32, y_N in {0, 1}, subject_N."""

    x_NF: np.ndarray
    y_N: np.ndarray
    subject_N: np.ndarray


@dataclass(frozen=True)
class ProbeTask:
    """One task among several on the same points: the rows of its splits in the features of all points, and labels, 0 or 1 or numbers."""

    train_N: np.ndarray
    tuning_N: np.ndarray
    scored_N: np.ndarray
    train_y_N: np.ndarray
    tuning_y_N: np.ndarray

    @classmethod
    def of(cls, points: Points, rows_N: np.ndarray, split: str) -> ProbeTask:
        """Of points in train, tuning and `split`, the split that is scored; rows_N: the row of each point in the features."""
        train_N, tuning_N, scored_N = (points.split_N == name for name in ("train", "tuning", split))
        return cls(rows_N[train_N], rows_N[tuning_N], rows_N[scored_N], points.label_N[train_N], points.label_N[tuning_N])


@dataclass
class Standardiser:
    """Zero mean and unit variance by the training rows; a constant column becomes zero; values are cut at ±CUT."""

    mean_F: np.ndarray
    scale_F: np.ndarray

    @classmethod
    def fit(cls, x_NF: np.ndarray) -> Standardiser:
        std_F = x_NF.std(0, dtype=np.float64)
        mean_F = x_NF.mean(0, dtype=np.float64)
        constant_F = std_F <= 1e-6 * np.maximum(np.abs(mean_F), 1e-6)
        scale_F = np.where(constant_F, 0.0, 1.0 / np.where(constant_F, 1.0, std_F))
        return cls(mean_F.astype(np.float32), scale_F.astype(np.float32))

    def __call__(self, x_NF: np.ndarray) -> np.ndarray:
        return np.asarray(np.clip((x_NF - self.mean_F) * self.scale_F, -CUT, CUT).astype(np.float32))


@dataclass(frozen=True)
class LabelScale:
    """Mean and standard deviation of a task's training labels, in the label's unit."""

    mean: float
    std: float

    @classmethod
    def fit(cls, y_N: np.ndarray) -> LabelScale:
        return cls(float(y_N.mean()), float(y_N.std()))

    def standardised(self, task: ProbeTask) -> ProbeTask:
        """The task with labels of zero mean and unit variance in train, and tuning labels on the same scale."""
        train_N, tuning_N = ((y_N - self.mean) / self.std for y_N in (task.train_y_N, task.tuning_y_N))
        return replace(task, train_y_N=train_N, tuning_y_N=tuning_N)

    def in_unit(self, standardised_N: np.ndarray) -> np.ndarray:
        """Predictions [N] in the label's unit."""
        return np.asarray(standardised_N * self.std + self.mean)
