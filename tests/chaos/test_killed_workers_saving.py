"""A training on Ray whose workers all die while they save: in the middle of a save, or before Ray Train was told of a whole one."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.saved import newest_whole
from tests.support.training.trainings import EVERY, Inputs, Training

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(600)]

LARGE = {"hidden_size": 384, "num_layers": 3, "ffn_size": 1536}
"""A predictor whose checkpoints of 60 MB take long enough to be met in the making."""


@pytest.fixture
def nodes():
    with RayNodes(head_cpus=2) as nodes:
        yield nodes


def kill_all_when(nodes: RayNodes, training: Training, reached: Callable[[], bool]) -> None:
    """SIGKILL every worker the moment that `reached()` is true."""
    workers = nodes.head.processes("ray::RayTrainWorker")
    assert workers
    deadline = time.monotonic() + 120
    while not reached():
        assert training.process.poll() is None and time.monotonic() < deadline, "it ended before that moment came"
        time.sleep(0.001)
    for worker in workers:
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)


def test_in_the_middle_of_a_save_they_go_on_from_the_checkpoint_before(nodes, inputs: Inputs, started, tmp_path):
    job = inputs.job("warmup", 12 * EVERY, tmp_path / "unused")
    job = replace(job, predictor_settings=replace(job.predictor_settings, **LARGE))
    training = started(nodes, job, tmp_path)
    training.wait_for(lambda: training.saved() >= 2 * EVERY)

    def in_the_middle() -> bool:
        found = training.checkpoints()
        return bool(found) and not found[max(found)]

    kill_all_when(nodes, training, in_the_middle)
    found = training.checkpoints()
    assert not found[max(found)], "its save was complete before they died"
    saved = newest_whole(found)
    training.finish()
    training.assert_same_course(inputs, saved)
    assert saved in [start["step"] for start in training.starts()]


def test_before_ray_was_told_of_a_whole_checkpoint_they_go_on_from_it_all_the_same(nodes, inputs: Inputs, started, tmp_path):
    job = inputs.job("joint", 12 * EVERY, tmp_path / "unused")
    training = started(nodes, job, tmp_path)
    training.wait_for(lambda: training.saved() >= 2 * EVERY)
    before = training.saved()
    kill_all_when(nodes, training, lambda: training.saved() > before)
    saved = training.saved()
    assert training.reported() < saved, "Ray was told before they died"
    training.finish()
    training.assert_same_course(inputs, saved)
    assert saved in [start["step"] for start in training.starts()]
