"""`clinjepa report`: the report of finished stages; starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def report(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Write the report of finished stages again; starts nothing."""
    with one_line_errors(debug):
        report_finished(configured(config, overrides))


def report_finished(config: Config) -> None:
    """Write the report and print its address. Raises StoreError when no trial is finished."""
    from rich.console import Console

    from pipelines.graph.planning import plan_experiment
    from pipelines.results.run_report import write_report

    address = write_report(config, plan_experiment(config), run_id=None)
    Console(soft_wrap=True).print(f"report: {address}", highlight=False, markup=False)


if __name__ == "__main__":
    run_as_module(report, "report")
