"""A training on a real Ray cluster of several nodes goes on when workers die and nodes leave, are announced to leave, or join."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinjepa.curriculum.jobs import PhaseJob
from tests.cli import ROOT
from tests.curriculum_jobs import ENCODER, phase_job
from tests.curriculum_processes import run_job
from tests.curriculum_store import make_base_and_latents, make_trajectories
from tests.ray_nodes import RayNodes
from tests.training_driver import folder_of

pytestmark = [
    pytest.mark.ray,
    pytest.mark.chaos,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.*the target does not arrive"),
]
EVERY = 5
"""Steps between checkpoints."""


class Inputs:
    """Stores, and what the phases before left, for any phase."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trajectories = make_trajectories(root)
        _, self.latents = make_base_and_latents(root, self.trajectories, ENCODER)

    def job(self, phase: str, num_steps: int, out: Path) -> PhaseJob:
        inputs: dict[str, Any] = {"latents": None} if phase == "joint" else {"latents": self.latents}
        if phase == "alignment":
            inputs |= {"encoder": self.after("joint"), "target": self.after("joint")}
        return phase_job(
            phase,
            out=str(out),
            trajectories=self.trajectories,
            base=str(self.root / "base"),
            num_steps=num_steps,
            total_steps=num_steps,
            checkpoint_every_steps=EVERY,
            log_every_steps=1,
            global_batch=10,
            **inputs,
        )

    def after(self, phase: str) -> str:
        """A folder that a short phase left."""
        out = self.root / f"short-{phase}"
        if not (out / "metrics.json").exists():
            run_job(self.job(phase, 2, out))
        return str(out)

    def undisturbed(self, job: PhaseJob) -> list[dict[str, Any]]:
        """The steps of the same job in one process that nobody disturbs."""
        out = self.root / f"undisturbed-{job.parsed_phase.name}-{job.num_steps}"
        if not (out / "metrics.json").exists():
            run_job(replace(job, out=str(out)))
        return steps_of(out)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("inputs"))


class Training:
    """A job under way on a cluster, in a driver process of its own."""

    def __init__(self, nodes: RayNodes, job: PhaseJob, storage: Path, **execution: Any) -> None:
        self.folder = folder_of(job, storage)
        settings = {
            "num_workers": 2,
            "cpus_per_worker": 0.75,
            "data_cpus": 0.25,
            "resize_interval_seconds": 3,
            "start_timeout_seconds": 10,
            "progress": False,
        }
        spec = {"job": job.to_json(), "config": {"storage": str(storage), "execution": settings | execution}}
        path = storage / "spec.json"
        path.write_text(json.dumps(spec))
        self.log = storage / "driver.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.training_driver", str(path)],
            cwd=ROOT,
            env=nodes.env | {"RAY_ADDRESS": nodes.address, "PYTHONPATH": str(ROOT)},
            stdout=open(self.log, "wb"),
            stderr=subprocess.STDOUT,
        )

    def saved(self) -> int:
        """Steps after which the newest whole checkpoint was made."""
        whole = self.folder.glob("checkpoints/step-*/manifest.json")
        return max((int(path.parent.name.removeprefix("step-")) for path in whole), default=0)

    def wait_for(self, reached: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"it ended or hung before that: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def finish(self, seconds: float = 240) -> None:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it hung: {self.log.read_text(errors='replace')[-3000:]}")
        assert self.process.returncode == 0, self.log.read_text(errors="replace")[-3000:]

    def steps_by_workers(self) -> dict[str, int]:
        return json.loads((self.folder / "timing.json").read_text())["steps_by_workers"]


@pytest.fixture
def started() -> Iterator[Callable[..., Training]]:
    running: list[Training] = []

    def start(*arguments: Any, **execution: Any) -> Training:
        running.append(Training(*arguments, **execution))
        return running[-1]

    yield start
    for training in running:
        if training.process.poll() is None:
            training.process.kill()
        training.process.wait()


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "metrics.json").read_text())["steps"]


def assert_same_course(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Every step once, and its loss that of the undisturbed run: rounding differs with the number of workers, and grows with the steps."""
    assert [row["step"] for row in found] == [row["step"] for row in expected]
    assert [row["loss"] for row in found[:EVERY]] == pytest.approx([row["loss"] for row in expected[:EVERY]], rel=1e-5)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-3)


def test_it_shrinks_with_a_lost_node_grows_with_a_new_one_and_finds_the_same_losses(inputs, started, tmp_path):
    job = inputs.job("joint", 240, tmp_path / "unused")
    with RayNodes() as nodes:
        second = nodes.add()
        training = started(nodes, job, tmp_path, num_workers=[1, 2])
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        second.lose()
        lost_at = training.saved()
        training.wait_for(lambda: training.saved() > lost_at + 2 * EVERY)
        nodes.add()
        training.finish()
    assert_same_course(steps_of(training.folder), inputs.undisturbed(job))
    by_workers = training.steps_by_workers()
    assert set(by_workers) == {"1", "2"} and by_workers["2"] > lost_at + EVERY, by_workers


@pytest.mark.long
@pytest.mark.parametrize("phase", ["warmup", "joint", "alignment"])
def test_a_killed_worker_costs_a_restart_from_the_last_checkpoint(inputs, started, tmp_path, phase):
    job = inputs.job(phase, 60, tmp_path / "unused")
    with RayNodes(head_cpus=2) as nodes:
        training = started(nodes, job, tmp_path)
        training.wait_for(lambda: training.saved() >= 2 * EVERY)
        os.kill(nodes.head.processes("ray::RayTrainWorker")[-1], signal.SIGKILL)
        training.finish()
    assert_same_course(steps_of(training.folder), inputs.undisturbed(job))


@pytest.mark.long
def test_a_node_that_is_taken_away_with_notice_is_left_with_a_checkpoint_made_for_it(inputs, started, tmp_path):
    job = replace(inputs.job("joint", 240, tmp_path / "unused"), checkpoint_every_steps=1000)
    with RayNodes() as nodes:
        second = nodes.add()
        training = started(nodes, job, tmp_path, num_workers=[1, 2])
        training.wait_for(lambda: bool(second.processes("RayTrainWorker")))
        nodes.drain(seconds=15)
        training.wait_for(lambda: training.saved() > 0)
        second.lose()
        training.finish()
    assert_same_course(steps_of(training.folder), inputs.undisturbed(job))
    assert set(training.steps_by_workers()) == {"1", "2"}
