"""Paired differences between methods of several finished runs, on the predictions that each run keeps.

Runs can be paired where they scored the same prediction points: the same stays, patients, hours and labels of a task. Then all methods
share the draws of patients, as within one run (`comparisons.py`), and the p-values are adjusted over everything that is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.evaluation.comparisons import Difference, holm, paired_differences
from clinjepa.evaluation.differences.over_tasks import MeanDifference, TaskScores, mean_differences

POINT = ["stay_id", "subject_id", "hour", "boolean_value"]
"""What makes two prediction points the same."""


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


class Unpaired(TypedDict):
    """A task that a run scored on other points than the reference, or does not have."""

    run: str
    task: str
    reason: str


class RunDifferences(TypedDict):
    """Differences by task and as means, and what could not be paired."""

    tasks: dict[str, list[NamedDifference]]
    mean: list[NamedMean]
    unpaired: list[Unpaired]


def run_differences(
    runs: Mapping[str, pa.Table], reference: Method, column: str, *, num_bootstrap: int = 1000, seed: int = 0
) -> RunDifferences:
    """AUROC of every method of every run minus that of the reference, from one input column; tasks with numbers are left out.

    Args:
        runs: Label of a run -> its predictions (task, method, seed, column, stay_id, subject_id, hour, boolean_value, score).
        reference: The method that is subtracted.
        column: The input column that is compared.
        num_bootstrap: Number of resamplings of patients, shared by all methods of a task.
        seed: Seed of the resamplings.
    """
    used = (pl.col("column") == column) & pl.col("boolean_value").is_not_null()
    frames = {label: pl.DataFrame(table).filter(used) for label, table in runs.items()}
    tasks: dict[str, TaskScores] = {}
    unpaired: list[Unpaired] = []
    for task in frames[reference.run].filter(pl.col("method") == reference.name)["task"].unique(maintain_order=True):
        points: pl.DataFrame | None = None
        scores: dict[str, np.ndarray] = {}
        for label in sorted(frames, key=lambda name: name != reference.run):
            own_points, own = _task(frames[label].filter(pl.col("task") == task), label)
            if own_points is None:
                unpaired.append({"run": label, "task": task, "reason": "the run has no predictions of this task"})
            elif points is None or own_points.equals(points):
                points, scores = own_points, scores | own
            else:
                unpaired.append({"run": label, "task": task, "reason": f"other prediction points than {reference.run}"})
        assert points is not None
        tasks[task] = TaskScores(points["boolean_value"].to_numpy().astype(np.float64), points["subject_id"].to_numpy(), scores)
    return {**_differences(tasks, reference, num_bootstrap, seed), "unpaired": unpaired}  # type: ignore[typeddict-item]  # the names are RunDifferences'


def _task(rows: pl.DataFrame, label: str) -> tuple[pl.DataFrame | None, dict[str, np.ndarray]]:
    """(the points of one task of a run, scores [S, N] by method "run · method"); methods with other points than the first are left out."""
    points: pl.DataFrame | None = None
    scores: dict[str, np.ndarray] = {}
    for (method,), of_method in rows.group_by(["method"], maintain_order=True):
        by_seed = [of_seed.sort("stay_id", "hour") for _, of_seed in of_method.group_by(["seed"], maintain_order=True)]
        points = by_seed[0].select(POINT) if points is None else points
        if all(one.select(POINT).equals(points) for one in by_seed):
            scores[_key(Method(label, str(method)))] = np.stack([one["score"].to_numpy() for one in by_seed])
    return points, scores


def _differences(tasks: Mapping[str, TaskScores], reference: Method, num_bootstrap: int, seed: int) -> dict[str, object]:
    subtracted = _key(reference)
    found: dict[str, list[NamedDifference]] = {}
    for name, task in tasks.items():
        of_task = paired_differences(task.label_N, task.scores, subtracted, task.subject_N, num_bootstrap=num_bootstrap, seed=seed)
        found[name] = [{**one, "run": _method(key).run, "method": _method(key).name} for key, one in of_task.items()]
    family = holm({f"{name}\n{place}": one["p_value"] for name, rows in found.items() for place, one in enumerate(rows)})
    for name, rows in found.items():
        for place, one in enumerate(rows):
            one["p_holm"] = family[f"{name}\n{place}"]
    means = mean_differences(tasks, subtracted, num_bootstrap=num_bootstrap, seed=seed)
    return {"tasks": found, "mean": [{**one, "run": _method(key).run, "method": _method(key).name} for key, one in means.items()]}


def _key(method: Method) -> str:
    return f"{method.run}\n{method.name}"


def _method(key: str) -> Method:
    return Method(*key.split("\n", 1))
