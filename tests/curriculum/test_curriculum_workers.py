"""The number of workers changes nothing but the speed: real gloo processes, dropout on, five micro-batches that do not divide."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from clinjepa.curriculum.jobs import Job, PhaseJob
from tests.support.machines.cli import ROOT, environment
from tests.support.training.curriculum_jobs import ENCODER, encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.curriculum_store import make_base_and_latents, make_latents, make_trajectories

STEPS = 2
LAYER_BY_LAYER = 2
"""With this many workers, modules are gathered as large ones are; otherwise they stay gathered for a step."""

PHASES = ("warmup", "joint", "alignment")
WITH_DROPOUT = encoder_settings(lora={**ENCODER["lora"], "dropout": 0.1})
pytestmark = pytest.mark.filterwarnings("ignore:.*the target does not arrive")


class Stores:
    """A trajectory store, a base, joint refinement by one worker, the latents of both; and jobs on them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trajectories = make_trajectories(root)
        self.latents = make_base_and_latents(root, self.trajectories, encoder_settings())
        self.joint = root / "refined" / "joint"
        run_job(self.job("joint", root / "refined", root, predictor=None))
        self.joint_latents = make_latents(root / "joint_latents", self.trajectories, root / "base", self.joint, encoder_settings())

    def job(self, phase: str, out: Path, before: Path, **changes) -> PhaseJob:
        """A phase of two steps: joint refinement from what warmup left under `before`, alignment from `self.joint`."""
        inputs = {
            "warmup": {"latents": self.latents},
            "joint": {"latents": None, "predictor": str(before / "warmup"), "first_step": STEPS, "encoder_settings": WITH_DROPOUT},
            "alignment": {
                "latents": getattr(self, "joint_latents", None),
                **dict.fromkeys(("predictor", "encoder", "target"), str(self.joint)),
                "first_step": 2 * STEPS,
            },
        }
        fields = {"out": str(out / phase), "trajectories": self.trajectories, "base": str(self.root / "base"), "num_steps": STEPS}
        return phase_job(phase, **{**fields, "global_batch": 10, "micro_batch": 2, **inputs[phase], **changes})

    def chain(self, out: Path) -> list[Job]:
        sft = sft_job(str(out / "sft"), self.trajectories, base=str(self.root / "base"))
        return [*(self.job(phase, out, out) for phase in PHASES), sft]


@pytest.fixture(scope="module")
def stores(tmp_path_factory) -> Stores:
    return Stores(tmp_path_factory.mktemp("stores"))


class Results(dict[int, Path]):
    """Folders with warmup, joint, alignment and sft by the number of workers that made them, which is done when first asked for."""

    def __init__(self, stores: Stores) -> None:
        self.stores = stores

    def __missing__(self, world_size: int) -> Path:
        self[world_size] = self.stores.root / f"workers-{world_size}"
        jobs = self.stores.chain(self[world_size])
        if world_size == 1:
            for job in jobs:
                run_job(job)
        else:
            run_on_workers(jobs, world_size, layer_by_layer=world_size == LAYER_BY_LAYER)
        return self[world_size]


@pytest.fixture(scope="module")
def results(stores) -> Results:
    return Results(stores)


def series(folder: Path, name: str) -> list[float]:
    return [row[name] for row in json.loads((folder / "metrics.json").read_text())["steps"]]


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("stage", [*PHASES, "sft"])
def test_losses_are_those_of_one_worker(results, stage, world_size):
    assert series(results[world_size] / stage, "loss") == pytest.approx(series(results[1] / stage, "loss"), rel=1e-5)


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize("group", ["predictor", "encoder"])
def test_gradient_norms_of_joint_refinement_are_those_of_one_worker(results, group, world_size):
    name = f"grad_norm_{group}"
    assert series(results[world_size] / "joint", name) == pytest.approx(series(results[1] / "joint", name), rel=1e-4)


@pytest.mark.parametrize("world_size", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize(("stage", "name"), [("alignment", "predictor"), ("joint", "online"), ("alignment", "target"), ("sft", "model")])
def test_weights_are_those_of_one_worker(results, stage, name, world_size):
    one, many = (load_file(results[size] / stage / f"{name}.safetensors") for size in (1, world_size))
    assert one.keys() == many.keys()
    # AdamW divides by the root of tiny second moments: a rounding error of a gradient near 0 may move a weight by a share of lr.
    worst = max(float((one[key] - many[key]).abs().max()) for key in one)
    assert worst < 1e-4


@pytest.fixture(scope="module")
def killed(stores, results) -> PhaseJob:
    """Joint refinement of two workers that vanished after its first step."""
    often = {"checkpoint_every_steps": 1, "log_every_steps": 1, "asynchronous_checkpoints": False}
    job = stores.job("joint", stores.root / "killed", results[2], **often)
    run_on_workers([job], 2, die_after=STEPS + 1, layer_by_layer=True)
    return job


def goes_on(killed: PhaseJob, out: Path) -> PhaseJob:
    shutil.copytree(killed.out, out)
    return replace(killed, out=str(out))


def test_a_killed_phase_goes_on_and_leaves_the_same_bytes(results, killed, tmp_path):
    run_on_workers([goes_on(killed, tmp_path / "joint")], 2, layer_by_layer=True)
    expected = results[2] / "joint"
    names = [path.name for path in expected.iterdir() if path.is_file() and path.name != "timing.json"]
    differing = [name for name in names if (tmp_path / "joint" / name).read_bytes() != (expected / name).read_bytes()]
    assert "online.safetensors" in names and differing == []


def test_a_checkpoint_of_two_workers_goes_on_with_one(results, killed, tmp_path):
    run_job(goes_on(killed, tmp_path / "joint"))
    assert series(tmp_path / "joint", "loss") == pytest.approx(series(results[2] / "joint", "loss"), rel=1e-5)


def test_workers_refuse_latents_of_another_encoder_alike_and_none_waits_for_another(stores, tmp_path):
    job = stores.job("alignment", tmp_path, tmp_path, latents=stores.latents)
    (tmp_path / "job.json").write_text(json.dumps(job.to_json()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "clinjepa.curriculum.worker", str(tmp_path / "job.json")]
    workers = [
        subprocess.Popen(command, env=environment(**group, RANK=str(rank)), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    endings = [(worker.communicate(timeout=100)[1].splitlines()[-1], worker.returncode) for worker in workers]
    assert endings[0] == endings[1] and endings[0][1] == 1
    assert endings[0][0].startswith("StoreError: ") and f"remove {stores.latents} and run again" in endings[0][0]


def test_the_worker_command_runs_a_job_and_prints_its_summary(stores, tmp_path):
    (tmp_path / "job.json").write_text(json.dumps(stores.job("warmup", tmp_path, tmp_path).to_json()))
    command = [sys.executable, "-m", "clinjepa.curriculum.worker", str(tmp_path / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (done.returncode, json.loads(done.stdout.splitlines()[-1])["num_steps"]) == (0, STEPS)
