"""The form of the result (`result.json` of an `added_value` stage; docs/report.md explains every figure)."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from clinjepa.evaluation.downstream.prediction_points import Cell
from clinjepa.evaluation.figures import Figure


class InputDifference(TypedDict):
    """Figures of an input minus those of the hand-made features: same estimator, patients, points and draws."""

    auroc: Figure | None
    auprc: Figure | None
    p_auroc: float | None
    """Two-sided: of the hypothesis that the difference in AUROC is 0. None without an interval."""
    p_holm: float | None
    """`p_auroc` adjusted over the tasks (Holm)."""
    reason: NotRequired[str]
    """Why the figures are None."""
    interval_reason: NotRequired[str]
    """Why the figures have no interval."""


class ShareResult(TypedDict):
    """Models that were fitted on one share of the training patients."""

    num_train_patients: int
    """Training patients with prediction points of the task."""
    num_train_positive_patients: int
    """Of them those with a positive label."""
    num_train_points: int
    methods: dict[str, dict[str, Cell]]
    """Estimator, then input."""
    differences: dict[str, dict[str, InputDifference]]
    """Estimator, then the input from which `features` is subtracted."""


class TaskResult(TypedDict):
    """One task; the counts are those of the scored points."""

    num_total: int
    num_positive: int
    num_patients: int
    num_positive_patients: int
    shares: dict[str, ShareResult]
    """By share of the training patients, ascending: `0.01`, `0.1`, `1`."""


class AddedValueResult(TypedDict):
    """The whole result."""

    num_train_patients: int
    """Training patients that the shares are of."""
    tasks: dict[str, TaskResult]
