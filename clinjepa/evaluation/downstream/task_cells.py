"""The cells of all tasks while they are evaluated: figures of scores, nulls with reasons, and the predictions behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.downstream.prediction_points import Points, TaskTables, null_cell, score_cell
from clinjepa.evaluation.downstream.regression_cells import RegressionTables, null_regression_cell, regression_cell
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.evaluation.space import trained_windows
from clinjepa.model.predictor import Predictor

SEED = 0
"""Seed of the probes and of the bootstrap."""
CellName = tuple[str, str]
"""(input column, probe kind)."""


class DownstreamResults(NamedTuple):
    """What the probes give."""

    tables: TaskTables
    """{task: {probe kind: {input column: cell}}} of the tasks with 0/1 labels."""
    regression: RegressionTables
    """The same of the tasks whose labels are numbers."""
    predictions: pa.Table
    """The scores behind both (`clinjepa.evaluation.predictions`)."""
    probes: FittedProbes | None = None
    """The probes, where this evaluation fitted them."""


@dataclass
class Collected:
    """The tables while the tasks are evaluated."""

    settings: DownstreamConfig
    tables: TaskTables = field(default_factory=dict)
    regression: RegressionTables = field(default_factory=dict)
    kept: KeptPredictions = field(default_factory=KeptPredictions)

    def add(self, task: Task, scored: Points, scores: Mapping[CellName, np.ndarray], cut: str | None) -> None:
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
        """A task that cannot be estimated: all its cells."""
        for kind in self.settings.probe.kinds:
            self.add_null_kind(task, kind, scored, reason)

    def add_null_kind(self, task: Task, kind: str, scored: Points, reason: str) -> None:
        """The cells of one kind of probe, which cannot be estimated."""
        if task.is_classification:
            self.tables.setdefault(task.name, {})[kind] = {column: null_cell(scored, reason) for column in COLUMNS}
        else:
            self.regression.setdefault(task.name, {})[kind] = {column: null_regression_cell(scored, reason) for column in COLUMNS}

    def results(self, tasks: Sequence[Task]) -> DownstreamResults:
        """All of them, in the order of the tasks."""
        names = [task.name for task in tasks]
        tables = {name: self.tables[name] for name in names if name in self.tables}
        regression = {name: self.regression[name] for name in names if name in self.regression}
        return DownstreamResults(tables, regression, self.kept.table())


def rollout_wanted(task: Task, settings: DownstreamConfig) -> int:
    """Hours of a task's rollout: the longest of the settings, or its horizon where that is shorter."""
    return min(settings.rollout_hours, _horizon(task) or settings.rollout_hours)


def _horizon(task: Task) -> int | None:
    """Hours after the prediction that a task's label is about; None: the whole stay."""
    return task.horizon_hours or (task.target.last_hour if task.target is not None else 0) or None


def cut_note(predictor: Predictor, wanted_hours: int, rollout_hours: int, cut_N: np.ndarray) -> str | None:
    """What of a task's inputs was cut to positions that training reached, as a sentence; None where nothing was."""
    parts = [f"the rollout of {wanted_hours} h is cut to {rollout_hours} h"] if rollout_hours < wanted_hours else []
    if cut_N.any():
        parts.append(f"the history is cut to its last hours at {int(cut_N.sum())} of {len(cut_N)} points")
    return f"{' and '.join(parts)}: {trained_windows(predictor.spec)}" if parts else None
