"""`clinjepa data audit CONFIG`: the leak audit of a configuration's finished data stages; starts no cluster."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from clinjepa.clinical import load_tasks
from clinjepa.config import Config
from clinjepa.errors import LeakError, StoreError
from clinjepa.sources import open_source
from clinjepa.sources.extraction import read_partition
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.checks import AuditedData, Labelling, Sampling
from clinjepa.trajectory.audit.label_checks import relabeller
from clinjepa.trajectory.audit.leaks import audit
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage
from pipelines.stages.data_card import AUDIT, write_data_card

_STYLES = {"ok": "green", "leak": "bold red", "note": "yellow", "skipped": "dim"}
_console = Console()


def audit_data(config: Config, num_partitions: int = 4, num_stays: int = 200) -> None:
    """Print the checks and write `<storage>/runs/<name>/audit.json`.

    Raises StoreError when the ingest is not finished, LeakError when a check finds something.
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
    table = Table("check", "", "checked", "found", "", title=f"leak audit of {config.source.name}")
    for check in found["checks"]:
        style = _STYLES[check["outcome"]]
        counted = f"{check['num_checked']:,} {check['unit']}" if check["unit"] else ""
        number = "" if check["outcome"] == "skipped" else f"{check['num_found']:,}"
        table.add_row(check["name"], f"[{style}]{check['outcome']}[/]", counted, number, check["detail"])
    _console.print(table)
    _console.print(f"audit: {out.address}/{AUDIT}", highlight=False)
    if found["num_leaks"]:
        names = "; ".join(check["name"] for check in found["checks"] if check["outcome"] == "leak")
        raise LeakError(f"{found['num_leaks']} checks found a leak ({names}); docs/leak_audit.md says what each means and where to look")


def _finished(storage: Folder, stage: Stage) -> Folder | None:
    """The folder of a stage's artifact, its files verified by size; None when it is not finished."""
    artifact = Artifact.at(storage, stage.kind, stage.key)
    if not artifact.is_complete():
        return None
    artifact.verify()
    return artifact.folder


if __name__ == "__main__":
    from pipelines.cli import main

    main("data", "audit")
