"""A phase whose stores and checkpoints lie in an object store that fails for a while, or for good."""

from __future__ import annotations

import subprocess
import time
from dataclasses import replace

import pytest

from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.storage import Folder
from clinjepa.storage.s3 import PATIENCE_VARIABLE
from tests.support.training.curriculum_processes import run_job
from tests.support.training.plain_training import assert_same, last_start, start, warmup_job
from tests.support.training.saved import checkpoints_in, newest_whole

pytestmark = [pytest.mark.chaos, pytest.mark.s3, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def local_job(tmp_path_factory) -> PhaseJob:
    return warmup_job(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(local_job, tmp_path_factory) -> str:
    out = str(tmp_path_factory.mktemp("undisturbed"))
    run_job(replace(local_job, out=out))
    return out


@pytest.fixture
def job(local_job, s3_address) -> PhaseJob:
    """The same phase with its stores and its results in the object store."""
    places = {}
    for name in ("trajectories", "latents"):
        places[name] = f"{s3_address}/{name}"
        Folder(places[name]).upload(getattr(local_job, name))
    return replace(local_job, out=f"{s3_address}/out", **places)


def wait_until_saved(job: PhaseJob, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not newest_whole(checkpoints_in(job.out)):
        assert process.poll() is None and time.monotonic() < deadline, "it ended before it saved anything"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("mode", "seconds"),
    [("503", 4.0), *(pytest.param(mode, 30.0, marks=pytest.mark.long) for mode in ("503", "500", "hang", "reset", "lost"))],
)
def test_a_store_that_fails_for_a_while_is_waited_for(job, undisturbed, s3_server, proxy, mode, seconds):
    process = start(job, s3_server.environment | {"AWS_ENDPOINT_URL": proxy.address}, stderr=subprocess.PIPE)
    wait_until_saved(job, process)
    proxy.fail_for(mode, seconds)
    said = process.communicate(timeout=240)[1].decode()
    assert process.returncode == 0, said
    assert proxy.counts[mode] > 0
    assert_same(job.out, undisturbed)


def test_a_store_that_stays_away_ends_the_phase_with_one_line_and_it_goes_on_later(job, undisturbed, s3_server, proxy):
    env = s3_server.environment | {"AWS_ENDPOINT_URL": proxy.address, PATIENCE_VARIABLE: "6"}
    process = start(job, env, stderr=subprocess.PIPE)
    wait_until_saved(job, process)
    proxy.mode = "503"
    said = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 1 and "503" in said and "Traceback" not in said, said
    again = start(job, s3_server.environment, stderr=subprocess.PIPE)
    said = again.communicate(timeout=120)[1].decode()
    assert again.returncode == 0, said
    assert last_start(job.out) > 0
    assert_same(job.out, undisturbed)
