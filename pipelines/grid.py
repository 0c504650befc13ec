"""`clinjepa grid`: every trial of the grid in parallel on Ray Tune, without a report; or a search for settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config
    from pipelines.graph.experiment import Experiment
    from pipelines.graph.stage import Stage


def grid(
    config: ConfigPath,
    overrides: Overrides = None,
    no_evaluation: Annotated[
        bool, typer.Option("--no-evaluation", help="Train only: the table has costs, the last losses and the tuning L1 of every trial.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train and evaluate every trial of the grid, in parallel on Ray Tune, and write a table of results; no report."""
    with one_line_errors(debug):
        asked = configured(config, overrides, *(["--no-evaluation"] if no_evaluation else []))
        run_grid(asked, debug, evaluates=not no_evaluation)


def run_grid(config: Config, debug: bool = False, evaluates: bool = True) -> None:
    """Run all unfinished stages and write the results table. evaluates: False runs the phases and what they need only.

    Raises ClinJepaError naming every trial that failed, ConfigError for a search without evaluations, and what `opened` raises.
    """
    from clinjepa.errors import ConfigError
    from pipelines.results.grid_table import write_table
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.progress import console
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.running import raise_faults, run_trials

    if config.grid.search.metric is not None:
        if not evaluates:
            raise ConfigError("--no-evaluation belongs to a grid; a search runs what grid.search.metric needs: leave one of them out")
        _search(config, debug)
        return

    def asked(experiment: Experiment) -> list[Stage]:
        return experiment.stages if evaluates else [stage for trial in experiment.trials for stage in trial.phases]

    with opened(config, asked, debug, command="grid") as run:
        faults = run_trials(run.context, run.experiment, EXECUTORS, evaluates)
    console.print(f"results: {write_table(config, run.experiment)}", highlight=False, markup=False)
    raise_faults(faults)


def _search(config: Config, debug: bool) -> None:
    """Run a search. Raises ConfigError before anything runs for one that cannot work, and what `run_grid` raises."""
    from dataclasses import replace

    from pipelines.scheduling.attempting import SEARCH
    from pipelines.scheduling.opening import opened
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.search_checks import check_search, search_config

    check_search(config)
    from pipelines.trials.running import raise_faults
    from pipelines.trials.searching import run_search

    with opened(search_config(config), lambda experiment: experiment.stages, debug, command=SEARCH) as run:
        faults = run_search(replace(run.context, config=config), run.experiment, EXECUTORS)
    raise_faults(faults)


if __name__ == "__main__":
    run_as_module(grid, "grid")
