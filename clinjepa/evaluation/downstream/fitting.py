"""The probes of all tasks, fitted on train and chosen on tuning; no other split is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.fitted import FittedProbes, PointRule, ProbeInput, TaskProbes, TrainLabels, predictor_digest
from clinjepa.evaluation.downstream.fitted_probe import FittedProbe
from clinjepa.evaluation.downstream.frozen import LabelledLatents
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features, rollout_that_fits
from clinjepa.evaluation.downstream.prediction_points import Points, prediction_points, union
from clinjepa.evaluation.downstream.probe_rows import ProbeTask
from clinjepa.evaluation.downstream.probes import number_probes_of_tasks, probes_of_tasks
from clinjepa.evaluation.downstream.regression_cells import why_not_estimable
from clinjepa.evaluation.downstream.task_cells import SEED, CellName, rollout_wanted
from clinjepa.model.predictor import Predictor


def fit_probes(predictor: Predictor, data: LabelledLatents, tasks: Sequence[Task], settings: DownstreamConfig) -> FittedProbes:
    """The probes of all tasks; a task that train or tuning cannot support has none and a reason. Rollouts run on the predictor's device.

    Args:
        predictor: The trained predictor.
        data: Latents, labels and stays; stays of train and tuning are read.
        tasks: The tasks.
        settings: Prediction points, rollout, pooling and probes.
    """
    of = {task.name: task for task in tasks}
    points = {task.name: _fitted_on(prediction_points(data.labels, data.stays, task, settings)) for task in tasks}
    reasons = {name: why_not_estimable(task, points[name], "train", settings.min_positives) for name, task in of.items()}
    wanted = {task.name: rollout_wanted(task, settings) for task in tasks}
    steps = {name: rollout_that_fits(predictor, hours, settings.pooling) for name, hours in wanted.items()}
    fitted: dict[str, Mapping[CellName, FittedProbe]] = {}
    for rollout_hours in sorted(set(steps.values())):
        names = [name for name, own in steps.items() if own == rollout_hours and reasons[name] is None]
        if not names:
            continue
        stay_N, hour_N, rows = union([points[name] for name in names])
        features = point_features(predictor, data.latents, stay_N, hour_N, rollout_hours=rollout_hours, pooling=settings.pooling)
        found = dict(zip(names, rows, strict=True))
        for are_numbers in (False, True):
            same_kind = {name: found[name] for name in names if of[name].is_classification != are_numbers}
            cells = _fit(features, list(same_kind.values()), settings, are_numbers=are_numbers)
            for place, name in enumerate(same_kind):
                fitted[name] = {cell: probes[place] for cell, probes in cells.items()}
    kept = {
        name: _task_probes(task, points[name].of("train"), (wanted[name], steps[name]), reasons[name], fitted.get(name, {}))
        for name, task in of.items()
    }
    return _all_probes(predictor, settings, kept)


def _fitted_on(points: Points) -> Points:
    return points.where(np.isin(points.split_N, ["train", "tuning"]))


def _fit(
    features: PointFeatures, tasks: Sequence[tuple[Points, np.ndarray]], settings: DownstreamConfig, *, are_numbers: bool
) -> dict[CellName, list[FittedProbe]]:
    """By (column, probe kind) the probe of every task; empty without tasks.

    Args:
        features: Features of the union of the tasks' points.
        tasks: Points of each task and their rows in the features.
        settings: Kinds and settings of the probes.
        are_numbers: Whether the tasks' labels are numbers rather than 0 or 1.
    """
    if not tasks:
        return {}
    problems = [ProbeTask.of(points, rows_N, "tuning") for points, rows_N in tasks]  # nothing is scored here
    fit = number_probes_of_tasks if are_numbers else probes_of_tasks
    return {
        (column, kind): fit(kind, features.column(column), problems, settings.probe, SEED)
        for column in COLUMNS
        for kind in settings.probe.kinds
    }


def _task_probes(
    task: Task, train: Points, rollout_hours: tuple[int, int], reason: str | None, probes: Mapping[CellName, FittedProbe]
) -> TaskProbes:
    """What is kept of a task. train: its training points; rollout_hours: wanted, and after a cut to what training could reach."""
    mean = float(train.label_N.mean()) if len(train) else None
    return TaskProbes(
        output="log_odds" if task.is_classification else "number",
        unit=task.label_unit,
        predicted_at="hourly" if task.is_hourly else task.at,
        wanted_rollout_hours=rollout_hours[0],
        rollout_hours=rollout_hours[1],
        train=TrainLabels(len(train), len(np.unique(train.subject_N)), mean),
        reason=reason,
        probes=probes,
    )


def _all_probes(predictor: Predictor, settings: DownstreamConfig, tasks: Mapping[str, TaskProbes]) -> FittedProbes:
    return FittedProbes(
        ProbeInput(settings.pooling, settings.rollout_hours, predictor.spec.latent_dim, predictor_digest(predictor)),
        PointRule(settings.min_history_hours, settings.hourly_stride, settings.stay_prediction_hour),
        COLUMNS,
        tuple(settings.probe.kinds),
        tasks,
    )
