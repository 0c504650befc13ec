"""What every command that runs stages opens: the checks before the cluster, the cluster, the checks on it, the display of progress."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from clinjepa.config import Config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.experiment import Experiment
from pipelines.graph.stage import Stage
from pipelines.scheduling.attempting import attempted
from pipelines.scheduling.preflight import check_before_cluster, check_on_cluster, check_storage
from pipelines.scheduling.progress import console, say_what_is_reused, watch
from pipelines.scheduling.session import ray_session


@dataclass(frozen=True)
class OpenRun:
    """A run whose checks have passed, connected to a cluster."""

    context: RunContext
    experiment: Experiment


@contextlib.contextmanager
def opened(
    config: Config,
    stages_of: Callable[[Experiment], Sequence[Stage]],
    debug: bool,
    trains: bool = True,
    writes_report: bool = False,
    experiment: Experiment | None = None,
    command: str = "run",
) -> Iterator[OpenRun]:
    """Check, connect, check the cluster, then show progress until the block ends.

    Args:
        config: The configuration, with absolute addresses.
        stages_of: The stages that the block will run; their inputs are added here.
        debug: Show Ray's logs.
        trains: False where only data stages run, which need neither the model nor workers.
        writes_report: Also refuse a run folder of another schema version.
        experiment: The stages, where they do not follow from the configuration alone; the storage alone is then checked before.
        command: Name of the command, under which the attempt is recorded (`attempting`).

    Raises:
        ConfigError, StorageError, SourceError, StoreError, CheckpointError: As `check_before_cluster`.
        ResourceError: Ray does not start, or the cluster lacks GPUs or CPUs and gets none.
    """
    if experiment is None:
        experiment = check_before_cluster(config, trains, writes_report)
    else:
        check_storage(config)
    stages = list({stage.key: stage for asked in stages_of(experiment) for stage in asked.closure()}.values())
    with attempted(config, command, stages) as record:
        say_what_is_reused(config, stages)
        with ray_session(config, debug) as context:
            check_on_cluster(context, stages)
            record.joined(context.run_id)
            with watch(context.coordinator, config.execution.progress):
                yield OpenRun(context, experiment)


def print_addresses(config: Config, stages: Sequence[Stage]) -> None:
    """One line on standard error per finished stage: its label and its folder."""
    storage = Folder(config.storage)
    for stage in stages:
        console.print(f"{stage.label}: {Artifact.at(storage, stage.kind, stage.key).folder.address}", highlight=False, markup=False)
