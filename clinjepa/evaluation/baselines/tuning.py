"""Tuning: which settings of a baseline are tried, and which are kept by the tuning split alone.

The trials of a baseline are drawn before any of them runs, so they can run anywhere and in any order: here, one after another, or on a
cluster (`pipelines/stages/baseline_trials.py`). The outcome of a trial is its loss on the tuning points, relative to that of a constant.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from scipy.stats import qmc

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.baselines.protocol import Baseline, Predictions, Problem, Setting, TaskPoints
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.metrics import log_loss


@dataclass(frozen=True)
class Budget:
    """How much a baseline may try on each problem: on each task, or on all together."""

    num_trials: int
    num_sequence_trials: int
    """Trials of a baseline whose model learns all tasks together."""
    max_trial_points: int
    """Training points of a task that a trial is fitted on; the chosen settings are fitted on all."""
    num_averaged: int = 1
    """Best settings whose models are averaged, where the task has at most `max_trial_points` training points."""
    max_seconds: float | None = None
    """Seconds after the first trial's start beyond which no trial starts."""


class Trial(NamedTuple):
    """One setting to fit and score on tuning points. number: its place among the trials; 0 is the defaults."""

    baseline: str
    settings: dict[str, Setting]
    number: int


class Outcome(NamedTuple):
    """loss: Mean over tasks of (tuning loss / loss of a constant prediction). It is not finite where the fit diverged."""

    number: int
    loss: float
    seconds: float


class Runner(Protocol):
    """Where fits run. The results are the same everywhere."""

    def trials(self, problem: Problem, trials: Sequence[Trial], max_seconds: float | None, seed: int) -> Iterable[Outcome]:
        """The outcomes of trials in any order; when the time is over, the rest may be left out.

        Args:
            problem: The points to fit and to score.
            trials: Of one baseline.
            max_seconds: Seconds after the first trial's start beyond which no trial starts; None: no limit.
            seed: Seed of the fits.
        """
        ...

    def fits(self, problem: Problem, trials: Sequence[Trial], splits: Sequence[str], seed: int) -> list[Predictions]:
        """The predictions of every trial on some splits.

        Args:
            problem: The points to fit and to predict.
            trials: Of one baseline.
            splits: Splits that are predicted.
            seed: Seed of the fits.

        Returns:
            Predictions in the order of `trials`.
        """
        ...


class InProcessRunner:
    """`Runner` in this process, one fit after another."""

    def trials(self, problem: Problem, trials: Sequence[Trial], max_seconds: float | None, seed: int) -> Iterator[Outcome]:
        """As of `Runner`; the first trial always runs."""
        started = time.monotonic()
        for trial in trials:
            if trial.number and max_seconds is not None and time.monotonic() - started > max_seconds:
                return
            yield run_trial(problem, trial, seed)

    def fits(self, problem: Problem, trials: Sequence[Trial], splits: Sequence[str], seed: int) -> list[Predictions]:
        """As of `Runner`."""
        return [load_baseline(trial.baseline).fit(problem, trial.settings, splits, seed) for trial in trials]


@dataclass(frozen=True)
class Tuned:
    """The trials that were kept, the best first, and the outcome of every trial that ran."""

    kept: list[Trial]
    ran: list[tuple[Trial, Outcome]] = field(default_factory=list)
    """Empty where there was only one trial: it is kept without being scored."""


def run_trial(problem: Problem, trial: Trial, seed: int) -> Outcome:
    """Fit one trial and measure it on the tuning points."""
    started = time.monotonic()
    predictions = load_baseline(trial.baseline).fit(problem, trial.settings, ["tuning"], seed)
    return Outcome(trial.number, tuning_loss(problem, predictions), time.monotonic() - started)


def tuning_loss(problem: Problem, predictions: Predictions) -> float:
    """Mean over tasks of (tuning loss / loss of a constant prediction).

    The loss is the log-loss, or the mean squared error of a regression task; the constant is the training mean.
    """
    return float(np.mean([_relative_loss(one, predictions[one.task.name]["tuning"]) for one in problem.tasks]))


