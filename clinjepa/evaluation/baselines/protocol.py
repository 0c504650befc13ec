"""What a baseline is: a name, a space of settings, and one function that fits and predicts.

The function gets a `Problem`: prediction points of one task, or of all where one model learns them together. Labels of the scored split
are not in it. Everything that a baseline reads of a point is known at the end of the point's hour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np

from clinjepa.clinical import Task
from clinjepa.evaluation.baselines.hour_sequences import HourSequences
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.downstream.probe_rows import Rows
from clinjepa.evaluation.downstream.tabular_features import FeatureTable

Setting = float | int | str
Settings = Mapping[str, Setting]
Predictions = dict[str, dict[str, np.ndarray]]
"""task -> split -> predictions [N] at the task's points of the split, in their order: log-odds, or the number of a regression task."""


class LogUniform(NamedTuple):
    """Numbers whose logarithm is uniform; whole ones with `whole`."""

    low: float
    high: float
    whole: bool = False

    def at(self, share: float) -> Setting:
        """The value below which `share` of the distribution lies."""
        value = float(np.exp(np.log(self.low) + share * (np.log(self.high) - np.log(self.low))))
        return round(value) if self.whole else value


class Uniform(NamedTuple):
    """Numbers from `low` to `high`."""

    low: float
    high: float

    def at(self, share: float) -> Setting:
        """The value below which `share` of the distribution lies."""
        return self.low + share * (self.high - self.low)


class Choice(NamedTuple):
    """One of several values, equally likely."""

    values: tuple[Setting, ...]

    def at(self, share: float) -> Setting:
        """The value at the place `share` of the list."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)]


Space = Mapping[str, LogUniform | Uniform | Choice]
"""Setting -> its distribution; empty where a baseline has nothing to tune."""


@dataclass(frozen=True)
class Inputs:
    """What is known at P distinct points (stay_P, hour_P). Parts that no baseline of a run reads are None."""

    stay_P: np.ndarray
    hour_P: np.ndarray
    tabular: FeatureTable | None = None
    """Features of the points [P, F]; NaN = missing."""
    sofa_P: np.ndarray | None = None
    """SOFA score of the last 24 h; NaN = unknown."""
    sequences: HourSequences | None = None
    """The hours of the stays."""


@dataclass(frozen=True)
class TaskPoints:
    """The points of one task, with the row of each in the inputs. Labels of the scored split are NaN."""

    task: Task
    points: Points
    rows_N: np.ndarray

    def where(self, mask_N: np.ndarray) -> TaskPoints:
        """Some of the points."""
        return TaskPoints(self.task, self.points.where(mask_N), self.rows_N[mask_N])


@dataclass(frozen=True)
class Problem:
    """Tasks to fit, and what is known at their points. The splits are `train`, `tuning` and the one that is scored."""

    tasks: tuple[TaskPoints, ...]
    inputs: Inputs

    @property
    def only(self) -> TaskPoints:
        """The task of a problem with one."""
        (one,) = self.tasks
        return one

    def rows(self, x_PF: np.ndarray, split: str) -> Rows:
        """Rows [N, F] of an array over the inputs' points at the only task's points of a split, with their labels and patients."""
        own = self.only.where(self.only.points.split_N == split)
        return Rows(x_PF[own.rows_N], own.points.label_N, own.points.subject_N)

    def tabular(self) -> FeatureTable:
        """The features of the points."""
        assert self.inputs.tabular is not None, "the baseline's entry reads no tabular features"
        return self.inputs.tabular

    def sequences(self) -> HourSequences:
        """The hours of the stays."""
        assert self.inputs.sequences is not None, "the baseline's entry reads no sequences"
        return self.inputs.sequences

    def of(self, tasks: Sequence[str]) -> Problem:
        """The same with some of the tasks."""
        return replace(self, tasks=tuple(one for one in self.tasks if one.task.name in tasks))

    def limited(self, most_points: int, seed: int) -> Problem:
        """The same with all training points of random patients, at most so many a task; all where one class would be lost."""
        return replace(self, tasks=tuple(_limited(one, most_points, seed) for one in self.tasks))


class Fit(Protocol):
    """Fits on the points of `train`, may stop by those of `tuning`, and predicts at the points of some splits.

    Deterministic for a seed. A `Problem` with several tasks comes only to a baseline whose entry says `together`.
    """

    def __call__(self, problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions: ...


@dataclass(frozen=True)
class Baseline:
    """An entry of the table of baselines."""

    fit: Fit
    docs: str
    """One line: what it is, with the source of its default settings."""
    defaults: Settings = field(default_factory=dict)
    """The settings that are tried first."""
    space: Space = field(default_factory=dict)
    """Where further trials are drawn from; their other settings are the defaults."""
    reads: frozenset[str] = frozenset({"tabular"})
    """Parts of `Inputs`: `tabular`, `sofa`, `sequences`."""
    together: bool = False
    """One model learns all tasks; otherwise one per task."""
    answers: Callable[[Task], bool] = lambda task: True
    """Which tasks it can predict."""


def classification(task: Task) -> bool:
    """Answers of a baseline that predicts events only."""
    return task.is_classification


def regression(task: Task) -> bool:
    """Answers of a baseline that predicts numbers only."""
    return not task.is_classification


def _limited(one: TaskPoints, most_points: int, seed: int) -> TaskPoints:
    train_N = one.points.split_N == "train"
    if train_N.sum() <= most_points:
        return one
    subjects, counts = np.unique(one.points.subject_N[train_N], return_counts=True)
    order = np.random.default_rng([seed, 0x11D]).permutation(len(subjects))
    kept = subjects[order[np.cumsum(counts[order]) <= most_points]]
    found = one.where(~train_N | np.isin(one.points.subject_N, kept))
    labels_N = found.points.label_N[found.points.split_N == "train"]
    return one if len(np.unique(labels_N)) < 2 else found
