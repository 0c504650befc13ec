"""One phase job under Ray Train (fed by Ray Data) and under `torchrun` (fed by the plain reader), each in processes of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.storage import Folder
from tests.support.machines.cli import ROOT, environment
from tests.support.training.training_driver import folder_of

NUM_WORKERS = 2
EXECUTION: dict[str, Any] = {
    "num_workers": NUM_WORKERS,
    "cpus_per_worker": 0.35,
    "data_cpus": 0.15,
    "threads_per_worker": 1,
    "object_store_mb": 300,
    "progress": False,
}
"""As in configs/demo.yaml."""


@dataclass(frozen=True)
class Trained:
    """What a finished job says of itself. seconds: of all steps but the first, with reports and what saves stood in the way."""

    steps: int
    seconds: float
    start_seconds: float
    waiting_share: float
    losses: list[float]

    @property
    def steps_per_second(self) -> float:
        return self.steps / self.seconds


def on_ray(job: PhaseJob, storage: Path, execution: Mapping[str, Any] | None = None) -> Trained:
    """Run the job on a Ray cluster of its own on this machine, below `storage`; raises RuntimeError with its last words."""
    storage.mkdir(parents=True)
    spec = storage / "spec.json"
    config = {"storage": str(storage), "execution": EXECUTION | dict(execution or {})}
    spec.write_text(json.dumps({"job": job.to_json(), "config": config}))
    _run([sys.executable, "-m", "tests.support.training.training_driver", str(spec)])
    return read_trained(folder_of(job, storage), job)


def on_torchrun(job: PhaseJob, storage: Path, num_workers: int = NUM_WORKERS, threads: int = 1) -> Trained:
    """Run the job under `torchrun`, below `storage`; raises RuntimeError with its last words."""
    storage.mkdir(parents=True)
    job = replace(job, out=str(storage / "out"))
    path = storage / "job.json"
    path.write_text(json.dumps(job.to_json()))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_workers}"]
    _run([*launcher, "-m", "clinjepa.curriculum.worker", str(path)], OMP_NUM_THREADS=str(threads))
    return read_trained(Folder(job.out), job)


def read_trained(out: Folder, job: PhaseJob) -> Trained:
    """From the files that a phase leaves."""
    timing, metrics = out.read_json("timing.json"), out.read_json("metrics.json")
    saves = -(-job.num_steps // job.checkpoint_every_steps)
    return Trained(
        steps=timing["timed_steps"],
        seconds=timing["seconds_per_step"] * timing["timed_steps"]
        + timing["reporting_seconds"]
        + timing["diagnosing_seconds"]
        + timing["blocked_seconds_per_save"] * saves,
        start_seconds=timing["start_seconds"],
        waiting_share=timing["waiting_share"],
        losses=[row["loss"] for row in metrics["steps"]],
    )


def _run(command: list[str], **env: str) -> None:
    began = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT), **env), text=True, capture_output=True)
    print(f"{Path(command[-1]).parent.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
