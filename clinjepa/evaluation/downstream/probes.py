"""Probes on frozen features: a linear one and the method's small MLP, all tasks of a set of points at once.

Both see standardised features (statistics of a task's training rows only), are fitted on train and chosen on tuning. For 0/1 labels the
linear probe is a logistic regression, and log-loss chooses; it is defined even where tuning has one class only. For numbers it is a ridge
regression, and squared error chooses; both probes then learn the label standardised by the task's training rows. A task's scores do not
depend on the tasks beside it, except for rounding. Settings: Clin-JEPA (arXiv 2605.10840), downstream probe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream.linear_probe import fit_linear
from clinjepa.evaluation.downstream.mlp_probe import SQUARED_ERROR, fit_mlps
from clinjepa.evaluation.downstream.probe_rows import LabelScale, ProbeTask, Rows, Standardiser
from clinjepa.evaluation.downstream.ridge_probe import fit_ridge
from clinjepa.evaluation.metrics import finite_scores, log_loss, squared_error

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C that tuning chooses from for the linear probe of 0/1 labels."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties per training row that tuning chooses from for the linear probe of numbers."""


def scores_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[np.ndarray]:
    """Fit the `linear` or `mlp` probe of every task and return the log-odds of its scored rows, task by task.

    Args:
        kind: `linear` or `mlp`.
        x_NF: Features of all points, float32.
        tasks: Rows and labels of each task.
        config: Settings of the mlp.
        seed: Of the mlp's first weights, batches and dropout; every task uses the same.

    Raises:
        ValueError: A task's train holds one class only or its tuning is empty: the caller reports a null instead.
        EvaluationError: A feature or a score is NaN or infinite.
    """
    if any(len(np.unique(task.train_y_N)) < 2 or len(task.tuning_y_N) == 0 for task in tasks):
        raise ValueError("a probe needs both classes in train and rows in tuning")
    finite_scores(x_NF, "a feature of the probe")
    standards = [Standardiser.fit(x_NF[task.train_N]) for task in tasks]
    scores = _linear_scores(x_NF, tasks, standards) if kind == "linear" else fit_mlps(x_NF, tasks, standards, config, seed)
    return [finite_scores(scores_N, f"a score of the {kind} probe") for scores_N in scores]


def numbers_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[np.ndarray]:
    """Fit the `linear` or `mlp` probe of every task whose labels are numbers and return its predictions for the scored rows, in the label's
    unit, task by task. The arguments are those of `scores_of_tasks`.

    Raises:
        ValueError: A task's training labels are one number only or its tuning is empty: the caller reports a null instead.
        EvaluationError: A feature or a prediction is NaN or infinite.
    """
    if any(len(np.unique(task.train_y_N)) < 2 or len(task.tuning_y_N) == 0 for task in tasks):
        raise ValueError("a probe needs labels that differ in train and rows in tuning")
    finite_scores(x_NF, "a feature of the probe")
    standards = [Standardiser.fit(x_NF[task.train_N]) for task in tasks]
    scales = [LabelScale.fit(task.train_y_N) for task in tasks]
    scaled = [scale.standardised(task) for scale, task in zip(scales, tasks, strict=True)]
    if kind == "linear":
        found = [_ridge_numbers(x_NF, task, standardise) for task, standardise in zip(scaled, standards, strict=True)]
    else:
        found = fit_mlps(x_NF, scaled, standards, config, seed, SQUARED_ERROR)
    return [
        finite_scores(scale.in_unit(numbers_N), f"a prediction of the {kind} probe") for scale, numbers_N in zip(scales, found, strict=True)
    ]


def probe_scores(kind: str, train: Rows, tuning: Rows, scored_NF: np.ndarray, config: ProbeConfig, seed: int) -> np.ndarray:
    """The scores of one task [N] whose rows are given apart; the other arguments and the errors are those of `scores_of_tasks`."""
    ends = np.cumsum([len(train.x_NF), len(tuning.x_NF), len(scored_NF)])
    rows = [np.arange(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    task = ProbeTask(rows[0], rows[1], rows[2], train.y_N, tuning.y_N)
    return scores_of_tasks(kind, np.concatenate([train.x_NF, tuning.x_NF, scored_NF]), [task], config, seed)[0]


def _linear_scores(x_NF: np.ndarray, tasks: Sequence[ProbeTask], standards: Sequence[Standardiser]) -> list[np.ndarray]:
    """Log-odds of the scored rows of every task, each with the strength of the smallest log-loss on its tuning rows."""
    found = []
    for task, standardise, coefficients_SF in zip(tasks, standards, fit_linear(x_NF, tasks, standards, REGULARISATION), strict=True):
        weights_FS, intercept_S = coefficients_SF[:, :-1].T, coefficients_SF[:, -1]
        tuning_NS = standardise(x_NF[task.tuning_N]) @ weights_FS + intercept_S
        best = int(np.argmin([log_loss(task.tuning_y_N, log_odds_N) for log_odds_N in tuning_NS.T]))
        found.append(standardise(x_NF[task.scored_N]) @ weights_FS[:, best] + intercept_S[best])
    return found


def _ridge_numbers(x_NF: np.ndarray, task: ProbeTask, standardise: Standardiser) -> np.ndarray:
    """Predicted labels of a task's scored rows, with the penalty of the smallest squared error on its tuning rows."""
    coefficients_SF = fit_ridge(x_NF, task, standardise, PENALTIES)
    weights_FS, intercept_S = coefficients_SF[:, :-1].T, coefficients_SF[:, -1]
    tuning_NS = standardise(x_NF[task.tuning_N]) @ weights_FS + intercept_S
    best = int(np.argmin([squared_error(task.tuning_y_N, predicted_N) for predicted_N in tuning_NS.T]))
    return np.asarray(standardise(x_NF[task.scored_N]) @ weights_FS[:, best] + intercept_S[best])
