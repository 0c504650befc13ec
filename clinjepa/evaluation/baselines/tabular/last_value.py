"""The last reading of what the task is about: of MAP for hypotension, of creatinine for the next day's creatinine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.clinical import Task, load_variables
from clinjepa.evaluation.baselines.linear_fits import few_features
from clinjepa.evaluation.baselines.protocol import Baseline, Predictions, Problem, Settings


def _read_by(task: Task) -> list[str]:
    """Numeric variables of the grid whose reading makes the task's label."""
    known = load_variables()
    return [name for name in task.variables if name in known and known[name].kind in ("numeric", "indicator", "rate")]


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """From the last values, carried forward, and which are not there; with the fold of the task's logarithm where its label has one."""
    table, task = problem.tabular(), problem.only.task
    places = [table.names.index(f"{name}:last") for name in _read_by(task) if f"{name}:last" in table.names]
    values_PV = table.x_NF[:, places]
    missing_PV = ~np.isfinite(values_PV)
    if task.target is not None and task.target.transform != "none":
        values_PV = np.log(np.maximum(values_PV + task.target.offset, 1e-6))
    train_N = problem.only.rows_N[problem.only.points.split_N == "train"]
    mean_V = np.nan_to_num(np.nanmean(values_PV[train_N], axis=0)) if len(places) else np.zeros(0)
    x_PF = np.concatenate([np.where(missing_PV, mean_V, values_PV), missing_PV], axis=1).astype(np.float32)
    return few_features(problem, x_PF, splits, seed)


def _has_reading(task: Task) -> bool:
    return bool(_read_by(task))


BASELINE = Baseline(fit, docs="Control: a linear model on the last reading of the task's own variables.", answers=_has_reading)
