"""Downstream tasks from frozen features: a probe per task, column and kind, fitted on train, chosen on tuning, scored once.

Three columns keep apart what a forecast may know: history only; rollout with the last known actions carried forward;
rollout with the actions recorded after the prediction time, which is an upper bound and not a forecast.
Protocol: Clin-JEPA (arXiv 2605.10840), downstream evaluation; AUROC, AUPRC, 95 % bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.point_features import COLUMNS, PointFeatures, point_features
from clinjepa.evaluation.prediction_points import Points, null_cell, prediction_points, score_cell, union, why_not
from clinjepa.evaluation.probes import Rows, probe_scores
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor


def evaluate_downstream(
    predictor: Predictor,
    latents: Latents,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, dict[str, dict[str, Any]]]:
    """{task: {probe kind: {column: {"auroc", "auprc", "num_positive", "num_total", "num_positive_patients"}}}}.

    labels: stay_id, task, hour, label; stays: stay_id, subject_id, split, num_hours. Tasks with 0/1 labels only. A task with
    fewer than `min_positives` patients of a class in training or scored data has null figures and a `reason`. Rollouts are as long as
    `rollout_hours`, and no longer than a task's horizon.
    """
    tasks = [task for task in tasks if task.is_classification]
    points = {task.name: prediction_points(labels, stays, task, settings) for task in tasks}
    reasons = {task.name: why_not(points[task.name], split, settings.min_positives) for task in tasks}
    result: dict[str, dict[str, dict[str, Any]]] = {}
    steps = {task.name: min(settings.rollout_hours, task.horizon_hours or settings.rollout_hours) for task in tasks}
    for rollout_hours in sorted(set(steps.values())):
        names = [name for name, own in steps.items() if own == rollout_hours and reasons[name] is None]
        if not names:
            continue
        stay_N, hour_N, rows = union([points[name].where(np.isin(points[name].split_N, ["train", "tuning", split])) for name in names])
        features = point_features(
            predictor,
            latents,
            stay_N,
            hour_N,
            rollout_hours=rollout_hours,
            pooling=settings.pooling,
            device=device,
            batch_size=batch_size,
        )
        for name, (own, rows_N) in zip(names, rows, strict=True):
            result[name] = _task_table(own, features, rows_N, settings, split, seed)
    for name, reason in reasons.items():
        if reason is not None:
            result[name] = {
                kind: {column: null_cell(points[name].of(split), reason) for column in COLUMNS} for kind in settings.probe.kinds
            }
    return {task.name: result[task.name] for task in tasks}


def _task_table(
    points: Points, features: PointFeatures, rows_N: np.ndarray, settings: DownstreamConfig, split: str, seed: int
) -> dict[str, dict[str, Any]]:
    scored = points.of(split)
    table: dict[str, dict[str, Any]] = {kind: {} for kind in settings.probe.kinds}
    for column in COLUMNS:
        x_NF = features.column(column, rows_N)
        parts = {}
        for name in ("train", "tuning", split):
            mask_N = points.split_N == name
            parts[name] = Rows(x_NF[mask_N], points.label_N[mask_N], points.subject_N[mask_N])
        for kind in settings.probe.kinds:
            scores_N = probe_scores(kind, parts["train"], parts["tuning"], parts[split].x_NF, settings.probe, seed)
            table[kind][column] = score_cell(scored, scores_N, settings.num_bootstrap, seed)
    return table
