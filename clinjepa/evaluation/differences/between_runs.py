"""Paired differences between methods of several finished runs, on the predictions that each run keeps.

Runs can be paired where they scored the same prediction points: the same stays, patients, hours and labels of a task. Then all methods
share the draws of patients, as within one run (`comparisons.py`, `of_errors.py`). The p-values of AUROC are adjusted over everything that
is compared; differences in the error of numbers have an interval alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.evaluation.comparisons import Difference, holm, paired_differences
from clinjepa.evaluation.differences.of_errors import task_error_differences
from clinjepa.evaluation.differences.over_tasks import MeanDifference, TaskScores, mean_differences
from clinjepa.evaluation.figures import Figure

Label = Literal["boolean_value", "float_value"]
"""The column of a task's labels: 0 or 1, or numbers."""


class Method(NamedTuple):
    """A method of one run; `run` is its label in the comparison."""

    run: str
    name: str


class NamedDifference(Difference):
    """A method's AUROC minus the reference's in one task."""

    run: str
    method: str


class NamedMean(MeanDifference):
    """The same as a mean over tasks."""

    run: str
    method: str


class NamedErrorDifference(TypedDict):
    """A method's mean absolute error minus the reference's in one task with numbers, in the label's unit; below 0 is better."""

    run: str
    method: str
    difference: Figure


class Unpaired(TypedDict):
    """A task that a run scored on other points than the reference, or that one of the two does not have."""

    run: str
    task: str
    reason: str


class RunDifferences(TypedDict):
    """Differences by task and as means, and what could not be paired. `errors` has the tasks with numbers."""

    tasks: dict[str, list[NamedDifference]]
    mean: list[NamedMean]
    errors: dict[str, list[NamedErrorDifference]]
    unpaired: list[Unpaired]


def run_differences(
    runs: Mapping[str, pa.Table], reference: Method, column: str, *, num_bootstrap: int = 1000, seed: int = 0
) -> RunDifferences:
    """Every method of every run minus the reference, from one input column: AUROC, and the mean absolute error of tasks with numbers.

    Args:
        runs: Label of a run -> its predictions (task, method, seed, column, stay_id, subject_id, hour, boolean_value, float_value, score).
        reference: The method that is subtracted.
        column: The input column that is compared.
        num_bootstrap: Number of resamplings of patients, shared by all methods of a task.
        seed: Seed of the resamplings.

    Raises:
        EvaluationError: A score of a task with 0/1 labels is NaN or infinite.
    """
    frames = {label: pl.DataFrame(table).filter(pl.col("column") == column) for label, table in runs.items()}
    unpaired: list[Unpaired] = []
    events = _paired(frames, reference, "boolean_value", unpaired)
    numbers = _paired(frames, reference, "float_value", unpaired)
    subtracted = _key(reference)
    return {
        "tasks": _auroc_differences(events, subtracted, num_bootstrap, seed),
        "mean": [
            {**one, "run": _method(key).run, "method": _method(key).name}
            for key, one in mean_differences(events, subtracted, num_bootstrap=num_bootstrap, seed=seed).items()
        ],
        "errors": {name: _errors_of(task, subtracted, num_bootstrap, seed) for name, task in numbers.items()},
        "unpaired": unpaired,
    }


def _paired(frames: Mapping[str, pl.DataFrame], reference: Method, label: Label, unpaired: list[Unpaired]) -> dict[str, TaskScores]:
    """The reference's tasks with this kind of label, each with the methods of all runs that scored its points.

    What a run has in other points, or what only one of the two has, is added to `unpaired`.
    """
    labelled = {run: frame.filter(pl.col(label).is_not_null()) for run, frame in frames.items()}
    names = {run: frame["task"].unique(maintain_order=True).to_list() for run, frame in labelled.items()}
    of_reference = labelled[reference.run].filter(pl.col("method") == reference.name)["task"].unique(maintain_order=True).to_list()
    tasks: dict[str, TaskScores] = {}
    for task in of_reference:
        points, scores = _task(labelled[reference.run], reference.run, task, label)
        for run in (run for run in frames if run != reference.run):
            if task not in names[run]:
                unpaired.append({"run": run, "task": task, "reason": "the run has no predictions of this task"})
                continue
            own_points, own = _task(labelled[run], run, task, label)
            if own_points.equals(points):
                scores |= own
            else:
                unpaired.append({"run": run, "task": task, "reason": f"other prediction points than {reference.run}"})
        tasks[task] = TaskScores(points[label].to_numpy().astype(np.float64), points["subject_id"].to_numpy(), scores)
    reason = "the reference has no predictions of this task"
    unpaired += [{"run": run, "task": task, "reason": reason} for run in frames for task in names[run] if task not in of_reference]
    return tasks


def _task(rows: pl.DataFrame, run: str, task: str, label: Label) -> tuple[pl.DataFrame, dict[str, np.ndarray]]:
    """(the points of one task of a run, scores [S, N] by method); methods with other points than the first are left out."""
    point = ["stay_id", "subject_id", "hour", label]
    points: pl.DataFrame | None = None
    scores: dict[str, np.ndarray] = {}
    for (method,), of_method in rows.filter(pl.col("task") == task).group_by(["method"], maintain_order=True):
        by_seed = [of_seed.sort("stay_id", "hour") for _, of_seed in of_method.group_by(["seed"], maintain_order=True)]
        points = by_seed[0].select(point) if points is None else points
        if all(one.select(point).equals(points) for one in by_seed):
            scores[_key(Method(run, str(method)))] = np.stack([one["score"].to_numpy() for one in by_seed])
    assert points is not None
    return points, scores


def _auroc_differences(tasks: Mapping[str, TaskScores], subtracted: str, num_bootstrap: int, seed: int) -> dict[str, list[NamedDifference]]:
    found: dict[str, list[NamedDifference]] = {}
    for name, task in tasks.items():
        of_task = paired_differences(task.label_N, task.scores, subtracted, task.subject_N, num_bootstrap=num_bootstrap, seed=seed)
        found[name] = [{**one, "run": _method(key).run, "method": _method(key).name} for key, one in of_task.items()]
    family = holm({f"{name}\n{place}": one["p_value"] for name, rows in found.items() for place, one in enumerate(rows)})
    for name, rows in found.items():
        for place, one in enumerate(rows):
            one["p_holm"] = family[f"{name}\n{place}"]
    return found


def _errors_of(task: TaskScores, subtracted: str, num_bootstrap: int, seed: int) -> list[NamedErrorDifference]:
    of_task = task_error_differences(task.label_N, task.subject_N, task.scores, subtracted, num_bootstrap, seed)
    return [{"run": _method(key).run, "method": _method(key).name, "difference": one} for key, one in of_task.items()]


def _key(method: Method) -> str:
    return f"{method.run}\n{method.name}"


def _method(key: str) -> Method:
    return Method(*key.split("\n", 1))
