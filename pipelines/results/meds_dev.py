"""What `clinjepa meds-dev` trains and predicts: one configuration on a MEDS data set with a label file as its only task.

The folder of a training holds `config.yaml` and `meds_dev.json` (digests of the data set and of the labels). From them the stages are
computed again, so a prediction finds exactly the artifacts of that training, and needs no cluster.
"""

from __future__ import annotations

from typing import Any, TypedDict

import polars as pl
import pyarrow as pa

from clinjepa.config import Config, load_config
from clinjepa.config.load import validated
from clinjepa.config.yaml_text import YamlFault, parse_yaml
from clinjepa.errors import SourceError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.labels.label_files import LabelFile
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.planning import source_digest
from pipelines.graph.saved_run import CONFIG_FILE
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial

TASK = "meds_dev"
"""Name of the only task: that of the label file."""
RECORD, PREDICTIONS = "meds_dev.json", "predictions.parquet"
SCHEMA_VERSION = 1
_SPLITS = "metadata/subject_splits.parquet"


class TrainingRecord(TypedDict):
    """What a training was made from. label_digest: empty before there are labels."""

    schema_version: int
    source_digest: str
    label_digest: str


def benchmark_config(path: str, overrides: list[str], dataset: str, storage: str, labels: str = "") -> Config:
    """A configuration's first recipe and seed on a MEDS data set with its own split, and the label file as the only task.

    Args:
        path: The configuration; its source, split, tasks and storage are replaced.
        overrides: `key=value` pairs.
        dataset: Root of the data set, with data/ and metadata/.
        storage: Where artifacts are written.
        labels: Folder of the label files; empty before there are labels.

    Raises:
        ConfigError: The configuration cannot be used.
    """
    raw: dict[str, Any] = load_config(path, overrides).model_dump(mode="json")
    raw |= {"name": TASK, "storage": storage}
    raw["source"] |= {"kind": "meds", "path": dataset, "name": "MEDS data set"}
    raw["split"]["use_source_split"] = True
    raw["labels"] = {"tasks": [], "files": {TASK: {"path": labels, "column": "boolean_value"}} if labels else {}}
    evaluation = raw["evaluation"]
    evaluation["downstream"]["tasks"] = [TASK] if labels else []
    evaluation["forecasts"]["enabled"] = evaluation["added_value"]["enabled"] = False
    raw["grid"] |= {"recipes": raw["grid"]["recipes"][:1], "seeds": raw["grid"]["seeds"][:1], "axes": {}}
    return validated(raw, path)


def read_storage(model: str) -> str:
    """The storage of an earlier training's folder. Raises StoreError where the folder holds none."""
    return _config(Folder(model)).storage


def write_training(out: Folder, config: Config, experiment: Experiment) -> None:
    """Write `config.yaml` and last `meds_dev.json`."""
    from clinjepa.config import save_config

    files = experiment.labels.settings.get("files", {})
    record: TrainingRecord = {
        "schema_version": SCHEMA_VERSION,
        "source_digest": experiment.ingest.settings["source"]["digest"],
        "label_digest": files[TASK]["digest"] if TASK in files else "",
    }
    out.write_bytes(CONFIG_FILE, save_config(config).encode())
    out.write_json(RECORD, record)


