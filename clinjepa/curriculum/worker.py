"""Runs one job in a plain process or under `torchrun`: `python -m clinjepa.curriculum.worker JOB.json`.

A cluster runs the same code (`pipelines/stages/ray_train.py`); only the launcher and the feed differ.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as torch_dist

from clinjepa.curriculum.checkpoints.history import Row
from clinjepa.curriculum.checkpoints.saving import OnReport
from clinjepa.curriculum.dispatch import run_training_job
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.hard_sync import hard_sync
from clinjepa.curriculum.jobs import SyncJob, load_job
from clinjepa.curriculum.training_loop import Launch
from clinjepa.curriculum.workers.dist import Dist, set_up_gpu
from clinjepa.errors import ClinJepaError, ConfigError


def run_job_file(path: str) -> dict[str, object]:
    """Run the job in a JSON file with this process's place in the process group; returns the job's summary."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; give the JSON file of a job") from None
    except json.JSONDecodeError:
        raise ConfigError(f"{path} is not valid JSON; give the JSON file of a job") from None
    job = load_job(value)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if torch.cuda.is_available():
            set_up_gpu()
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        torch_dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        dist = Dist.current()
        if isinstance(job, SyncJob):
            result: dict[str, object] = {**hard_sync(job)} if dist.is_main else {}
            dist.barrier()
        else:
            result = run_training_job(job, Launch(dist, plain_feed(job), _progress(dist)))
    finally:
        if torch_dist.is_initialized():
            torch_dist.destroy_process_group()
    return result


def _progress(dist: Dist) -> OnReport:
    def report(step: int, metrics: Row, checkpoint: str | None) -> None:
        if dist.is_main:
            print(json.dumps({"step": step, "loss": metrics["loss"], "checkpoint": bool(checkpoint)}), flush=True)

    return report


def main(arguments: list[str]) -> int:
    """Exit status 0 on success, 1 with one line on stderr for a fault that the user can act on; a wrong call raises SystemExit with 2."""
    parser = argparse.ArgumentParser(
        prog="python -m clinjepa.curriculum.worker", description="Run one training job in this process, or in those of torchrun."
    )
    parser.add_argument("job", metavar="JOB.json", help="the to_json() of a PhaseJob, an SftJob or a SyncJob")
    given = parser.parse_args(arguments)
    try:
        result = run_job_file(given.job)
    except ClinJepaError as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return 1
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
