"""Probes on frozen features: logistic regression and the method's small MLP, all tasks of a set of points at once.

Both see standardised features (statistics of a task's training rows only), are fitted on train and chosen by log-loss on tuning. Log-loss
is defined even where tuning has one class only. A task's scores do not depend on the tasks beside it, except for rounding. Settings:
Clin-JEPA (arXiv 2605.10840), downstream probe.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream.linear_probe import fit_linear
from clinjepa.evaluation.downstream.mlp_probe import fit_mlps
from clinjepa.evaluation.downstream.probe_rows import ProbeTask, Rows, Standardiser
from clinjepa.evaluation.metrics import finite_scores, log_loss

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C that tuning chooses from for the linear probe."""


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
