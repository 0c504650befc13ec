"""An encoder worker of the pool that fills the latent store dies; the store comes out byte for byte as if none had."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from clinjepa.config import Config
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.storage import Folder
from pipelines.graph.artifacts import WorkRecord
from pipelines.graph.context import Executor
from pipelines.graph.stage import Stage
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import ray_session
from pipelines.stages.latents import run_embed_stage
from pipelines.stages.needs import embed_needs, least_embed_needs
from tests.support.training.curriculum_jobs import ENCODER, encoder_settings
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(300)]

NUM_PARTS = 12


def digests(latents: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in latents.glob("latents/*.safetensors")}


def encoder_workers() -> list[int]:
    """Process ids of the pool of this process's own Ray cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "_EmbedShards" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def kill_one_when_a_part_is_done(out: Path, killed: list[int]) -> None:
    deadline = time.monotonic() + 120
    while not digests(out) and time.monotonic() < deadline:
        time.sleep(0.001)
    if len(digests(out)) < NUM_PARTS and (workers := encoder_workers()):
        os.kill(workers[0], signal.SIGKILL)
        killed += workers[:1]


def test_a_killed_encoder_worker_costs_no_finished_part_and_changes_no_latent(tmp_path: Path) -> None:
    trajectories = make_trajectories(tmp_path, num_stays=240, num_parts=NUM_PARTS)
    make_base_and_latents(tmp_path, trajectories, encoder_settings())
    storage = Folder(tmp_path / "storage")
    config = Config(storage=storage.address, encoder=ENCODER, execution={"embed_workers": 2, "threads_per_worker": 1, "progress": False})
    settings = encoder_settings()
    reading = settings.reading(adapted=False)
    inputs = {
        "trajectories": Stage("trajectories", "trajectories", {}),
        "base": Stage("base", "base", {"encoder": settings.base.to_json()}),
    }
    stage = Stage("embed", "embed", reading.without_defaults(), inputs)
    executor = Executor(run_embed_stage, embed_needs, least=least_embed_needs)
    killed: list[int] = []
    with ray_session(config) as context:
        for name, upstream in inputs.items():
            artifact = context.artifact(upstream)
            artifact.folder.upload(str(tmp_path / name))
            artifact.publish(WorkRecord(label=name, inputs={}, settings={}, metrics={}, seconds=0.0))
        out = Path(context.artifact(stage).folder.address)
        killer = threading.Thread(target=kill_one_when_a_part_is_done, args=(out, killed))
        killer.start()
        ensure(context, stage, {"embed": executor})
        killer.join()
    assert len(killed) == 1, "no worker was killed while there was work left"
    alone = EmbedJob(str(tmp_path / "alone"), trajectories, str(tmp_path / "base"), None, settings.base, reading)
    for shard in {name.removesuffix(".parquet") for name in Folder(trajectories).names("shards")}:
        Embedder(alone).embed_shard(shard)
    assert len(digests(out)) == NUM_PARTS
    assert digests(out) == digests(tmp_path / "alone")
