"""Trials of baselines on Ray Tune: side by side on the cluster's CPUs, with the outcomes of one after another.

The settings of all trials are drawn before (`clinjepa/evaluation/baselines/tuning.py`), so Tune places them and chooses nothing. Used with
`execution.tune_baselines`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import TypedDict

import ray
import ray.tune

from clinjepa.errors import EvaluationError, in_safe_words, values_hidden
from clinjepa.evaluation.baselines.protocol import Problem
from clinjepa.evaluation.baselines.tuning import InProcessRunner, Outcome, Trial, run_trial
from pipelines.scheduling.tune_environment import keep_credentials_out

_NO_CPU = ray.tune.PlacementGroupFactory([{"memory": 1}])
"""The number of trials at a time follows the CPUs instead: reserved ones could wait for the stage that waits for the trials."""


class _Parameters(TypedDict):
    """What Tune gives one trial."""

    place: int


class TuneRunner(InProcessRunner):
    """`Runner` whose trials run on Ray Tune; the fits of the settings that are kept run in this process."""

    def trials(self, problem: Problem, trials: Sequence[Trial], max_seconds: float | None, seed: int) -> Iterator[Outcome]:
        """As of `Runner`. Trials that run when the time is over end without an outcome.

        Raises:
            EvaluationError: a trial failed.
        """
        at_a_time = max(1, int(ray.cluster_resources().get("CPU", 1)))
        with tempfile.TemporaryDirectory(prefix="clinjepa-baselines-") as scratch:
            trainable = ray.tune.with_parameters(_trial, problem=problem, trials=tuple(trials), seed=seed)
            keep_credentials_out()
            tuner = ray.tune.Tuner(
                ray.tune.with_resources(trainable, _NO_CPU),
                param_space={"place": ray.tune.grid_search(list(range(len(trials))))},
                tune_config=ray.tune.TuneConfig(max_concurrent_trials=at_a_time, time_budget_s=max_seconds),
                run_config=ray.tune.RunConfig(name="baselines", storage_path=scratch, verbose=0),
            )
            results = tuner.fit()
        for result in (results[index] for index in range(len(results))):
            if result.error is not None:
                raise EvaluationError(f"a trial of the baseline {trials[0].baseline} failed: {in_safe_words(result.error)}")
            if result.metrics and "number" in result.metrics:
                yield Outcome(result.metrics["number"], result.metrics["loss"], result.metrics["seconds"])


def _trial(parameters: _Parameters, problem: Problem, trials: Sequence[Trial], seed: int) -> None:
    import torch

    torch.set_num_threads(1)
    with values_hidden():
        outcome = run_trial(problem, trials[parameters["place"]], seed)
    ray.tune.report(outcome._asdict())