def draw_trials(name: str, baseline: Baseline, num_trials: int, seed: int) -> list[Trial]:
    """The defaults, then settings drawn evenly from the space (Halton's sequence); one trial where there is no space.

    Args:
        name: The baseline's name.
        baseline: Its entry, with defaults and space.
        num_trials: Number of trials, the defaults among them.
        seed: Seed of the draws.
    """
    trials = [Trial(name, dict(baseline.defaults), 0)]
    if not baseline.space or num_trials < 2:
        return trials
    drawn = qmc.Halton(len(baseline.space), rng=np.random.default_rng([seed, zlib.crc32(name.encode())])).random(num_trials - 1)
    for place, shares in enumerate(drawn, start=1):
        own = {setting: dist.at(float(share)) for (setting, dist), share in zip(baseline.space.items(), shares, strict=True)}
        trials.append(Trial(name, {**baseline.defaults, **own}, place))
    return trials


def tune(name: str, problem: Problem, budget: Budget, seed: int, runner: Runner) -> Tuned:
    """Try settings of a baseline and keep those with the lowest tuning loss; of equal ones the first.

    Args:
        name: The baseline.
        problem: Its tasks: one, or all where the model learns them together.
        budget: How many trials, on how many points, for how long.
        seed: Seed of the draws and of the fits.
        runner: Runs the trials.

    Returns:
        The trials that were kept, the best first. There are several only where a task has few points (`Budget.num_averaged`). Also the
        outcome of every trial that ran.

    Raises:
        EvaluationError: The loss of every trial is NaN or infinite.
    """
    baseline = load_baseline(name)
    trials = draw_trials(name, baseline, budget.num_sequence_trials if baseline.together else budget.num_trials, seed)
    if len(trials) == 1:
        return Tuned(trials)
    limited = problem if baseline.together else problem.limited(budget.max_trial_points, seed)
    outcomes = {outcome.number: outcome for outcome in runner.trials(limited, trials, budget.max_seconds, seed)}
    ran = [(trial, outcomes[trial.number]) for trial in trials if trial.number in outcomes]
    finite = [(trial, outcome) for trial, outcome in ran if math.isfinite(outcome.loss)]
    if not finite:
        remedy = f"remove {name} from evaluation.downstream.baselines.names"
        raise EvaluationError(f"baseline {name}: the tuning loss of all {len(ran)} trials is NaN or infinite; {remedy}")
    is_small = not baseline.together and len(problem.only.points.of("train")) <= budget.max_trial_points
    best = sorted(finite, key=lambda pair: pair[1].loss)[: budget.num_averaged if is_small else 1]
    return Tuned([trial for trial, _ in best], ran)


def fit_averaged(problem: Problem, kept: Sequence[Trial], splits: Sequence[str], seed: int, runner: Runner) -> Predictions:
    """The mean of the predictions of one model per trial that was kept, each fitted on all points of train.

    Args:
        problem: The points to fit and to predict.
        kept: The trials that were kept.
        splits: Splits that are predicted.
        seed: Seed of the fits.
        runner: Runs the fits.
    """
    fits = runner.fits(problem, kept, splits, seed)
    return {
        one.task.name: {split: np.mean([found[one.task.name][split] for found in fits], axis=0) for split in splits}
        for one in problem.tasks
    }


def _relative_loss(one: TaskPoints, predicted_N: np.ndarray) -> float:
    train_N, label_N = one.points.of("train").label_N, one.points.of("tuning").label_N
    if one.task.is_classification:
        share = min(max(float(train_N.mean()), 1e-6), 1 - 1e-6)
        return log_loss(label_N, predicted_N) / log_loss(label_N, np.full(len(label_N), math.log(share / (1 - share))))
    constant = float(np.mean((label_N - train_N.mean()) ** 2))
    return float(np.mean((label_N - predicted_N) ** 2)) / max(constant, 1e-12)
