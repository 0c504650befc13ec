"""`clinjepa run`: the main job, from hospital tables to a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def run(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Run everything: data, five phases for every recipe and seed, evaluations, report."""
    with one_line_errors(debug):
        run_experiment(configured(config, overrides), debug)


def run_experiment(config: Config, debug: bool = False) -> None:
    """Run all unfinished stages, then write the report, also when some trials failed.

    Raises ClinJepaError naming every trial that failed, and what `opened` raises.
    """
    import time

    from clinjepa.errors import ConfigError

    if config.grid.search.metric is not None:
        raise ConfigError(
            "grid.search chooses settings on tuning patients and compares nothing; run it with `clinjepa grid`, then put the best settings "
            "into the configuration and set grid.search.metric=null"
        )
    from pipelines.results.run_report import write_report
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.progress import console
    from pipelines.stages.executors import EXECUTORS
    from pipelines.trials.running import raise_faults, run_trials

    started = time.monotonic()
    with opened(config, lambda experiment: experiment.stages, debug, writes_report=True) as run:
        faults = run_trials(run.context, run.experiment, EXECUTORS)
    if sum(fault.is_trial for fault in faults) == len(run.experiment.trials):
        raise_faults(faults)
    address = write_report(config, run.experiment, run.context.run_id)
    console.print(f"report: {address} ({time.monotonic() - started:.0f} s)", highlight=False, markup=False)
    raise_faults(faults)


if __name__ == "__main__":
    run_as_module(run, "run")
