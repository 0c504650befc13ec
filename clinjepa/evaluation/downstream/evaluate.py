"""Risk tasks from frozen features: a probe per task, input column and kind, fitted on train, chosen on tuning, scored once.

The three input columns differ in what they use: the history only; a rollout with the last known actions carried forward; a rollout with
the actions recorded after the prediction time, which is an upper bound and not a forecast.
Tasks whose labels are numbers have the same points and columns, and mean absolute error and R² in place of AUROC and AUPRC.
Protocol: Clin-JEPA (arXiv 2605.10840), downstream evaluation; 95 % bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features, rollout_that_fits
from clinjepa.evaluation.downstream.prediction_points import Points, TaskTables, null_cell, prediction_points, score_cell, union
from clinjepa.evaluation.downstream.probe_rows import ProbeTask
from clinjepa.evaluation.downstream.probes import numbers_of_tasks, scores_of_tasks
from clinjepa.evaluation.downstream.regression_cells import RegressionTables, null_regression_cell, regression_cell, why_not_estimable
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.evaluation.space import Latents, trained_windows
from clinjepa.model.predictor import Predictor

SEED = 0
"""Seed of the probes and of the bootstrap."""
_CellScores = Mapping[tuple[str, str], np.ndarray]
"""(input column, probe kind) -> the scores of one task at its scored points."""


class DownstreamResults(NamedTuple):
    """What the probes give."""

    tables: TaskTables
    """{task: {probe kind: {input column: cell}}} of the tasks with 0/1 labels."""
    regression: RegressionTables
    """The same of the tasks whose labels are numbers."""
    predictions: pa.Table
    """The scores behind both (`clinjepa.evaluation.predictions`)."""


def evaluate_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> TaskTables:
    """The tables of the tasks with 0/1 labels. The arguments are those of `score_downstream`, which also gives the other tasks."""
    return score_downstream(predictor, latents, labels, stays, [task for task in tasks if task.is_classification], settings, split).tables


def score_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> DownstreamResults:
    """The tables of all tasks, and the predictions behind them; rollouts run on the predictor's device.

    Neither history nor rollout uses a position that training could not reach. A rollout that needs more is cut to half of the reachable
    hours, a history to the rest; the cells then have a sentence `cut`.
    A task with fewer than `min_positives` patients of a class in train or `split`, or with a label where labels are numbers, has figures of
    None and a `reason`. A rollout has `rollout_hours` hours, or the task's horizon where that is shorter.

    Args:
        predictor: The trained predictor.
        latents: The latents of the stays, from the encoder that the predictor was trained with.
        labels: Label table with stay_id, task, hour, label.
        stays: Stays with stay_id, subject_id, split, num_hours.
        tasks: Tasks to evaluate.
        settings: Prediction points, rollout, pooling, probes and bootstrap.
        split: The split that is scored.
    """
    of = {task.name: task for task in tasks}
    points = {task.name: prediction_points(labels, stays, task, settings) for task in tasks}
    reasons = {name: why_not_estimable(task, points[name], split, settings.min_positives) for name, task in of.items()}
    collected = _Collected(settings)
    wanted = {task.name: min(settings.rollout_hours, _horizon(task) or settings.rollout_hours) for task in tasks}
    steps = {name: rollout_that_fits(predictor, hours, settings.pooling) for name, hours in wanted.items()}
    for rollout_hours in sorted(set(steps.values())):
        names = [name for name, own in steps.items() if own == rollout_hours and reasons[name] is None]
        if not names:
            continue
        stay_N, hour_N, rows = union([points[name].where(np.isin(points[name].split_N, ["train", "tuning", split])) for name in names])
        features = point_features(predictor, latents, stay_N, hour_N, rollout_hours=rollout_hours, pooling=settings.pooling)
        found = dict(zip(names, rows, strict=True))
        for are_numbers in (False, True):
            same_kind = {name: found[name] for name in names if of[name].is_classification != are_numbers}
            scores = _probe_scores(features, list(same_kind.values()), settings, split, are_numbers=are_numbers)
            for place, (name, (own, rows_N)) in enumerate(same_kind.items()):
                cut_N = features.cut_N[rows_N][own.split_N == split]
                note = _cut_note(predictor, wanted[name], rollout_hours, cut_N)
                collected.add(of[name], own.of(split), {cell: each[place] for cell, each in scores.items()}, note)
    for name, reason in reasons.items():
        if reason is not None:
            collected.add_null(of[name], points[name].of(split), reason)
    return collected.results(tasks)


def _horizon(task: Task) -> int | None:
    """Hours after the prediction that a task's label is about; None: the whole stay."""
    return task.horizon_hours or (task.target.last_hour if task.target is not None else 0) or None


