"""Paired differences in the absolute error of predicted numbers, on the kept predictions.

All cells of a task share the points and the draws of patients (`clinjepa.evaluation.resampling`), so an interval is that of the difference:
identical predictions give 0 [0, 0].
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.predictions import task_scores, tasks_with
from clinjepa.evaluation.resampling import PatientBootstrap, ratio

_Name = TypeVar("_Name")


class CellName(NamedTuple):
    """A method and its input column."""

    method: str
    column: str

    def __str__(self) -> str:
        return f"{self.method} ({self.column})"


def number_cells(tables: Iterable[tuple[str | None, int | None, pa.Table]]) -> dict[CellName, list[pa.Table]]:
    """{cell: its predictions of tasks with numbers, one table per training seed}.

    tables: (recipe, seed, kept predictions) as `clinjepa.evaluation.predictions.of_a_run` takes them; methods are named as there.
    """
    found: dict[CellName, list[pa.Table]] = {}
    for recipe, _, table in tables:
        numbers = table.filter(pc.is_valid(table["float_value"]))
        for method, column in dict.fromkeys(zip(numbers["method"].to_pylist(), numbers["column"].to_pylist(), strict=True)):
            own = numbers.filter(pc.and_(pc.equal(numbers["method"], method), pc.equal(numbers["column"], column)))
            found.setdefault(CellName(method if recipe is None else f"{recipe} · {method}", column), []).append(own)
    return found


def error_differences(
    cells: Mapping[CellName, Sequence[pa.Table]], reference: CellName, num_bootstrap: int, seed: int = 0
) -> dict[str, dict[CellName, Figure]]:
    """{task: {cell: its mean absolute error minus the reference's, in the label's unit}}, without the reference; below 0 is better.

    Args:
        cells: {cell: the kept predictions of each of its training seeds}. The error of a point is the mean over the seeds.
        reference: The cell that is subtracted; tasks that it has no predictions of are left out.
        num_bootstrap: Number of resamplings of patients, shared by all cells of a task.
        seed: Seed of the resamplings.

    Raises:
        StoreError: Two cells of a task scored different points.
    """
    if reference not in cells:
        return {}
    found: dict[str, dict[CellName, Figure]] = {}
    for task in tasks_with(cells[reference][0], "float_value"):
        points, scores = task_scores(cells, reference, task)
        label_N = points["float_value"].to_numpy().astype(np.float64)
        found[task] = task_error_differences(label_N, points["subject_id"].to_numpy(), scores, reference, num_bootstrap, seed)
    return found


def task_error_differences(
    label_N: np.ndarray, subject_N: np.ndarray, scores: Mapping[_Name, np.ndarray], reference: _Name, num_bootstrap: int, seed: int = 0
) -> dict[_Name, Figure]:
    """{name: its mean absolute error minus the reference's, in the label's unit}, without the reference; below 0 is better.

    Args:
        label_N: Labels of the N points of a task.
        subject_N: Patient of each point; patients are resampled.
        scores: {name: predicted numbers [S, N] of S training seeds}. The error of a point is the mean over the seeds.
        reference: The name that is subtracted.
        num_bootstrap: Number of resamplings of patients, shared by all names.
        seed: Seed of the resamplings.

    Raises:
        KeyError: The reference has no scores.
    """
    errors = {name: np.abs(numbers_SN - label_N).mean(0) for name, numbers_SN in scores.items()}
    boot, every_N = PatientBootstrap(subject_N, num_bootstrap, seed), np.ones(len(label_N), dtype=bool)
    number_R = boot.total(np.ones(len(label_N)), every_N)
    found: dict[_Name, Figure] = {}
    for name, error_N in errors.items():
        difference = boot.figure(ratio(boot.total(error_N - errors[reference], every_N), number_R), every_N)
        if name != reference and difference is not None:
            found[name] = {**difference, "num_seeds": len(scores[name])}
    return found
