"""The baselines of a run: fitted on train, tuned on tuning, scored once at the probes' prediction points.

A point's inputs end with its hour, as in the column `history_only` of the probes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.baselines import ensemble
from clinjepa.evaluation.baselines.inputs import build_inputs, has_sofa
from clinjepa.evaluation.baselines.names import COLUMN, check_names
from clinjepa.evaluation.baselines.protocol import Baseline, Predictions, Problem, Setting, TaskPoints
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.baselines.tuning import Budget, InProcessRunner, Runner, fit_averaged, tune
from clinjepa.evaluation.downstream.prediction_points import Points, TaskTables, null_cell, prediction_points, score_cell, union
from clinjepa.evaluation.downstream.regression_cells import RegressionCell, null_regression_cell, regression_cell, why_not_estimable
from clinjepa.evaluation.metrics import finite_scores
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.storage import Folder


@dataclass(frozen=True)
class LabelledStays:
    """What the baselines read: the ingest artifact, its `stays.parquet`, and labels with stay_id, task, hour, label."""

    ingest: Folder
    stays: pa.Table
    labels: pa.Table


class FitRecord(TypedDict):
    """How one model was tuned. settings: those kept, whose models are averaged. tuning_losses: of every trial that ran, over the loss of
    a constant; none where nothing is tuned."""

    settings: list[dict[str, Setting]]
    tuning_losses: list[float]
    weights: dict[str, float]
    """Of an ensemble's members; empty for others."""


class BaselineResults(NamedTuple):
    """What the baselines of a run give."""

    tables: TaskTables
    """{task: {method: {"history_only": cell}}} of the tasks with 0/1 labels."""
    regression: dict[str, dict[str, RegressionCell]]
    """{task: {method: cell}} of the tasks whose labels are numbers."""
    predictions: pa.Table
    """The scores behind `tables` (`clinjepa.evaluation.predictions`)."""
    tuning: dict[str, dict[str, FitRecord]]
    """{method: {task: record}}; one record `all tasks` of a method that learns them together."""
    seconds: dict[str, float]
    """{method: seconds of tuning and fitting}."""


def score_baselines(
    data: LabelledStays,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
    runner: Runner | None = None,
) -> BaselineResults:
    """Tune, fit and score the baselines of `settings.baselines` on every task that they answer.

    Args:
        data: Grid, stays and labels.
        tasks: Tasks to evaluate.
        settings: Prediction points, baselines with their budget, and bootstrap.
        split: The split that is scored.
        seed: Seed of the fits, the trials and the bootstrap.
        runner: Runs the fits; None: one after another in this process. The result is the same.

    Raises:
        ConfigError: A name is no baseline's.
        EvaluationError: A model's predictions are NaN or infinite.
    """
    check_names(settings.baselines.names)
    return _Scoring(data, tasks, settings, split, seed).results(runner or InProcessRunner())


