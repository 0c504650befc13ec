"""Models on one input of prediction points: gradient boosting with fixed settings, and the linear probe.

Both are fitted on some of the training points and chosen on the whole tuning split: the number of trees by early stopping, the strength of
the probe's penalty by log-loss. Settings of the trees: defaults of the baseline `lightgbm`, with 63 bins as in its search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from clinjepa.clinical import Task
from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.added_value.inputs import InputName
from clinjepa.evaluation.baselines.linear_fits import filled
from clinjepa.evaluation.baselines.protocol import Inputs, Problem, TaskPoints
from clinjepa.evaluation.baselines.tabular.lightgbm import BASELINE as LIGHTGBM
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.downstream.probes import probe_scores
from clinjepa.evaluation.downstream.tabular_features import FeatureTable
from clinjepa.evaluation.metrics import finite_scores

SEED = 0
"""Seed of the fits, of the subsets of patients and of the bootstrap."""
SCORED = "scored"
"""Name of the scored split inside a problem; its labels are hidden there."""
Estimator = Literal["lightgbm", "linear"]
INPUTS: Mapping[Estimator, tuple[InputName, ...]] = {"lightgbm": ("features", "latents", "both"), "linear": ("features", "latents")}
"""Inputs that each estimator is fitted on."""


def task_points(task: Task, points: Points, rows_N: np.ndarray, patients: np.ndarray, split: str) -> TaskPoints:
    """Points to fit and to score, grouped by split; those of the scored split are named SCORED and have no labels.

    Args:
        task: The task.
        points: Its points of all splits.
        rows_N: Row of each point in the inputs.
        patients: Subject ids of the training patients to learn from.
        split: The split that is scored; `train` and `tuning` are scored as a whole too.
    """
    groups = {
        "train": (points.split_N == "train") & np.isin(points.subject_N, patients),
        "tuning": points.split_N == "tuning",
        SCORED: points.split_N == split,
    }
    at_N = np.concatenate([np.flatnonzero(group_N) for group_N in groups.values()])
    name_N = np.repeat(np.array(list(groups), dtype=object), [int(group_N.sum()) for group_N in groups.values()])
    label_N = np.where(name_N == SCORED, np.nan, points.label_N[at_N])
    own = Points(points.stay_N[at_N], points.hour_N[at_N], label_N, points.subject_N[at_N], name_N)
    return TaskPoints(task, own, rows_N[at_N])


def fitted_scores(estimator: Estimator, one: TaskPoints, table: FeatureTable, num_threads: int) -> np.ndarray:
    """Log-odds at the scored points, in their order [N].

    Args:
        estimator: `lightgbm` or `linear`.
        one: Points of `task_points`; train has both classes, tuning has points.
        table: The input, over all points that `one` refers to; NaN = missing.
        num_threads: Threads of the fit; the scores do not depend on it.

    Raises:
        EvaluationError: A score is NaN or infinite.
    """
    nowhere = np.zeros(0, dtype=np.int64)
    problem = Problem((one,), Inputs(nowhere, nowhere, table))  # these models read the table alone
    fit: Callable[[Problem, int], np.ndarray] = {"lightgbm": _lightgbm, "linear": _linear}[estimator]
    return finite_scores(fit(problem, num_threads), f"a score of the {estimator} fit")


def _lightgbm(problem: Problem, num_threads: int) -> np.ndarray:
    settings = {**LIGHTGBM.defaults, "max_bin": 63, "num_threads": num_threads}
    return LIGHTGBM.fit(problem, settings, [SCORED], SEED)[problem.only.task.name][SCORED]


def _linear(problem: Problem, num_threads: int) -> np.ndarray:
    parts = filled(problem, problem.tabular().x_NF, ["tuning", SCORED])
    return probe_scores("linear", parts["train"], parts["tuning"], parts[SCORED].x_NF, ProbeConfig(), SEED)
