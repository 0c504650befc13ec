"""Risk tasks from frozen features: a probe per task, input column and kind, fitted on train, chosen on tuning, scored once.

The fitted probes are part of the result; `frozen` scores other stays with them.

The three input columns differ in what they use: the history only; a rollout with the last known actions carried forward; a rollout with
the actions recorded after the prediction time, which is an upper bound and not a forecast.
Tasks whose labels are numbers have the same points and columns, and mean absolute error and R² in place of AUROC and AUPRC.
Protocol: Clin-JEPA (arXiv 2605.10840), downstream evaluation; 95 % bootstrap over patients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.fitted import FittedProbes, PointRule, ProbeInput, TaskProbes, TrainLabels, predictor_digest
from clinjepa.evaluation.downstream.fitted_probe import FittedProbe
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features, rollout_that_fits
from clinjepa.evaluation.downstream.prediction_points import Points, TaskTables, prediction_points, union
from clinjepa.evaluation.downstream.probe_rows import ProbeTask
from clinjepa.evaluation.downstream.probes import number_probes_of_tasks, probes_of_tasks
from clinjepa.evaluation.downstream.regression_cells import why_not_estimable
from clinjepa.evaluation.downstream.task_cells import SEED, CellName, Collected, DownstreamResults, cut_note, rollout_wanted
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor


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
    """The tables of all tasks, the predictions behind them, and the probes; rollouts run on the predictor's device.

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
    collected = Collected(settings)
    fitted: dict[str, Mapping[CellName, FittedProbe]] = {}
    wanted = {task.name: rollout_wanted(task, settings) for task in tasks}
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
            cells = _fit_and_score(features, list(same_kind.values()), settings, split, are_numbers=are_numbers)
            for place, (name, (own, rows_N)) in enumerate(same_kind.items()):
                note = cut_note(predictor, wanted[name], rollout_hours, features.cut_N[rows_N][own.split_N == split])
                collected.add(of[name], own.of(split), {cell: scores[place] for cell, (_, scores) in cells.items()}, note)
                fitted[name] = {cell: probes[place] for cell, (probes, _) in cells.items()}
    for name, reason in reasons.items():
        if reason is not None:
            collected.add_null(of[name], points[name].of(split), reason)
    kept = {
        name: _task_probes(task, points[name].of("train"), (wanted[name], steps[name]), reasons[name], fitted.get(name, {}))
        for name, task in of.items()
    }
    return collected.results(tasks)._replace(probes=_all_probes(predictor, settings, kept))


def _fit_and_score(
    features: PointFeatures, tasks: Sequence[tuple[Points, np.ndarray]], settings: DownstreamConfig, split: str, *, are_numbers: bool
) -> dict[CellName, tuple[list[FittedProbe], list[np.ndarray]]]:
    """By (column, probe kind) the probe of every task and its scores at the task's points of `split`; empty without tasks.

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
    fit = number_probes_of_tasks if are_numbers else probes_of_tasks
    found: dict[CellName, tuple[list[FittedProbe], list[np.ndarray]]] = {}
    for column in COLUMNS:
        x_NF = features.column(column)
        for kind in settings.probe.kinds:
            probes = fit(kind, x_NF, problems, settings.probe, SEED)
            found[column, kind] = probes, [probe.scores(x_NF[task.scored_N]) for probe, task in zip(probes, problems, strict=True)]
    return found


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
