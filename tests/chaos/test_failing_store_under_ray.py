"""A training on Ray whose storage fails for a while or for good: an object store that does not answer, a disk that is full."""

from __future__ import annotations

from dataclasses import replace

import pytest

from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.storage import Folder
from clinjepa.storage.s3 import PATIENCE_VARIABLE
from tests.support.machines.ray_nodes import RayNodes
from tests.support.machines.small_disk import fill, small_disk
from tests.support.training.trainings import EVERY, Inputs

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture
def job(inputs: Inputs, s3_address: str) -> PhaseJob:
    """A warmup whose inputs are in the object store."""
    job = inputs.job("warmup", 16 * EVERY, Folder(s3_address) / "unused")
    places = {}
    for name in ("trajectories", "latents", "base"):
        places[name] = f"{s3_address}/{name}"
        Folder(places[name]).upload(getattr(job, name))
    return replace(job, **places)


@pytest.mark.s3
@pytest.mark.parametrize("mode", ["503", "hang"])
def test_it_is_waited_for_and_no_worker_group_starts_anew(job, inputs, started, s3_server, s3_address, proxy, tmp_path, mode):
    env = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.address}
    with RayNodes(head_cpus=2, env=env) as nodes:
        training = started(nodes, job, tmp_path, f"{s3_address}/store")
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        saved = training.saved()
        proxy.fail_for(mode, 30.0)
        training.finish(400)
    assert proxy.counts[mode] > 0
    assert saved < job.num_steps
    assert [start["step"] for start in training.starts()] == [0]
    training.assert_same_losses(inputs)


@pytest.mark.s3
def test_when_it_stays_away_the_training_ends_with_one_line_and_goes_on_later(job, inputs, started, s3_server, s3_address, proxy, tmp_path):
    env = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.address, PATIENCE_VARIABLE: "6"}
    with RayNodes(head_cpus=2, env=env) as nodes:
        training = started(nodes, job, tmp_path, f"{s3_address}/store")
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        proxy.mode = "503"
        assert training.process.wait(240) == 1
        said = training.log.read_text().strip().splitlines()
        assert "503" in said[-1] and "Traceback" not in training.log.read_text(), said
        proxy.mode = "pass"
        saved = training.saved()
        again = started(nodes, job, tmp_path, f"{s3_address}/store")
        again.finish(300)
    again.assert_same_course(inputs, saved)


def test_a_full_disk_is_named_in_one_line_after_one_attempt_and_the_training_goes_on_when_there_is_room(inputs, started, tmp_path):
    job = inputs.job("warmup", 16 * EVERY, tmp_path / "unused")
    with small_disk(tmp_path / "disk", "50m") as disk, RayNodes(head_cpus=2) as nodes:
        training = started(nodes, job, tmp_path, str(disk / "store"))
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        filler = fill(disk)
        assert training.process.wait(240) == 1
        said = training.log.read_text()
        assert said.strip().splitlines()[-1].startswith("StorageError: ") and "the disk is full" in said and "Traceback" not in said, said
        filler.unlink()
        saved = training.saved()
        again = started(nodes, job, tmp_path, str(disk / "store"))
        again.finish(300)
        again.assert_same_course(inputs, saved)
        assert len(again.starts()) == 2
