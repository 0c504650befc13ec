"""What every command that trains does before it asks for a cluster."""

from __future__ import annotations

from collections.abc import Callable

from clinjepa.config import Config
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.scheduling.preflight import check_model, check_workers, warnings
from pipelines.scheduling.progress import console
from pipelines.scheduling.session import check_storage


def prepared(config: Config, look_at_storage: Callable[[Config], None] | None = None) -> Experiment:
    """The experiment's stages, after refusing what could not work and saying what will probably not work as hoped.

    look_at_storage: what the command refuses of a storage that answers, before the source is read.
    Raises ConfigError, StorageError, SourceError, what `look_at_storage` raises, and CheckpointError as `check_model`.
    """
    check_workers(config)
    check_storage(config)
    if look_at_storage is not None:
        look_at_storage(config)
    experiment = plan_experiment(config)
    check_model(config, experiment)
    for line in warnings(config):
        console.print(f"warning: {line}", highlight=False)
    return experiment