def _cut_note(predictor: Predictor, wanted_hours: int, rollout_hours: int, cut_N: np.ndarray) -> str | None:
    """What of a task's inputs was cut to positions that training reached, as a sentence; None where nothing was."""
    parts = [f"the rollout of {wanted_hours} h is cut to {rollout_hours} h"] if rollout_hours < wanted_hours else []
    if cut_N.any():
        parts.append(f"the history is cut to its last hours at {int(cut_N.sum())} of {len(cut_N)} points")
    return f"{' and '.join(parts)}: {trained_windows(predictor.spec)}" if parts else None


def _probe_scores(
    features: PointFeatures, tasks: Sequence[tuple[Points, np.ndarray]], settings: DownstreamConfig, split: str, *, are_numbers: bool
) -> dict[tuple[str, str], list[np.ndarray]]:
    """(column, probe kind) -> the scores of every task at its points of `split`; empty without tasks.

    Args:
        features: Features of the union of the tasks' points.
        tasks: Points of each task and their rows in the features.
        settings: Kinds and settings of the probes.
        split: The split that is scored.
        are_numbers: Whether the tasks' labels are numbers rather than 0 or 1.
    """
    if not tasks:
        return {}
    problems = [ProbeTask.of(points, rows_N, split) for points, rows_N in tasks]
    fit = numbers_of_tasks if are_numbers else scores_of_tasks
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for column in COLUMNS:
        x_NF = features.column(column)
        for kind in settings.probe.kinds:
            found[column, kind] = fit(kind, x_NF, problems, settings.probe, SEED)
    return found


@dataclass
class _Collected:
    """The tables while the tasks are evaluated."""

    settings: DownstreamConfig
    tables: TaskTables = field(default_factory=dict)
    regression: RegressionTables = field(default_factory=dict)
    kept: KeptPredictions = field(default_factory=KeptPredictions)

    def add(self, task: Task, scored: Points, scores: _CellScores, cut: str | None) -> None:
        """Figures of a task's scores. cut: what of its inputs was cut."""
        for (column, kind), scores_N in scores.items():
            self.kept.add(task.name, kind, column, scored, scores_N, "log_odds" if task.is_classification else "number")
            measured = scored, scores_N, self.settings.num_bootstrap, SEED
            if task.is_classification:
                cell = self.tables.setdefault(task.name, {}).setdefault(kind, {})[column] = score_cell(*measured)
                if cut is not None:
                    cell["cut"] = cut
            else:
                numbers = self.regression.setdefault(task.name, {}).setdefault(kind, {})[column] = regression_cell(*measured)
                if cut is not None:
                    numbers["cut"] = cut

    def add_null(self, task: Task, scored: Points, reason: str) -> None:
        """A task that cannot be estimated."""
        kinds = self.settings.probe.kinds
        if task.is_classification:
            self.tables[task.name] = {kind: {column: null_cell(scored, reason) for column in COLUMNS} for kind in kinds}
        else:
            self.regression[task.name] = {kind: {column: null_regression_cell(scored, reason) for column in COLUMNS} for kind in kinds}

    def results(self, tasks: Sequence[Task]) -> DownstreamResults:
        """All of them, in the order of the tasks."""
        names = [task.name for task in tasks]
        tables = {name: self.tables[name] for name in names if name in self.tables}
        regression = {name: self.regression[name] for name in names if name in self.regression}
        return DownstreamResults(tables, regression, self.kept.table())
