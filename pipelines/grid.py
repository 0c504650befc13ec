"""`clinjepa grid`: every trial of the grid in parallel on Ray Tune, without a report; or a search for settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def grid(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train and evaluate every trial of the grid, in parallel on Ray Tune, and write a table of results; no report."""
    with one_line_errors(debug):
        run_grid(configured(config, overrides), debug)


def run_grid(config: Config, debug: bool = False) -> None:
    """Run all unfinished stages and write the results table.

    Raises ClinJepaError naming every trial that failed, and what `opened` raises.
    """
    from pipelines.results.grid_table import write_table
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.progress import console
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.running import raise_faults, run_trials

    if config.grid.search.metric is not None:
        _search(config, debug)
        return
    with opened(config, lambda experiment: experiment.stages, debug) as run:
        faults = run_trials(run.context, run.experiment, EXECUTORS)
    console.print(f"results: {write_table(config, run.experiment)}", highlight=False, markup=False)
    raise_faults(faults)


def _search(config: Config, debug: bool) -> None:
    """Run a search. Raises ConfigError before anything runs for one that cannot work, and what `run_grid` raises."""
    from dataclasses import replace

    from pipelines.scheduling.opening import opened
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.search_checks import check_search, search_config

    check_search(config)
    from pipelines.trials.running import raise_faults
    from pipelines.trials.searching import run_search

    with opened(search_config(config), lambda experiment: experiment.stages, debug) as run:
        faults = run_search(replace(run.context, config=config), run.experiment, EXECUTORS)
    raise_faults(faults)


if __name__ == "__main__":
    run_as_module(grid, "grid")
