"""`clinjepa ingest`: hospital tables to trajectories and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def ingest(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Turn hospital tables into trajectories and labels, and write the data card."""
    with one_line_errors(debug):
        ingest_data(configured(config, overrides), debug)


def ingest_data(config: Config, debug: bool = False) -> None:
    """Run the unfinished data stages, print their folders and write the data card. Raises what `opened` and the stages raise."""
    from pipelines.scheduling.opening import opened, print_addresses
    from pipelines.scheduling.progress import console
    from pipelines.scheduling.runner import ensure
    from pipelines.stages.data_card import write_data_card
    from pipelines.stages.executors import EXECUTORS

    with opened(config, lambda experiment: experiment.data_stages, debug, trains=False, command="ingest") as run:
        for stage in run.experiment.data_stages:
            ensure(run.context, stage, EXECUTORS)
    print_addresses(config, run.experiment.data_stages)
    console.print(f"data card: {write_data_card(config, run.experiment)}", highlight=False, markup=False)


if __name__ == "__main__":
    run_as_module(ingest, "ingest")
