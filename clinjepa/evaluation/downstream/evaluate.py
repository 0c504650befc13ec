"""Risk tasks from frozen features: a probe per task, input column and kind, fitted on train, chosen on tuning, scored once.

The three input columns differ in what they use: the history only; a rollout with the last known actions carried forward; a rollout with
the actions recorded after the prediction time, which is an upper bound and not a forecast.
Protocol: Clin-JEPA (arXiv 2605.10840), downstream evaluation; AUROC, AUPRC, 95 % bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features, rollout_that_fits
from clinjepa.evaluation.downstream.prediction_points import (
    MethodTable,
    Points,
    TaskTables,
    null_cell,
    prediction_points,
    score_cell,
    union,
    why_not,
)
from clinjepa.evaluation.downstream.probe_rows import ProbeTask
from clinjepa.evaluation.downstream.probes import scores_of_tasks
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.evaluation.space import Latents, trained_windows
from clinjepa.model.predictor import Predictor

SEED = 0
"""Seed of the probes and of the bootstrap."""


def evaluate_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> TaskTables:
    """The tables of `score_downstream`, whose arguments these are."""
    return score_downstream(predictor, latents, labels, stays, tasks, settings, split)[0]


def score_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> tuple[TaskTables, pa.Table]:
    """The tables, and the predictions behind them (`clinjepa.evaluation.predictions`).

    The tables are {task: {probe kind: {input column: cell}}} of the tasks with 0/1 labels; rollouts run on the predictor's device.

    Neither history nor rollout uses a position that training could not reach. A rollout that needs more is cut to half of the reachable
    hours, a history to the rest; the cells then have a sentence `cut`.
    A task with fewer than `min_positives` patients of a class in train or `split` has figures of None and a `reason`. A rollout has
    `rollout_hours` hours, or the task's horizon where that is shorter.

    Args:
        predictor: The trained predictor.
        latents: The latents of the stays, from the encoder that the predictor was trained with.
        labels: Label table with stay_id, task, hour, label.
        stays: Stays with stay_id, subject_id, split, num_hours.
        tasks: Tasks to evaluate; those without 0/1 labels are left out.
        settings: Prediction points, rollout, pooling, probes and bootstrap.
        split: The split that is scored.
    """
    tasks = [task for task in tasks if task.is_classification]
    points = {task.name: prediction_points(labels, stays, task, settings) for task in tasks}
    reasons = {task.name: why_not(points[task.name], split, settings.min_positives) for task in tasks}
    result: TaskTables = {}
    kept = KeptPredictions()
    wanted = {task.name: min(settings.rollout_hours, task.horizon_hours or settings.rollout_hours) for task in tasks}
    steps = {name: rollout_that_fits(predictor, hours, settings.pooling) for name, hours in wanted.items()}
    for rollout_hours in sorted(set(steps.values())):
        names = [name for name, own in steps.items() if own == rollout_hours and reasons[name] is None]
        if not names:
            continue
        stay_N, hour_N, rows = union([points[name].where(np.isin(points[name].split_N, ["train", "tuning", split])) for name in names])
        features = point_features(predictor, latents, stay_N, hour_N, rollout_hours=rollout_hours, pooling=settings.pooling)
        scores = _probe_scores(features, rows, settings, split)
        for place, (name, (own, rows_N)) in enumerate(zip(names, rows, strict=True)):
            result[name] = _task_table(name, own.of(split), {cell: of[place] for cell, of in scores.items()}, settings, kept)
            cut_N = features.cut_N[rows_N][own.split_N == split]
            note = _cut_note(predictor, wanted[name], rollout_hours, cut_N)
            if note is not None:
                for cell in (cell for columns in result[name].values() for cell in columns.values()):
                    cell["cut"] = note
    for name, reason in reasons.items():
        if reason is not None:
            result[name] = {
                kind: {column: null_cell(points[name].of(split), reason) for column in COLUMNS} for kind in settings.probe.kinds
            }
    return {task.name: result[task.name] for task in tasks}, kept.table()


def _cut_note(predictor: Predictor, wanted_hours: int, rollout_hours: int, cut_N: np.ndarray) -> str | None:
    """What of a task's inputs was cut to positions that training reached, as a sentence; None where nothing was."""
    parts = [f"the rollout of {wanted_hours} h is cut to {rollout_hours} h"] if rollout_hours < wanted_hours else []
    if cut_N.any():
        parts.append(f"the history is cut to its last hours at {int(cut_N.sum())} of {len(cut_N)} points")
    return f"{' and '.join(parts)}: {trained_windows(predictor.spec)}" if parts else None


def _probe_scores(
    features: PointFeatures, tasks: Sequence[tuple[Points, np.ndarray]], settings: DownstreamConfig, split: str
) -> dict[tuple[str, str], list[np.ndarray]]:
    """(column, probe kind) -> the scores of every task at its points of `split`.

    Args:
        features: Features of the union of the tasks' points.
        tasks: Points of each task and their rows in the features.
        settings: Kinds and settings of the probes.
        split: The split that is scored.
    """
    problems = [ProbeTask.of(points, rows_N, split) for points, rows_N in tasks]
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for column in COLUMNS:
        x_NF = features.column(column)
        for kind in settings.probe.kinds:
            found[column, kind] = scores_of_tasks(kind, x_NF, problems, settings.probe, SEED)
    return found


def _task_table(
    task: str, scored: Points, scores: Mapping[tuple[str, str], np.ndarray], settings: DownstreamConfig, kept: KeptPredictions
) -> dict[str, MethodTable]:
    """The table of a task from the scores of each (column, probe kind), which `kept` keeps."""
    table: dict[str, MethodTable] = {kind: {} for kind in settings.probe.kinds}
    for (column, kind), scores_N in scores.items():
        kept.add(task, kind, column, scored, scores_N)
        table[kind][column] = score_cell(scored, scores_N, settings.num_bootstrap, SEED)
    return table
