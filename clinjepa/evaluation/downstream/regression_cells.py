"""Figures of predicted numbers: mean absolute error and R², with intervals over patients; which tasks can be estimated."""

from __future__ import annotations

from typing import NotRequired, TypedDict

import numpy as np

from clinjepa.clinical import Task
from clinjepa.evaluation.downstream.prediction_points import Points, too_few_of_a_class, why_not
from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.metrics import finite_scores
from clinjepa.evaluation.resampling import PatientBootstrap, ratio


class RegressionCell(TypedDict):
    """One cell of a regression task's table: figures of one method and input; `mae` is in the label's unit."""

    mae: Figure | None
    r2: Figure | None
    reason: NotRequired[str]
    """Why a figure is None."""
    cut: NotRequired[str]
    """What of the inputs was cut to hours that training could reach."""
    num_total: int


RegressionTables = dict[str, dict[str, dict[str, RegressionCell]]]
"""{task: {method: {input column: cell}}} of tasks whose labels are numbers."""


def regression_cell(scored: Points, predicted_N: np.ndarray, num_bootstrap: int, seed: int) -> RegressionCell:
    """Figures of predictions [N] at the scored points. R² is None where all labels are the same number.

    Raises:
        EvaluationError: A prediction is NaN or infinite.
    """
    error_N = finite_scores(predicted_N, "a prediction") - scored.label_N
    boot, every_N = PatientBootstrap(scored.subject_N, num_bootstrap, seed), np.ones(len(scored), dtype=bool)
    number_R = boot.total(np.ones(len(scored)), every_N)
    centred_N = scored.label_N - scored.label_N.mean()
    spread_R = boot.total(centred_N**2, every_N) - ratio(boot.total(centred_N, every_N) ** 2, number_R)
    same_number = _same_number(scored)
    cell: RegressionCell = {
        "mae": boot.figure(ratio(boot.total(np.abs(error_N), every_N), number_R), every_N),
        "r2": None if same_number else boot.figure(1 - ratio(boot.total(error_N**2, every_N), spread_R), every_N),
        "num_total": len(scored),
    }
    if same_number:
        cell["reason"] = f"all {len(scored)} scored labels are the same number: R² divides by their variance"
    return cell


def null_regression_cell(scored: Points, reason: str) -> RegressionCell:
    """A cell that cannot be estimated."""
    return {"mae": None, "r2": None, "reason": reason, "num_total": len(scored)}


def why_not_estimable(task: Task, points: Points, split: str, min_patients: int) -> str | None:
    """Why a task with labels of either kind cannot be estimated, or None.

    Args:
        task: The task.
        points: Its points of all splits.
        split: The split that is scored.
        min_patients: Fewest patients in train and in `split`; of each class where labels are 0 or 1.
    """
    return (why_not if task.is_classification else why_no_regression)(points, split, min_patients)


def why_not_scored(task: Task, points: Points, split: str, min_patients: int) -> str | None:
    """Why a task whose model is fitted already has no figures, or None: too few patients in `split`, of each class where labels are 0 or 1.
    The arguments are those of `why_not_estimable`; points of other splits are not read."""
    return (too_few_of_a_class if task.is_classification else _too_few)(points, split, min_patients)


def why_no_regression(points: Points, split: str, min_patients: int) -> str | None:
    """Why a regression task cannot be estimated, or None: too few patients in train or `split`, one number as the label of all training
    points, or no points in tuning."""
    for name in ("train", split):
        if (reason := _too_few(points, name, min_patients)) is not None:
            return reason
    train = points.of("train")
    if _same_number(train):
        return f"all {len(train)} labels in train are the same number: nothing can be learnt from them"
    if not len(points.of("tuning")):
        return "no prediction points in tuning to choose a model on"
    return None


def _too_few(points: Points, split: str, min_patients: int) -> str | None:
    number = len(np.unique(points.of(split).subject_N))
    return f"{number} patients with a label in {split}; at least {min_patients} are needed" if number < min_patients else None


def _same_number(points: Points) -> bool:
    return len(np.unique(points.label_N)) < 2
