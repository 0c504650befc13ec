"""Ray Data carries out a worker's part of the plan beside the training: the same bytes as the plain reader, and out of its way."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
import ray.data

from clinjepa.config import Config
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.feed.window_plan import assignments
from clinjepa.errors import StoreError
from pipelines.scheduling.session import ray_session
from pipelines.stages import feed
from tests.support.training.curriculum_jobs import encoder_settings, phase_job
from tests.support.training.curriculum_store import make_base_and_latents, make_trajectories

pytestmark = pytest.mark.ray

FULL_BYTES = 200_000
"""Of micro-batches that wait for the training; some 40 of the job's."""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("stores")
    trajectories = make_trajectories(root)
    latents = make_base_and_latents(root, trajectories, encoder_settings())
    return phase_job("warmup", trajectories=trajectories, latents=latents, base=str(root / "base"), num_steps=400, total_steps=400)


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    config = Config(storage=str(tmp_path_factory.mktemp("storage")), execution={"object_store_mb": 100, "progress": False})
    with ray_session(config):
        yield


def test_it_hands_over_what_the_plain_reader_does_in_the_order_of_the_plan(job, session):
    assigned = list(assignments(job, 0, 1, 0, 8))
    arrived = [bytes(each) for each in feed.ray_data_feed(job)(assigned)]
    assert len(arrived) == len(assigned) > 8
    assert arrived == [bytes(each) for each in plain_feed(job)(assigned)]


def test_what_a_reader_meets_is_raised_as_it_is_and_not_with_rays_traceback(job, session, tmp_path):
    shutil.copytree(job.latents, tmp_path / "latents")
    for file in (tmp_path / "latents" / "latents").glob("*.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
    cut = replace(job, latents=str(tmp_path / "latents"))
    with pytest.raises(StoreError, match="safetensors is shorter than its header says") as raised:
        next(feed.ray_data_feed(cut)(list(assignments(cut, 0, 1, 0, 8))))
    assert type(raised.value) is StoreError and "\n" not in str(raised.value)


def test_the_scheduling_loop_rests_while_all_that_may_wait_is_waiting(job, session, monkeypatch):
    """It runs in the training process: every round without need is taken from the steps."""
    rounds: Counter[str] = Counter()
    step = feed._PauseWhenIdle.on_execution_step

    def counted(callback, executor):
        rounds["all"] += 1
        step(callback, executor)

    monkeypatch.setattr(feed._PauseWhenIdle, "on_execution_step", counted)
    options = ray.data.DataContext.get_current().execution_options
    monkeypatch.setattr(options, "resource_limits", options.resource_limits.copy(object_store_memory=FULL_BYTES))
    arrivals = feed.ray_data_feed(job)(list(assignments(job, 0, 1, 0, 400)))
    next(arrivals)
    time.sleep(3)
    before = rounds["all"]
    time.sleep(3)
    assert 0 < rounds["all"] - before <= 3 / feed._PAUSE_SECONDS
    arrivals.close()
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith(("iter_threaded", "StreamingExecutor"))]
    assert not left, "a thread that asks Ray for something after its shutdown ends the process"
