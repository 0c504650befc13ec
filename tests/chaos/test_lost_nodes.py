"""A training on a real Ray cluster of several nodes goes on when workers die and nodes leave, are announced to leave, or join."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.trainings import EVERY

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*the target does not arrive"),
]


def test_a_lost_node_leaves_the_training_to_the_others_and_the_losses_as_they_were(inputs, started, tmp_path):
    job = inputs.job("joint", 40, tmp_path / "unused")
    with RayNodes() as nodes:
        second = nodes.add()
        training = started(nodes, job, tmp_path, num_workers=[1, 2])
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        saved = training.saved()
        second.lose()
        training.finish()
    training.assert_same_course(inputs, saved)
    assert training.numbers_of_workers()[-2:] == [2, 1]


@pytest.mark.long
def test_it_shrinks_with_a_lost_node_and_grows_with_a_new_one(inputs, started, tmp_path):
    job = inputs.job("joint", 400, tmp_path / "unused")
    with RayNodes() as nodes:
        second = nodes.add()
        training = started(nodes, job, tmp_path, num_workers=[1, 2])
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        second.lose()
        lost_at = training.saved()
        training.wait_for(lambda: training.saved() > lost_at + 2 * EVERY)
        nodes.add()
        training.finish(600)
    training.assert_same_course(inputs, lost_at)
    assert training.numbers_of_workers()[-3:] == [2, 1, 2]
    assert training.drift(inputs, 100) < 1e-5


@pytest.mark.long
@pytest.mark.parametrize("phase", ["sft", "warmup", "joint", "alignment", "finalization"])
def test_a_killed_worker_costs_a_restart_from_the_last_checkpoint(inputs, started, tmp_path, phase):
    job = inputs.sft_job(60, tmp_path / "unused") if phase == "sft" else inputs.job(phase, 60, tmp_path / "unused")
    with RayNodes(head_cpus=2) as nodes:
        training = started(nodes, job, tmp_path)
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        saved = training.saved()
        os.kill(nodes.head.processes("ray::RayTrainWorker")[-1], signal.SIGKILL)
        training.finish()
    training.assert_same_course(inputs, saved)


@pytest.mark.long
def test_a_node_that_is_taken_away_with_notice_is_left_with_a_checkpoint_made_for_it(inputs, started, tmp_path):
    regular = 50
    job = replace(inputs.job("joint", 240, tmp_path / "unused"), checkpoint_every_steps=regular)
    with RayNodes() as nodes:
        second = nodes.add()
        training = started(nodes, job, tmp_path, num_workers=[1, 2])
        training.wait_for(lambda: training.saved() >= regular)
        nodes.drain(seconds=15)
        training.wait_for(lambda: 0 < training.saved() % regular and training.saved() < job.num_steps)
        saved = training.saved()
        second.lose()
        training.finish()
    training.assert_same_course(inputs, saved)
    assert training.numbers_of_workers()[-2:] == [2, 1]
    assert training.starts()[-1]["step"] % regular > 0
