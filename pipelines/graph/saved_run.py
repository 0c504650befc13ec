"""A finished run as other commands use it: its configuration and its stage graph, without the data that it was made from.

The graph is computed again from the configuration in the run's folder and from the digest of the source's files that the ingest artifact
records. So the source itself is not needed, and a run of another format is found: its stages have other keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinjepa.config import Config
from clinjepa.config.load import apply_overrides, validated
from clinjepa.config.yaml_text import YamlFault, parse_yaml
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION, TrialRecord
from pipelines.graph.trial_stages import Trial

CONFIG_FILE = "config.yaml"
_RUNS = "runs"


@dataclass(frozen=True)
class SavedRun:
    """A run whose report is written."""

    config: Config
    experiment: Experiment
    trials: tuple[Trial, ...]
    """The finished ones, in the order of the record."""

    def artifact(self, kind: str, key: str) -> Artifact:
        """An artifact in the run's storage."""
        return Artifact.at(Folder(self.config.storage), kind, key)


def open_saved_run(address: str, overrides: Sequence[str] = ()) -> SavedRun:
    """The run in `<storage>/runs/<name>`, wherever the storage lies now.

    Args:
        address: The run's folder, on a disk or in an object store.
        overrides: Settings that change no result, such as `execution.use_gpu=true`.

    Raises:
        StoreError: The folder holds no finished run, or a run of another format version or of other clinical definitions.
        ConfigError: Its configuration cannot be used here, or an override changes a result.
    """
    folder = Folder(address)
    record = _record(folder)
    config = _config(folder, overrides)
    storage = Folder(config.storage)
    experiment = build_experiment(config, _source_digest(storage, record), label_digests=_label_digests(storage, record))
    return SavedRun(config, experiment, _trials(experiment, record, folder.address))


def _record(folder: Folder) -> list[TrialRecord]:
    """The finished trials of `run.json`."""
    if not folder.exists(RUN_RECORD) or not folder.exists(CONFIG_FILE):
        raise StoreError(
            f"{folder.address} holds no finished run: {RUN_RECORD} and {CONFIG_FILE} are written by `clinjepa run` or `clinjepa report`; "
            "give <storage>/runs/<name>"
        )
    record = folder.read_json(RUN_RECORD)
    found = record.get("schema_version") if isinstance(record, dict) else None
    if found != RUN_SCHEMA_VERSION:
        raise StoreError(f"{folder.address}/{RUN_RECORD} has schema version {found}, this clinjepa reads {RUN_SCHEMA_VERSION}")
    trials: list[TrialRecord] = record["trials"]
    if not trials:
        raise StoreError(f"{folder.address}/{RUN_RECORD} names no finished trial; run `clinjepa run` to its end first")
    return trials


def _config(folder: Folder, overrides: Sequence[str]) -> Config:
    """The run's configuration, with the storage that holds the run now."""
    where = f"{folder.address}/{CONFIG_FILE}"
    try:
        raw = parse_yaml(folder.read_bytes(CONFIG_FILE).decode())
    except (YamlFault, UnicodeDecodeError):
        raise StoreError(f"{where} is no configuration; write the report again with `clinjepa report`") from None
    if not isinstance(raw, dict):
        raise StoreError(f"{where} is no configuration; write the report again with `clinjepa report`")
    raw["storage"] = _storage_of(folder)
    for override in overrides:
        name = override.partition("=")[0]
        if not name.startswith("execution."):
            raise ConfigError(f"override {name}: a finished run keeps its settings; set execution.* here, and source.* of the new data")
    return validated(apply_overrides(raw, list(overrides)), where)


def _storage_of(folder: Folder) -> str:
    """The storage of a run's folder. Raises StoreError where the folder is not called `runs/<name>`."""
    parent, _, _ = folder.address.rstrip("/").rpartition("/")
    storage, _, runs = parent.rpartition("/")
    if runs != _RUNS or not storage:
        raise StoreError(f"{folder.address} is not <storage>/runs/<name>: the artifacts of the run are looked for two folders above it")
    return storage


def _source_digest(storage: Folder, record: Sequence[TrialRecord]) -> str:
    """Content digest of the source's files, as the ingest artifact records it."""
    names = {name for trial in record for name in trial["artifacts"].values() if name.startswith("ingest/")}
    for name in sorted(names):
        kind, _, key = name.partition("/")
        artifact = Artifact.at(storage, kind, key)
        if artifact.is_complete():
            return str(artifact.manifest()["settings"]["source"]["digest"])
    raise StoreError(f"{storage.address} lacks the ingest artifact of the run ({', '.join(sorted(names)) or 'none is named'})")


def _label_digests(storage: Folder, record: Sequence[TrialRecord]) -> dict[str, str]:
    """Content digests of the label files, as the labels artifacts record them; the files need not be there."""
    names = {name for trial in record for name in trial["artifacts"].values() if name.startswith("labels/")}
    artifacts = [Artifact.at(storage, *name.split("/", 1)) for name in sorted(names)]
    read = [artifact.manifest()["settings"].get("files", {}) for artifact in artifacts if artifact.is_complete()]
    return {task: str(given["digest"]) for files in read for task, given in files.items()}


def _trials(experiment: Experiment, record: Sequence[TrialRecord], address: str) -> tuple[Trial, ...]:
    """The trials of the record in the graph. Raises StoreError where the graph computed now has other stages."""
    found = []
    for finished in record:
        values = finished["values"]
        own = [
            trial
            for trial in experiment.trials
            if (trial.recipe, trial.seed) == (finished["recipe"], finished["seed"]) and dict(trial.point.values) == values
        ]
        keys = {f"{stage.kind}/{stage.key}" for trial in own for stage in trial.stages}
        if other := [name for name in finished["artifacts"].values() if name not in keys]:  # inputs come first
            raise StoreError(
                f"{address}: this clinjepa makes another {other[0].partition('/')[0]} than the run has ({len(other)} stages differ), "
                "because a format version or a clinical definition changed; use the version that made the run, or run it again"
            )
        found += own
    return tuple(found)
