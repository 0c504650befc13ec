"""Jobs on small stores, and trainings under way on real Ray nodes that a test or a benchmark disturbs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinjepa.curriculum.jobs import Job, PhaseJob, SftJob
from tests.cli import ROOT
from tests.curriculum_jobs import ENCODER, SFT, phase_job
from tests.curriculum_processes import run_job, run_on_workers
from tests.curriculum_store import make_base_and_latents, make_trajectories
from tests.ray_nodes import RayNodes
from tests.training_driver import folder_of

EVERY = 5
"""Steps between checkpoints."""


class Inputs:
    """Stores, and what the phases before left, for any phase and for SFT."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trajectories = make_trajectories(root)
        _, self.latents = make_base_and_latents(root, self.trajectories, ENCODER)

    def sft_job(self, num_steps: int, out: Path) -> SftJob:
        settings = SFT | {"num_epochs": 1000.0, "max_steps": num_steps}
        base = str(self.root / "base")
        return SftJob(str(out), self.trajectories, 0, ENCODER, settings, base=base, checkpoint_every_steps=EVERY, log_every_steps=1)

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

    def undisturbed(self, job: Job) -> list[dict[str, Any]]:
        """The steps of the same job in one process that nobody disturbs."""
        name = f"{job.parsed_phase.name}-{job.num_steps}" if isinstance(job, PhaseJob) else f"sft-{job.sft_settings['max_steps']}"
        out = self.root / f"undisturbed-{name}"
        if not (out / "metrics.json").exists():
            run_job(replace(job, out=str(out)))
        return steps_of(out)

    def replayed(self, job: Job, starts: list[dict[str, int]]) -> list[dict[str, Any]]:
        """The steps of the same job by the same numbers of workers from the same steps on, in processes without Ray or any fault.

        starts: of `timing.json`.
        """
        out = Path(tempfile.mkdtemp(dir=self.root))
        job = replace(job, out=str(out), checkpoint_every_steps=1, asynchronous_checkpoints=False)
        for start, following in zip(starts, [*starts[1:], {"step": None}], strict=True):
            run_on_workers([job], start["num_workers"], die_after=following["step"])
        return steps_of(out)


class Training:
    """A job under way on a cluster, in a driver process of its own."""

    def __init__(self, nodes: RayNodes, job: Job, storage: Path, **execution: Any) -> None:
        self.folder = folder_of(job, storage)
        settings = {
            "num_workers": 2,
            "cpus_per_worker": 0.75,
            "threads_per_worker": 1,
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
        return json.loads((self.folder / "timing.json").read_text())["starts"]

    def numbers_of_workers(self) -> list[int]:
        return [start["num_workers"] for start in self.starts()]


def steps_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "metrics.json").read_text())["steps"]