@dataclass
class _Scoring:
    data: LabelledStays
    tasks: Sequence[Task]
    settings: DownstreamConfig
    split: str
    seed: int
    predictions: dict[str, Predictions] = field(default_factory=dict)
    """method -> its predictions on tuning and on the scored split."""
    combined: dict[str, np.ndarray] = field(default_factory=dict)
    """task -> the ensemble's predictions on the scored split."""
    tuning: dict[str, dict[str, FitRecord]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tasks = list(self.tasks)
        self.points = {task.name: prediction_points(self.data.labels, self.data.stays, task, self.settings) for task in self.tasks}
        self.reasons = {
            task.name: why_not_estimable(task, self.points[task.name], self.split, self.settings.min_positives) for task in self.tasks
        }
        self.baselines = {name: load_baseline(name) for name in self.settings.baselines.names}
        self.without_score = not has_sofa(self.data.ingest, self.data.stays)

    def results(self, runner: Runner) -> BaselineResults:
        """All of them."""
        problem = self._problem()
        if problem is not None:
            for name, baseline in self.baselines.items():
                self._fit(name, baseline, problem, runner)
            if self.settings.baselines.ensemble:
                for task in self.tasks:
                    self._combine(task)
        return self._tables()

    def _problem(self) -> Problem | None:
        """The tasks that can be estimated, with the inputs that the baselines read; None where there is no such task."""
        estimable = [task for task in self.tasks if self.reasons[task.name] is None]
        if not estimable:
            return None
        used = [self.points[task.name] for task in estimable]
        stay_P, hour_P, found = union([own.where(np.isin(own.split_N, ["train", "tuning", self.split])) for own in used])
        reads = {part for baseline in self.baselines.values() for part in baseline.reads} - ({"sofa"} if self.without_score else set())
        inputs = build_inputs(self.data.ingest, self.data.stays, stay_P, hour_P, reads)
        tasks = [TaskPoints(task, self._hidden(points), rows_N) for task, (points, rows_N) in zip(estimable, found, strict=True)]
        return Problem(tuple(tasks), inputs)

    def _hidden(self, points: Points) -> Points:
        """The points without the labels of a split that is only scored."""
        return replace(points, label_N=np.where(np.isin(points.split_N, ["train", "tuning"]), points.label_N, np.nan))

    def _fit(self, name: str, baseline: Baseline, problem: Problem, runner: Runner) -> None:
        """Tune and fit one baseline on its tasks."""
        own = [one.task.name for one in problem.tasks if baseline.answers(one.task)]
        if not own or (self.without_score and "sofa" in baseline.reads):
            return
        started = time.monotonic()
        chosen = self.settings.baselines
        budget = Budget(chosen.num_trials, chosen.num_sequence_trials, chosen.max_trial_points, chosen.num_averaged, chosen.max_seconds)
        for group in [own] if baseline.together else [[task] for task in own]:
            part = problem.of(group)
            tuned = tune(name, part, budget, self.seed, runner)
            found = fit_averaged(part, tuned.kept, list(dict.fromkeys(["tuning", self.split])), self.seed, runner)
            self.predictions.setdefault(name, {}).update(found)
            losses = [outcome.loss for _, outcome in tuned.ran]
            record: FitRecord = {"settings": [trial.settings for trial in tuned.kept], "tuning_losses": losses, "weights": {}}
            self.tuning.setdefault(name, {})["all tasks" if baseline.together else group[0]] = record
        self.seconds[name] = time.monotonic() - started

    def _combine(self, task: Task) -> None:
        """The ensemble of the baselines that have something to tune, where there are two."""
        members = {name: found[task.name] for name, found in self.predictions.items() if self.baselines[name].space and task.name in found}
        if len(members) < 2:
            return
        label_N = self.points[task.name].of("tuning").label_N
        weights = ensemble.choose_members({name: own["tuning"] for name, own in members.items()}, label_N, task.is_classification)
        combined_N = ensemble.weighted({name: own[self.split] for name, own in members.items()}, weights)
        self.combined[task.name] = combined_N
        self.tuning.setdefault(ensemble.NAME, {})[task.name] = {"settings": [], "tuning_losses": [], "weights": weights}

    def _tables(self) -> BaselineResults:
        tables: TaskTables = {}
        regression: dict[str, dict[str, RegressionCell]] = {}
        kept = KeptPredictions()
        for task in self.tasks:
            scored = self.points[task.name].of(self.split)
            for method in [*(name for name, baseline in self.baselines.items() if baseline.answers(task)), ensemble.NAME]:
                found_N = self._scores(method, task)
                reason = self.reasons[task.name] or f"the data lack what {method} reads"
                if method == ensemble.NAME and found_N is None:
                    continue
                if found_N is not None:
                    kept.add(task.name, method, COLUMN, scored, found_N, "log_odds" if task.is_classification else "number")
                if not task.is_classification:
                    regression.setdefault(task.name, {})[method] = (
                        null_regression_cell(scored, reason)
                        if found_N is None
                        else regression_cell(scored, found_N, self.settings.num_bootstrap, self.seed)
                    )
                    continue
                cell = null_cell(scored, reason)
                if found_N is not None:
                    cell = score_cell(scored, found_N, self.settings.num_bootstrap, self.seed)
                tables.setdefault(task.name, {})[method] = {COLUMN: cell}
        return BaselineResults(tables, regression, kept.table(), self.tuning, self.seconds)

    def _scores(self, method: str, task: Task) -> np.ndarray | None:
        """Predictions of a method at the scored points of a task; None where it made none."""
        found = (
            self.combined.get(task.name) if method == ensemble.NAME else self.predictions.get(method, {}).get(task.name, {}).get(self.split)
        )
        return None if found is None else finite_scores(found, f"a prediction of the baseline {method}")
