"""Jobs on small stores, and trainings under way on real Ray nodes that a test or a benchmark disturbs."""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from clinjepa.curriculum.jobs import Job, PhaseJob, SftJob
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import content_key
from tests.support.machines.cli import ROOT
from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.curriculum_jobs import encoder_settings, phase_job, sft_job
from tests.support.training.curriculum_processes import run_job, run_on_workers
from tests.support.training.curriculum_store import make_base_and_latents, make_latents, make_trajectories
from tests.support.training.saved import checkpoints_in, newest_whole
from tests.support.training.training_driver import folder_of

EVERY = 5
"""Steps between checkpoints."""

LAST, DRIFT = 10, 0.25
"""By how much the mean loss of the last steps may differ from one process's at the end, whatever the course of the workers: rounding
differs with their number and grows, and these small models learn too fast to forget it. Measured: joint refinement by two, one, two workers
5e-8 after 100 steps, 3e-7 after 150, 6e-2 after 400; warmup of the largest predictor here by two workers 9e-3 after 60."""


class Inputs:
    """Stores, and what the phases before left, for any phase and for SFT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trajectories = make_trajectories(root)
        self.latents = make_base_and_latents(root, self.trajectories, encoder_settings())

    def sft_job(self, num_steps: int, out: Path) -> SftJob:
        steps = {"num_epochs": 1000.0, "max_steps": num_steps}
        return sft_job(out, self.trajectories, base=str(self.root / "base"), checkpoint_every_steps=EVERY, log_every_steps=1, **steps)

    def job(self, phase: str, num_steps: int, out: Path) -> PhaseJob:
        inputs: dict[str, Any] = {"latents": None} if phase == "joint" else {"latents": self.latents}
        if phase == "alignment":
            inputs = {"encoder": self.after("joint"), "target": self.after("joint"), "latents": self.joint_latents}
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

    @cached_property
    def joint_latents(self) -> str:
        """The latent store of what joint refinement left."""
        return make_latents(
            self.root / "joint_latents", self.trajectories, self.root / "base", Path(self.after("joint")), encoder_settings()
        )

    def after(self, phase: str) -> str:
        """A folder that a short phase left."""
        out = self.root / f"short-{phase}"
        if not (out / "metrics.json").exists():
            run_job(self.job(phase, 2, out))
        return str(out)

    def undisturbed(self, job: Job, num_workers: int) -> list[dict[str, Any]]:
        """The steps of the same job by that many workers, in processes without Ray that nobody disturbs."""
        out = self.root / f"undisturbed-{num_workers}-{content_key(replace(job, out='').to_json())}"
        if not (out / "metrics.json").exists():
            run_on_workers([replace(job, out=str(out))], num_workers)
        return steps_of(out)

    def replayed(self, job: Job, starts: list[dict[str, int]]) -> list[dict[str, Any]]:
        """The steps of the same job by the same numbers of workers from the same steps on, in processes without Ray or any fault.

        starts: of `timing.json`.
        """
        out = Path(tempfile.mkdtemp(dir=self.root))
        every = math.gcd(*(start["step"] for start in starts[1:])) or job.checkpoint_every_steps
        job = replace(job, out=str(out), checkpoint_every_steps=every, asynchronous_checkpoints=False)
        for start, following in zip(starts, [*starts[1:], {"step": None}], strict=True):
            run_on_workers([job], start["num_workers"], die_after=following["step"])
        return steps_of(out)


class Training:
    """A job under way on a cluster, in a driver process of its own."""

    def __init__(self, nodes: RayNodes, job: Job, scratch: Path, storage: str | None = None, **execution: Any) -> None:
        """scratch: an empty folder for the driver's settings and its log. storage: an address; `scratch` unless given."""
        self.job = job
        self.storage = Folder(storage or scratch)
        self.folder = folder_of(job, self.storage.address)
        settings = {
            "num_workers": 2,
            "cpus_per_worker": 0.75,
            "threads_per_worker": 1,
            "data_cpus": 0.25,
            "resize_interval_seconds": 3,
            "start_timeout_seconds": 10,
            "progress": False,
        }
        spec = {"job": job.to_json(), "config": {"storage": self.storage.address, "execution": settings | execution}}
        path = scratch / "spec.json"
        path.write_text(json.dumps(spec))
        self.log = scratch / "driver.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.training.training_driver", str(path)],
            cwd=ROOT,
            env=nodes.env | {"RAY_ADDRESS": nodes.address, "PYTHONPATH": str(ROOT)},
            stdout=open(self.log, "wb"),
            stderr=subprocess.STDOUT,
        )

    def checkpoints(self) -> dict[int, bool]:
        """By the step after which it was begun: whether a checkpoint is whole."""
        return checkpoints_in(self.folder)

    def saved(self) -> int:
        """Steps after which the newest whole checkpoint was made."""
        return newest_whole(self.checkpoints())

    def reported(self) -> int:
        """Steps after which the newest checkpoint was made that Ray Train was told of."""
        folder, steps = self.storage / "ray_train", [0]
        for name in folder.files():
            if name.endswith("/pointer.json"):
                with contextlib.suppress(StoreError):  # Ray keeps the newest ones only, and may strike one off just now
                    steps.append(folder.read_json(name)["step"])
        return max(steps)

    def wait_for(self, reached: Callable[[], bool], seconds: float = 150) -> None:
        deadline = time.monotonic() + seconds
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it ended or hung before that: {self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def finish(self, seconds: float = 240) -> None:
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"it hung: {self.log.read_text(errors='replace')[-3000:]}") from None
        if self.process.returncode != 0:
            raise RuntimeError(f"it failed: {self.log.read_text(errors='replace')[-3000:]}")

    def starts(self) -> list[dict[str, int]]:
        """From which step on by how many workers, in order."""
        return self.folder.read_json("timing.json")["starts"]

    def numbers_of_workers(self) -> list[int]:
        return [start["num_workers"] for start in self.starts()]

    def assert_same_course(self, inputs: Inputs, saved: int) -> None:
        """Every step once, none left out and none applied twice: bit for bit what as many workers find whom nobody interrupts, or, when
        their number changed, what as many find from the same steps on; and what one process finds but for rounding, which differs with
        the number of workers and grows: 1e-5 over the first steps, `DRIFT` at the end.

        saved: steps in the newest checkpoint before the last disturbance, none of which was done again."""
        assert self.starts()[-1]["step"] >= saved > 0
        self.assert_same_losses(inputs)

    def assert_same_losses(self, inputs: Inputs) -> None:
        """As `assert_same_course`, of a training that may not have been begun again at all."""
        found, alone, numbers = steps_of(self.folder), inputs.undisturbed(self.job, 1), set(self.numbers_of_workers())
        same = inputs.undisturbed(self.job, *numbers) if len(numbers) == 1 else inputs.replayed(self.job, self.starts())
        assert [row["step"] for row in found] == [row["step"] for row in alone]
        assert losses(found) == losses(same)
        assert losses(found)[:EVERY] == pytest.approx(losses(alone)[:EVERY], rel=1e-5)
        assert self.drift(inputs) < DRIFT

    def drift(self, inputs: Inputs, end: int | None = None) -> float:
        """By what share the mean loss of the last steps, or of the last of the first `end`, differs from that of one process."""
        found, alone = (fmean(losses(rows)[:end][-LAST:]) for rows in (steps_of(self.folder), inputs.undisturbed(self.job, 1)))
        return abs(found - alone) / alone


def losses(steps: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in steps]


def steps_of(folder: Folder | Path) -> list[dict[str, Any]]:
    folder = folder if isinstance(folder, Folder) else Folder(folder)
    return folder.read_json("metrics.json")["steps"]
