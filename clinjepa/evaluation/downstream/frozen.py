"""Risk tasks of other stays with probes that were fitted before: nothing is fitted, and no stay of another split is read.

The points, cells and figures are those of `evaluate`; the probes are those that it gave or wrote (`fitted`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.errors import ConfigError
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features
from clinjepa.evaluation.downstream.prediction_points import prediction_points, union
from clinjepa.evaluation.downstream.regression_cells import why_not_scored
from clinjepa.evaluation.downstream.task_cells import CellName, Collected, DownstreamResults, cut_note, rollout_wanted
from clinjepa.evaluation.space import Latents, stays_of
from clinjepa.model.predictor import Predictor


class LabelledLatents(NamedTuple):
    """Stays with latents and labels."""

    latents: Latents
    """From the encoder that the predictor was trained with."""
    labels: pa.Table
    """Label table with stay_id, task, hour, label."""
    stays: pa.Table
    """Stays with stay_id, subject_id, split, num_hours."""


def score_frozen(
    probes: FittedProbes,
    predictor: Predictor,
    data: LabelledLatents,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    split: str = "held_out",
) -> DownstreamResults:
    """The tables of all tasks by probes that were fitted before, and the predictions behind them; `probes` of the result is None.

    Stays of other splits are not read: neither their latents nor their labels. A task or a kind that the probes lack has figures of
    None and a `reason`, and so has a task with fewer than `min_positives` patients of a class, or with a label, in `split`.

    Args:
        probes: Probes of `score_downstream`, or read from its files.
        predictor: The predictor that the probes were fitted with.
        data: Latents, labels and stays.
        tasks: Tasks to evaluate, by the definitions that the probes were fitted with.
        settings: Prediction points, kinds of probes and bootstrap. Pooling and rollout are those of the probes.
        split: The split that is scored.

    Raises:
        ConfigError: Pooling or rollout of the settings are not those of the probes.
        StoreError: The probes were fitted with another predictor.
    """
    _check_settings(probes, settings)
    probes.check_predictor(predictor)
    stays = stays_of(data.stays, split)
    points = {task.name: prediction_points(data.labels, stays, task, settings) for task in tasks}
    reasons = {
        task.name: why_no_probe(probes, task, settings) or why_not_scored(task, points[task.name], split, settings.min_positives)
        for task in tasks
    }
    collected = Collected(settings)
    able = [task for task in tasks if reasons[task.name] is None]
    for rollout_hours in sorted({probes.tasks[task.name].rollout_hours for task in able}):
        same = [task for task in able if probes.tasks[task.name].rollout_hours == rollout_hours]
        stay_N, hour_N, found = union([points[task.name] for task in same])
        features = point_features(predictor, data.latents, stay_N, hour_N, rollout_hours=rollout_hours, pooling=probes.input.pooling)
        scores = _scores(probes, features, {task.name: rows_N for task, (_, rows_N) in zip(same, found, strict=True)}, settings)
        for task, (own, rows_N) in zip(same, found, strict=True):
            note = cut_note(predictor, probes.tasks[task.name].wanted_rollout_hours, rollout_hours, features.cut_N[rows_N])
            collected.add(task, own, scores[task.name], note)
    for task in tasks:
        reason = reasons[task.name]
        if reason is not None:
            collected.add_null(task, points[task.name], reason)
        else:
            for kind in (kind for kind in settings.probe.kinds if kind not in probes.kinds):
                collected.add_null_kind(task, kind, points[task.name], f"the frozen probes have no probe of kind {kind}")
    return collected.results(tasks)


def why_no_probe(probes: FittedProbes, task: Task, settings: DownstreamConfig) -> str | None:
    """Why the frozen probes cannot score a task, or None."""
    own = probes.tasks.get(task.name)
    if own is None:
        return "the frozen probes have no task of this name"
    if own.reason is not None:
        return f"no probe was fitted: {own.reason}"
    if (own.output == "log_odds") != task.is_classification:
        return "the frozen probe of this name is of a task with labels of another kind"
    if own.wanted_rollout_hours != rollout_wanted(task, settings):
        return "the frozen probe of this name is of a task with another horizon"
    return None


def _check_settings(probes: FittedProbes, settings: DownstreamConfig) -> None:
    for name in ("pooling", "rollout_hours"):
        given, fitted = getattr(settings, name), getattr(probes.input, name)
        if given != fitted:
            raise ConfigError(f"evaluation.downstream.{name}={given}, but the frozen probes were fitted with {fitted}; set it to that")


def _scores(
    probes: FittedProbes, features: PointFeatures, rows: dict[str, np.ndarray], settings: DownstreamConfig
) -> dict[str, dict[CellName, np.ndarray]]:
    """{task: {(column, kind): scores}}. rows: the rows of each task's points in the features."""
    found: dict[str, dict[CellName, np.ndarray]] = {name: {} for name in rows}
    for column in COLUMNS:
        x_NF = features.column(column)
        for kind in settings.probe.kinds:
            for name, rows_N in rows.items():
                if kind in probes.kinds:
                    found[name][column, kind] = probes.tasks[name].probes[column, kind](x_NF[rows_N])
    return found
