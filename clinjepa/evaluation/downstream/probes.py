"""Probes on frozen features: a linear one and the method's small MLP, all tasks of a set of points at once.

Both see standardised features (statistics of a task's training rows only), are fitted on train and chosen on tuning. For 0/1 labels the
linear probe is a logistic regression, and log-loss chooses; it is defined even where tuning has one class only. For numbers it is a ridge
regression, and squared error chooses; both probes then learn the label standardised by the task's training rows. A task's scores do not
depend on the tasks beside it, except for rounding. Settings: Clin-JEPA (arXiv 2605.10840), downstream probe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from clinjepa.config.schema import ProbeConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.fitted_probe import LINEAR, FittedProbe, LinearWeights, MlpWeights
from clinjepa.evaluation.downstream.linear_probe import fit_linear
from clinjepa.evaluation.downstream.mlp_probe import SQUARED_ERROR, fit_mlps
from clinjepa.evaluation.downstream.probe_rows import LabelScale, ProbeTask, Rows, Standardiser
from clinjepa.evaluation.downstream.ridge_probe import fit_ridge
from clinjepa.evaluation.metrics import finite_scores, log_loss, squared_error

REGULARISATION = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths C that tuning chooses from for the linear probe of 0/1 labels."""
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Ridge penalties per training row that tuning chooses from for the linear probe of numbers."""


def probes_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[FittedProbe]:
    """Fit the `linear` or `mlp` probe of every task with labels 0 or 1; its scores are log-odds.

    Args:
        kind: `linear` or `mlp`.
        x_NF: Features of all points, float32.
        tasks: Rows and labels of each task; the scored rows are not read.
        config: Settings of the mlp.
        seed: Of the mlp's first weights, batches and dropout; every task uses the same.

    Raises:
        ValueError: A task's train holds one class only or its tuning is empty: the caller reports a null instead.
        EvaluationError: A feature is NaN or infinite, or no epoch of an mlp had a finite loss.
    """
    if any(len(np.unique(task.train_y_N)) < 2 or len(task.tuning_y_N) == 0 for task in tasks):
        raise ValueError("a probe needs both classes in train and rows in tuning")
    finite_scores(x_NF, "a feature of the probe")
    standards = [Standardiser.fit(x_NF[task.train_N]) for task in tasks]
    found = _linear_weights(x_NF, tasks, standards) if kind == LINEAR else fit_mlps(x_NF, tasks, standards, config, seed)
    weights = [_trained(each, f"a score of the {kind} probe") for each in found]
    return [FittedProbe(standardise, each, None) for standardise, each in zip(standards, weights, strict=True)]


def number_probes_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[FittedProbe]:
    """Fit the `linear` or `mlp` probe of every task whose labels are numbers; its scores are in the label's unit.

    The arguments are those of `probes_of_tasks`.

    Raises:
        ValueError: A task's training labels are one number only or its tuning is empty: the caller reports a null instead.
        EvaluationError: A feature is NaN or infinite, or no epoch of an mlp had a finite loss.
    """
    if any(len(np.unique(task.train_y_N)) < 2 or len(task.tuning_y_N) == 0 for task in tasks):
        raise ValueError("a probe needs labels that differ in train and rows in tuning")
    finite_scores(x_NF, "a feature of the probe")
    standards = [Standardiser.fit(x_NF[task.train_N]) for task in tasks]
    scales = [LabelScale.fit(task.train_y_N) for task in tasks]
    scaled = [scale.standardised(task) for scale, task in zip(scales, tasks, strict=True)]
    found: Sequence[LinearWeights | MlpWeights | None]
    if kind == LINEAR:
        found = [_ridge_weights(x_NF, task, standardise) for task, standardise in zip(scaled, standards, strict=True)]
    else:
        found = fit_mlps(x_NF, scaled, standards, config, seed, SQUARED_ERROR)
    weights = [_trained(each, f"a prediction of the {kind} probe") for each in found]
    return [FittedProbe(*parts) for parts in zip(standards, weights, scales, strict=True)]


def scores_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[np.ndarray]:
    """The log-odds of every task's scored rows by its probe of `probes_of_tasks`, whose arguments and errors these are; a score that is NaN
    or infinite is an EvaluationError too."""
    return _scored(probes_of_tasks(kind, x_NF, tasks, config, seed), x_NF, tasks)


def numbers_of_tasks(kind: str, x_NF: np.ndarray, tasks: Sequence[ProbeTask], config: ProbeConfig, seed: int) -> list[np.ndarray]:
    """The predictions for every task's scored rows, in the label's unit, by its probe of `number_probes_of_tasks`, whose arguments and
    errors these are; a prediction that is NaN or infinite is an EvaluationError too."""
    return _scored(number_probes_of_tasks(kind, x_NF, tasks, config, seed), x_NF, tasks)


def probe_scores(kind: str, train: Rows, tuning: Rows, scored_NF: np.ndarray, config: ProbeConfig, seed: int) -> np.ndarray:
    """The scores of one task [N] whose rows are given apart; the other arguments and the errors are those of `scores_of_tasks`."""
    ends = np.cumsum([len(train.x_NF), len(tuning.x_NF), len(scored_NF)])
    rows = [np.arange(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
    task = ProbeTask(rows[0], rows[1], rows[2], train.y_N, tuning.y_N)
    return scores_of_tasks(kind, np.concatenate([train.x_NF, tuning.x_NF, scored_NF]), [task], config, seed)[0]


def _scored(probes: Sequence[FittedProbe], x_NF: np.ndarray, tasks: Sequence[ProbeTask]) -> list[np.ndarray]:
    return [probe.scores(x_NF[task.scored_N]) for probe, task in zip(probes, tasks, strict=True)]


def _trained(weights: LinearWeights | MlpWeights | None, what: str) -> LinearWeights | MlpWeights:
    """The weights; EvaluationError where no epoch of a training had a finite loss."""
    if weights is None:
        raise EvaluationError(f"{what} is NaN or infinite in every epoch of its training; lower evaluation.downstream.probe.learning_rate")
    return weights


def _linear_weights(x_NF: np.ndarray, tasks: Sequence[ProbeTask], standards: Sequence[Standardiser]) -> list[LinearWeights]:
    """Of every task the fit with the strength of the smallest log-loss on its tuning rows."""
    fits = fit_linear(x_NF, tasks, standards, REGULARISATION)
    return [_chosen(x_NF, *each, log_loss) for each in zip(tasks, standards, fits, strict=True)]


def _ridge_weights(x_NF: np.ndarray, task: ProbeTask, standardise: Standardiser) -> LinearWeights:
    """The fit with the penalty of the smallest squared error on the tuning rows."""
    return _chosen(x_NF, task, standardise, fit_ridge(x_NF, task, standardise, PENALTIES), squared_error)


def _chosen(
    x_NF: np.ndarray,
    task: ProbeTask,
    standardise: Standardiser,
    coefficients_SF: np.ndarray,
    loss: Callable[[np.ndarray, np.ndarray], float],
) -> LinearWeights:
    """Of several fits the one with the smallest loss on a task's tuning rows. coefficients_SF: a row per fit, the intercept last."""
    weights_FS, intercept_S = coefficients_SF[:, :-1].T, coefficients_SF[:, -1]
    tuning_NS = standardise(x_NF[task.tuning_N]) @ weights_FS + intercept_S
    best = int(np.argmin([loss(task.tuning_y_N, output_N) for output_N in tuning_NS.T]))
    return LinearWeights(weights_FS[:, best].copy(), float(intercept_S[best]))
