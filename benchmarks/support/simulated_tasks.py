"""Prediction points, features and labels of many risk tasks, simulated: what the probes and their statistics are timed on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinjepa.evaluation.downstream.point_features import PointFeatures
from clinjepa.evaluation.downstream.prediction_points import Points

SPLITS, SHARES = ("train", "tuning", "held_out"), (0.70, 0.15, 0.15)
STAY_LEVEL = 4
"""One task of so many has one point a stay; the others have points at half to all of the hours."""
_NUM_FACTORS = 24


@dataclass(frozen=True)
class SimulatedTasks:
    """Features of all points, and of each task its points with their rows in the features."""

    features: PointFeatures
    tasks: dict[str, tuple[Points, np.ndarray]]

    @property
    def num_points(self) -> int:
        return len(self.features.history_NF)


def simulated_tasks(num_stays: int, num_tasks: int, width: int, hours: int = 48, stride: int = 4, seed: int = 0) -> SimulatedTasks:
    """Tasks whose risk follows some of the factors behind the features; 3 to 30 % of the labels are positive.

    Args:
        num_stays: Stays, each of another patient.
        num_tasks: Number of tasks.
        width: Features of the history, and of each rollout.
        hours: Hours of a stay.
        stride: Hours between two points of a stay.
        seed: Seed of everything.
    """
    rng = np.random.default_rng(seed)
    stay_N = np.repeat(np.arange(num_stays), hours // stride)
    hour_N = np.tile(np.arange(stride - 1, hours, stride), num_stays).astype(np.int32)
    factor_NK = rng.normal(size=(num_stays, _NUM_FACTORS))[stay_N] + 0.6 * rng.normal(size=(len(stay_N), _NUM_FACTORS))
    features = PointFeatures(*(_features(rng, factor_NK, width) for _ in range(3)), cut_N=np.zeros(len(stay_N), dtype=bool))
    split_N = rng.choice(np.array(SPLITS, dtype=object), num_stays, p=SHARES)[stay_N]
    tasks = {}
    for number in range(num_tasks):
        risk_N = factor_NK @ rng.normal(size=_NUM_FACTORS) / 3 + 0.3 * factor_NK[:, 0] * factor_NK[:, 1] + 2 * rng.normal(size=len(stay_N))
        label_N = (risk_N > np.quantile(risk_N, rng.uniform(0.7, 0.97))).astype(np.float64)
        if number % STAY_LEVEL == STAY_LEVEL - 1:
            rows_N = np.flatnonzero(hour_N == 5 * stride + stride - 1)
        else:
            rows_N = np.flatnonzero(rng.random(len(stay_N)) < rng.uniform(0.5, 1.0))
        points = Points(stay_N[rows_N], hour_N[rows_N], label_N[rows_N], stay_N[rows_N], split_N[rows_N])
        tasks[f"task_{number:02d}"] = (points, rows_N)
    return SimulatedTasks(features, tasks)


def _features(rng: np.random.Generator, factor_NK: np.ndarray, width: int) -> np.ndarray:
    """Correlated features [N, F]: mixtures of the factors with noise of decreasing size."""
    mixed_NF = factor_NK @ rng.normal(size=(_NUM_FACTORS, width)) + rng.normal(size=(len(factor_NK), width)) * np.geomspace(3, 0.1, width)
    return np.asarray(mixed_NF.astype(np.float32))