def predict_split(model: Folder, dataset: str, labels: str, split: str) -> tuple[pa.Table, str]:
    """Predictions at the rows of the label files that belong to a split's subjects.

    Args:
        model: Folder of a training with labels.
        dataset: Root of the data set that it was trained on.
        labels: Folder of the label files, of the training or others.
        split: train, tuning or held_out of the data set's `subject_splits.parquet`.

    Returns:
        (a table of `ROW_PREDICTIONS`, a line on what the rows were predicted from).

    Raises:
        StoreError: The folder holds no training with labels, its artifacts are missing, or the data set is another.
        SourceError: The labels or the split cannot be read.
        EvaluationError: The training could not fit the task.
    """
    from clinjepa.evaluation.downstream.fitted import FittedProbes
    from clinjepa.evaluation.given_rows import predict_rows
    from clinjepa.model.predictor import load_predictor
    from clinjepa.trajectory.tokens.latent_store import LatentReader

    trial, storage = _trained(model, dataset)
    downstream = trial.evaluations["downstream"]
    probes, predictor, latents, ingest = (
        _finished(storage, stage) for stage in (downstream, downstream.inputs["predictor"], trial.embed, trial.data.ingest)
    )
    rows = LabelFile(TASK, labels, "boolean_value").rows(_subjects(Folder(dataset), split))
    table, counts = predict_rows(
        load_predictor(predictor), LatentReader(latents), ingest.read_table("stays.parquet"), FittedProbes.read(probes), TASK, rows
    )
    others = counts["before_first_hour"] + counts["outside_stays"]
    line = f"{counts['num_rows']} rows of {split}: {counts['at_an_hour']} at an hour of a kept stay"
    if others:
        line += f"; {others} get the share of positive training labels: {counts['before_first_hour']} in the first hour of a stay, "
        line += f"{counts['outside_stays']} outside kept stays"
    return table, line


def _trained(model: Folder, dataset: str) -> tuple[Trial, Folder]:
    """The trial of a training with labels, and its storage."""
    record: TrainingRecord = model.read_json(RECORD) if model.exists(RECORD) else _no_training(model)
    if record["schema_version"] != SCHEMA_VERSION:
        raise StoreError(f"{model.address}/{RECORD} has schema version {record['schema_version']}, this clinjepa reads {SCHEMA_VERSION}")
    if not record["label_digest"]:
        raise StoreError(f"{model.address} holds a training without labels; run `clinjepa meds-dev train` first")
    config = _config(model)
    config = config.model_copy(update={"source": config.source.model_copy(update={"path": dataset})})
    if source_digest(config) != record["source_digest"]:
        raise StoreError(
            f"{dataset} is not the data set that {model.address} was trained on; give that one, or score others with `clinjepa score`"
        )
    experiment = build_experiment(config, record["source_digest"], label_digests={TASK: record["label_digest"]})
    return experiment.trials[0], Folder(config.storage)


def _no_training(model: Folder) -> TrainingRecord:
    raise StoreError(f"{model.address} holds no {RECORD}; run `clinjepa meds-dev train --output` with this folder first")


def _config(model: Folder) -> Config:
    """The configuration of a training."""
    where = f"{model.address}/{CONFIG_FILE}"
    if not model.exists(CONFIG_FILE):
        _no_training(model)
    try:
        return validated(parse_yaml(model.read_bytes(CONFIG_FILE).decode()), where)
    except (YamlFault, UnicodeDecodeError):
        raise StoreError(f"{where} is no configuration; train again") from None


def _finished(storage: Folder, stage: Stage) -> Folder:
    artifact = Artifact.at(storage, stage.kind, stage.key)
    if not artifact.is_complete():
        raise StoreError(
            f"{storage.address} lacks the {stage.label} of this training; run `clinjepa meds-dev train` with this clinjepa again"
        )
    artifact.verify()
    return artifact.folder


def _subjects(dataset: Folder, split: str) -> pl.Series:
    """The subjects of a split."""
    where = f"{dataset.address}/{_SPLITS}"
    if not dataset.exists(_SPLITS):
        raise SourceError(f"{where} is missing; MEDS-DEV needs the split of every subject")
    table = pl.DataFrame(dataset.read_table(_SPLITS))
    if missing := {"subject_id", "split"} - set(table.columns):
        raise SourceError(f"{where}: column {sorted(missing)[0]!r} is missing; MEDS has subject_id and split")
    subjects = table.filter(pl.col("split").cast(pl.String) == split)["subject_id"].cast(pl.Int64)
    if not len(subjects):
        raise SourceError(f"{where} has no subject in {split}; MEDS's splits are train, tuning and held_out")
    return subjects
