"""Runs curriculum jobs on real gloo workers: one process each, several jobs one after the other in the same process group."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as torch_dist

from clinjepa.curriculum.dispatch import run_training_job
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.jobs import Job, load_training_job
from clinjepa.curriculum.training_loop import Launch
from clinjepa.curriculum.workers import gathering
from clinjepa.curriculum.workers.dist import Dist

KILLED = 9


def run_job(job: Job, die_after: int | None = None) -> dict[str, Any]:
    """Run a job with this process's place in its process group; with `die_after` the process is gone when that many steps are done."""

    def on_report(step: int, metrics: dict[str, Any], checkpoint: str | None) -> None:
        if step == die_after:
            os._exit(KILLED)

    return run_training_job(job, Launch(Dist.current(), plain_feed(job), on_report))


def run_on_workers(
    jobs: Sequence[Job], world_size: int, die_after: int | None = None, layer_by_layer: bool = False, seconds: float = 280
) -> None:
    """Run jobs in order on `world_size` gloo processes; raises RuntimeError with the first failing worker's last words.

    layer_by_layer: treat every module as too large to stay gathered. seconds: longest wait for a worker.
    """
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "jobs.json").write_text(json.dumps([job.to_json() for job in jobs]))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, __file__, scratch, str(world_size), str(die_after or 0), str(int(layer_by_layer))]
        workers = [
            subprocess.Popen([*command, str(rank)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            for rank in range(world_size)
        ]
        try:
            endings = [(worker.communicate(timeout=seconds)[1], worker.returncode) for worker in workers]
        finally:
            for worker in workers:
                worker.kill()
    expected = KILLED if die_after else 0
    for said, code in endings:
        if code != expected:
            raise RuntimeError(f"a worker of {world_size} ended with {code}: {said.decode(errors='replace')[-2000:]}")


def _main(scratch: str, world_size: str, die_after: str, layer_by_layer: str, rank: str) -> None:
    if int(layer_by_layer):
        gathering.KEPT_GATHERED_BYTES = 0
    torch.set_num_threads(1)
    torch_dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=int(rank), world_size=int(world_size))
    for value in json.loads(Path(scratch, "jobs.json").read_text()):
        run_job(load_training_job(value), int(die_after) or None)
    torch_dist.destroy_process_group()


if __name__ == "__main__":
    _main(*sys.argv[1:])
