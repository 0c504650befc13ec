"""A finished run as other commands use it: its configuration and its stage graph, without the data that it was made from.

The graph is computed again from the configuration in the run's folder and from the digest of the source's files that the ingest artifact
records. So the source itself is not needed, and a run of another format is found: its stages have other keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from clinjepa.config import Config
from clinjepa.config.axes import grid_points
from clinjepa.config.load import apply_overrides, validated
from clinjepa.config.section import result_fields
from clinjepa.config.yaml_text import YamlFault, parse_yaml
from clinjepa.errors import ConfigError, StoreError, counted
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION, TrialRecord
from pipelines.graph.trial_stages import Start, Trial

CONFIG_FILE = "config.yaml"
FITTED = "fitted"
"""Input of an evaluation of other patients: the run's evaluation, which fitted its parts."""
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
        StoreError: The folder holds no finished run, a scoring of other patients, or a run of another format version or of other
            clinical definitions.
        ConfigError: Its configuration cannot be used here, or an override changes a result.
    """
    folder = Folder(address)
    record = finished_trials(folder)
    config = _config(folder, overrides)
    storage = Folder(config.storage)
    digests = _source_digests(storage, record)
    given = _label_digests(storage, record)
    start = read_start(config)
    experiments = [build_experiment(config, digest, label_digests=given, start=start) for digest in digests]
    different = [_different(experiment, record) for experiment in experiments]
    nearest = min(range(len(digests)), key=lambda place: len(different[place]))
    if other := different[nearest]:
        if _is_scoring(storage, record):
            raise StoreError(f"{folder.address} is the report of a scoring of other patients: name the run that it froze")
        raise StoreError(
            f"{folder.address}: this clinjepa makes another {other[0].partition('/')[0]} than the run has ({_differ(len(other))}), "
            "because a format version or a clinical definition changed; use the version that made the run, or run it again"
        )
    trials = tuple(trial for finished in record for trial in _of_record(experiments[nearest], finished))
    return SavedRun(config, experiments[nearest], trials)


def _differ(number: int) -> str:
    return f"{counted(number, 'stage')} {'differs' if number == 1 else 'differ'}"


def read_start(config: Config) -> Start | None:
    """What the run of `init_from` made, for recipes that continue it; None where it names no run.

    Raises:
        StoreError: As `open_saved_run`; or the run lies in another storage.
        ConfigError: The run has no such recipe or seed, or its encoder, predictor or tokenizer have other settings than this experiment's.
    """
    asked = config.init_from
    if asked.run is None:
        return None
    run = open_saved_run(str(asked.run))
    if Folder(run.config.storage).address != Folder(config.storage).address:
        raise StoreError(
            f"init_from.run lies in the storage {run.config.storage}, this experiment in {config.storage}; set storage={run.config.storage}"
        )
    found = [trial for trial in run.trials if asked.recipe in (None, trial.recipe) and asked.seed in (None, trial.seed)]
    if not found:
        there = ", ".join(dict.fromkeys(trial.name for trial in run.trials))
        wanted = " and ".join(f"init_from.{name}={value}" for name in ("recipe", "seed") if (value := getattr(asked, name)) is not None)
        raise ConfigError(f"the run has no finished trial of {wanted}; it has {there}")
    trial = found[0]
    for point in grid_points(config):
        _check_sizes(point.config, trial.point.config)
    for stage in trial.stages:
        stage.label += f" · {run.config.name}"  # beside the stages of this experiment, which have the same names
    downstream = trial.evaluations["downstream"]
    return Start(trial.data.tokenizer, trial.embed.inputs["base"], trial.embed.inputs.get("encoder"), downstream.inputs["predictor"])


def _check_sizes(config: Config, run: Config) -> None:
    """Raise ConfigError where encoder, predictor or tokenizer are not those of the run that is continued."""
    for section in ("encoder", "predictor", "tokenizer"):
        own, other = (result_fields(getattr(each, section)) for each in (config, run))
        if different := sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name)):
            raise ConfigError(
                f"init_from.run has other settings: {', '.join(f'{section}.{name}' for name in different)}; give this experiment the same"
            )


def finished_trials(folder: Folder) -> list[TrialRecord]:
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
    raw["storage"] = storage_of(folder)
    for override in overrides:
        name = override.partition("=")[0]
        if not name.startswith("execution."):
            raise ConfigError(f"override {name}: a finished run keeps its settings; set execution.* here, and source.* of the new data")
    return validated(apply_overrides(raw, list(overrides)), where)


def storage_of(folder: Folder) -> str:
    """The storage of a run's folder. Raises StoreError where the folder is not called `runs/<name>`."""
    parent, _, _ = folder.address.rstrip("/").rpartition("/")
    storage, _, runs = parent.rpartition("/")
    if runs != _RUNS or not storage:
        raise StoreError(f"{folder.address} is not <storage>/runs/<name>: the artifacts of the run are looked for two folders above it")
    return storage


def _source_digests(storage: Folder, record: Sequence[TrialRecord]) -> list[str]:
    """Content digests of the source's files, as the ingest artifacts record them: also that of a run that this one continues."""
    names = {name for trial in record for name in trial["artifacts"].values() if name.startswith("ingest/")}
    artifacts = [Artifact.at(storage, *name.split("/")) for name in sorted(names)]
    found = [str(artifact.manifest()["settings"]["source"]["digest"]) for artifact in artifacts if artifact.is_complete()]
    if not found:
        raise StoreError(f"{storage.address} lacks the ingest artifact of the run ({', '.join(sorted(names)) or 'none is named'})")
    return list(dict.fromkeys(found))


def _is_scoring(storage: Folder, record: Sequence[TrialRecord]) -> bool:
    """Whether a record is of `clinjepa score`: its evaluations have what a run fitted among their inputs."""
    names = {name for trial in record for name in trial["artifacts"].values() if name.startswith("downstream/")}
    artifacts = [Artifact.at(storage, *name.split("/")) for name in sorted(names)]
    return any(FITTED in artifact.manifest()["inputs"] for artifact in artifacts if artifact.is_complete())


def _label_digests(storage: Folder, record: Sequence[TrialRecord]) -> dict[str, str]:
    """Content digests of the label files, as the labels artifacts record them; the files need not be there."""
    names = {name for trial in record for name in trial["artifacts"].values() if name.startswith("labels/")}
    artifacts = [Artifact.at(storage, *name.split("/", 1)) for name in sorted(names)]
    read = [artifact.manifest()["settings"].get("files", {}) for artifact in artifacts if artifact.is_complete()]
    return {task: str(given["digest"]) for files in read for task, given in files.items()}


def _of_record(experiment: Experiment, finished: TrialRecord) -> list[Trial]:
    """The trials of an experiment that a record names."""
    asked = finished["recipe"], finished["seed"], finished["values"]
    return [trial for trial in experiment.trials if (trial.recipe, trial.seed, dict(trial.point.values)) == asked]


def _different(experiment: Experiment, record: Sequence[TrialRecord]) -> list[str]:
    """`<kind>/<key>` of the record's artifacts that the experiment does not make, inputs first."""
    found = []
    for finished in record:
        keys = {f"{stage.kind}/{stage.key}" for trial in _of_record(experiment, finished) for stage in trial.stages}
        found += [name for name in finished["artifacts"].values() if name not in keys]
    return found
