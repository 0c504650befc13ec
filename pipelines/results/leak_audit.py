"""The leak audit of finished data stages, beside the run's report."""

from __future__ import annotations

from clinjepa.clinical import load_tasks
from clinjepa.config import Config
from clinjepa.errors import StoreError
from clinjepa.sources import open_source
from clinjepa.sources.extraction import read_partition
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.checks import AuditedData, AuditReport, Labelling, Sampling
from clinjepa.trajectory.audit.label_checks import relabeller
from clinjepa.trajectory.audit.leaks import audit
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage
from pipelines.stages.data_card import AUDIT, write_data_card


def audit_stages(config: Config, num_partitions: int, num_stays: int) -> tuple[AuditReport, str]:
    """Run every check, write `audit.json` into the run's folder and, where the trajectories are finished, the data card.

    Args:
        config: The configuration whose data stages are audited.
        num_partitions: Partitions of the source to read again.
        num_stays: Stays to rebuild from charts that are cut short.

    Returns:
        The result of `clinjepa.trajectory.audit.leaks.audit`, and the address of `audit.json`.

    Raises:
        StoreError: The ingest or its extraction is not finished, or was altered.
    """
    experiment = plan_experiment(config)
    storage = Folder(config.storage)
    ingest, store = (_finished(storage, stage) for stage in (experiment.ingest, experiment.trajectories))
    if ingest is None:
        raise StoreError(f"nothing to audit yet: the ingest of {config.name} is not finished in {storage.address}; run `clinjepa ingest`")
    source = open_source(config.source)
    tasks = load_tasks(experiment.labels.settings["tasks"])
    extract = experiment.ingest.inputs.get("extract")
    extracted = _finished(storage, extract) if extract is not None else None
    if extract is not None and extracted is None:
        raise StoreError(f"the extraction that the ingest of {config.name} was made of is gone; run `clinjepa ingest` to make it again")
    found = audit(
        AuditedData(ingest, store, _finished(storage, experiment.labels)),
        config,
        Sampling(
            {f"part-{index:05d}": partition for index, partition in enumerate(source.partitions())},
            lambda partition: read_partition(source, partition, extracted),
            num_partitions,
            num_stays,
        ),
        Labelling(tasks, relabeller(tasks, experiment.labels.settings["stay_prediction_hour"])),
    )
    out = storage / f"runs/{config.name}"
    out.write_json(AUDIT, {"name": config.source.name, "artifacts": {"ingest": experiment.ingest.key}, **found})
    if store is not None:
        write_data_card(config, experiment)
    return found, f"{out.address}/{AUDIT}"


def _finished(storage: Folder, stage: Stage) -> Folder | None:
    """The folder of a stage's artifact, after checking its files' sizes; None when the stage is not finished."""
    artifact = Artifact.at(storage, stage.kind, stage.key)
    if not artifact.is_complete():
        return None
    artifact.verify()
    return artifact.folder
