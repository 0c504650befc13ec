"""Raw hospital tables read from a real S3 server, and everything that is made of them written there, are what they are on a disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clinjepa.config import Config
from clinjepa.config.schema import SimulatorConfig
from clinjepa.sources.simulated.mimic_writer import write_simulated_mimic
from clinjepa.storage import Folder
from pipelines.graph.context import RunContext
from pipelines.graph.planning import plan_experiment
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import ray_session
from pipelines.stages.executors import EXECUTORS

pytestmark = [pytest.mark.ray, pytest.mark.s3, pytest.mark.timeout(900)]

SIZE = {"cohort": {"min_stay_hours": 4}, "execution": {"local_num_cpus": 2, "memory_mb": 1600}}


def config(tables: str, storage: str) -> Config:
    return Config(storage=storage, source={"kind": "mimic_iv", "path": tables, "num_partitions": 2}, **SIZE)


def ingested(context: RunContext) -> dict[str, dict[str, str]]:
    """Stage kind -> its key and the SHA-256 of every file it left."""
    found = {}
    for stage in plan_experiment(context.config).data_stages:
        manifest = ensure(context, stage, EXECUTORS)
        found[stage.kind] = {"key": manifest["key"]} | {file["path"]: file["sha256"] for file in manifest["files"]}
    return found


def test_an_ingest_from_s3_to_s3_leaves_the_files_of_a_local_one(tmp_path: Path, s3_address: str) -> None:
    tables = tmp_path / "tables"
    write_simulated_mimic(Folder(tables), SimulatorConfig(num_patients=6, seed=3, mean_stay_hours=12))
    for place in ("hosp", "icu"):
        Folder(f"{s3_address}/tables").upload(tables / place, place)
    here, there = config(str(tables), str(tmp_path / "store")), config(f"{s3_address}/tables", f"{s3_address}/store")
    with ray_session(here) as context:
        on_disk, on_s3 = ingested(context), ingested(replace(context, config=there))
    assert on_disk.keys() == {"extract", "ingest", "tokenizer", "trajectories", "labels"}
    assert len(on_disk["labels"]) > 10
    assert on_s3 == on_disk
