"""The data stages of a configuration, finished where the pipelines would put them, without a cluster."""

from __future__ import annotations

from pathlib import Path

from clinjepa.clinical import load_tasks
from clinjepa.config import Config
from clinjepa.sources import open_source
from clinjepa.sources.extraction import extract_all
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import build_labels, finish_labels
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage


def simulated(storage: Path, **sections: object) -> Config:
    """A small simulated data set."""
    source = {"kind": "simulator", "num_partitions": 2, "simulator": {"num_patients": 8, "mean_stay_hours": 16}}
    return Config(**({"name": "small", "storage": str(storage), "source": source, "tokenizer": {"vocab_size": 320}} | sections))


def finish_data(config: Config) -> dict[str, Artifact]:
    """Run ingest, tokenizer, trajectories and labels in this process; returns the published artifacts by kind."""
    experiment = plan_experiment(config)
    stages = {stage.kind: stage for stage in experiment.data_stages}
    artifacts = {kind: Artifact.at(Folder(config.storage), kind, stage.key) for kind, stage in stages.items()}
    ingest, tokenizer, store = (artifacts[kind].folder for kind in ("ingest", "tokenizer", "trajectories"))
    source = open_source(config.source)
    extracted = None
    if "extract" in stages:
        extracted = artifacts["extract"].folder
        _publish(artifacts["extract"], stages["extract"], {"left_out": extract_all(source, extracted, config.execution.memory_mb)})
    names = [f"part-{index:05d}" for index in range(len(source.partitions()))]
    for name, partition in zip(names, source.partitions(), strict=True):
        build_partition(source, partition, config, ingest, name, extracted)
    _publish(artifacts["ingest"], stages["ingest"], finish_ingest(ingest, config))
    _publish(artifacts["tokenizer"], stages["tokenizer"], build_tokenizer(ingest, tokenizer_settings(config), tokenizer))
    for name in names:
        build_trajectories(ingest, name, tokenizer, TrajectorySettings.of(config), store)
    _publish(artifacts["trajectories"], stages["trajectories"], finish_trajectories(ingest, store, TrajectorySettings.of(config)))
    settings, labels = stages["labels"].settings, artifacts["labels"].folder
    tasks = load_tasks(settings["tasks"])
    for name in names:
        build_labels(ingest, name, tasks, settings["stay_prediction_hour"], labels)
    _publish(artifacts["labels"], stages["labels"], finish_labels(ingest, tasks, labels))
    return artifacts


def _publish(artifact: Artifact, stage: Stage, metrics: dict) -> None:
    inputs = {name: upstream.key for name, upstream in stage.inputs.items()}
    artifact.publish(WorkRecord(label=stage.label, inputs=inputs, settings=stage.settings, metrics=metrics, seconds=1.0))
