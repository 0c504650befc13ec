"""`clinjepa grid`: every recipe with every seed as parallel Ray Tune trials, without a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def grid(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train and evaluate every recipe with every seed, in parallel on Ray Tune; no report."""
    with one_line_errors(debug):
        run_grid(configured(config, overrides), debug)


def run_grid(config: Config, debug: bool = False) -> None:
    """Run all unfinished stages. Raises ClinJepaError naming every trial that failed, and what `opened` raises."""
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.trials import raise_faults, run_trials
    from pipelines.stages.executors import EXECUTORS

    with opened(config, lambda experiment: experiment.stages, debug) as run:
        raise_faults(run_trials(run.context, run.experiment, EXECUTORS))


if __name__ == "__main__":
    run_as_module(grid, "grid")
