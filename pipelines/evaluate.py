"""`clinjepa evaluate`: drift, geometry, downstream and round trip of every recipe and seed, and the baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config
    from pipelines.graph.experiment import Experiment
    from pipelines.graph.stage import Stage


def evaluate(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Evaluate every recipe and seed, after running the stages that the evaluations need."""
    with one_line_errors(debug):
        evaluate_trials(configured(config, overrides), debug)


def evaluate_trials(config: Config, debug: bool = False) -> None:
    """Run the unfinished evaluations and print their folders. Raises what `opened` and the stages raise."""
    from pipelines.scheduling.opening import opened, print_addresses
    from pipelines.scheduling.runner import ensure
    from pipelines.stages.executors import EXECUTORS

    with opened(config, _evaluations, debug, command="evaluate") as run:
        stages = _evaluations(run.experiment)
        for stage in stages:
            ensure(run.context, stage, EXECUTORS)
    print_addresses(config, stages)


def _evaluations(experiment: Experiment) -> list[Stage]:
    return [*(data.baselines for data in experiment.data), *(stage for trial in experiment.trials for stage in trial.evaluations.values())]


if __name__ == "__main__":
    run_as_module(evaluate, "evaluate")
