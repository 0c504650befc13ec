"""`clinjepa pretrain`: one recipe, phase by phase, each a Ray Train stage that starts from the checkpoint of the phase before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def pretrain(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train the first recipe of the grid with its first seed and no axes, phase by phase; no evaluation."""
    with one_line_errors(debug):
        pretrain_first_trial(configured(config, overrides), debug)


def pretrain_first_trial(config: Config, debug: bool = False) -> None:
    """Run the unfinished phases of the first trial and print their folders. Raises what `opened` and the stages raise."""
    from clinjepa.config.axes import without_axes
    from pipelines.scheduling.opening import opened, print_addresses
    from pipelines.scheduling.runner import ensure
    from pipelines.stages.executors import EXECUTORS

    config = without_axes(config)
    first = config.grid.model_copy(update={"recipes": config.grid.recipes[:1], "seeds": config.grid.seeds[:1]})
    config = config.model_copy(update={"grid": first})
    with opened(config, lambda experiment: experiment.trials[0].phases[-1:], debug, command="pretrain") as run:
        phases = run.experiment.trials[0].phases
        for stage in phases:
            ensure(run.context, stage, EXECUTORS, phases[-1].depth)
    print_addresses(config, phases)


if __name__ == "__main__":
    run_as_module(pretrain, "pretrain")
