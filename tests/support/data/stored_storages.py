"""Storages with runs whose artifacts are small made-up files, laid down without Ray: what their graphs say, with manifests and records."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from clinjepa.config import Config, load_config, save_config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION
from pipelines.graph.stage import Stage
from tests.support.machines.cli import ROOT, SMALL

BYTES = 1000
"""Of the one file that each artifact has beside its manifest."""


def run_config(storage: str, name: str, *overrides: str) -> Config:
    """The demo in miniature with one recipe; runs that differ in `curriculum.num_steps` share their data stages, base and SFT."""
    return load_config(ROOT / SMALL, [f"storage={storage}", f"name={name}", "grid.recipes=[clin_jepa]", *overrides])


def publish(storage: Folder, stages: Iterable[Stage], run_id: str = "test", seconds: float = 2.0) -> None:
    """Finish the stages that are not finished."""
    for stage in stages:
        artifact = Artifact.at(storage, stage.kind, stage.key)
        if artifact.is_complete():
            continue
        artifact.folder.write_bytes("content.bin", b"x" * BYTES)
        inputs = {role: upstream.key for role, upstream in stage.inputs.items()}
        artifact.publish(WorkRecord(stage.label, inputs, stage.settings, {}, seconds, num_workers=2, run_id=run_id))


def finish_run(config: Config, source_digest: str = "files") -> Experiment:
    """A finished run as older versions leave it: artifacts, configuration, report and record, and no attempt."""
    experiment = build_experiment(config, source_digest)
    storage = Folder(config.storage)
    publish(storage, experiment.stages)
    write_record(config, experiment)
    return experiment


def write_record(config: Config, experiment: Experiment) -> None:
    """config.yaml, run.json and a report."""
    folder = Folder(config.storage) / f"runs/{config.name}"
    folder.write_bytes("config.yaml", save_config(config).encode())
    folder.write_bytes("report.html", b"<html>")
    trials = [
        {
            "recipe": trial.recipe,
            "seed": trial.seed,
            "values": dict(trial.point.values),
            "artifacts": {stage.label: f"{stage.kind}/{stage.key}" for stage in trial.stages},
        }
        for trial in experiment.trials
    ]
    folder.write_json(RUN_RECORD, {"schema_version": RUN_SCHEMA_VERSION, "name": config.name, "trials": trials})


def names_of(stages: Iterable[Stage]) -> set[str]:
    return {f"{stage.kind}/{stage.key}" for stage in stages}


def stored(storage: Folder) -> set[str]:
    """`<kind>/<key>` of the folders that hold a file."""
    return {"/".join(path.split("/")[:2]) for path in storage.files("artifacts")}


def make_old(folder: Path, days: float) -> None:
    """Give every file below a folder the age of so many days."""
    then = time.time() - days * 86400
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
