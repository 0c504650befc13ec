"""Useful steps per second of a training on Ray that loses a worker every minute, beside the same training left alone.

Both run the same joint refinement with two workers on one node, one after the other. A killed worker costs the steps since the last
checkpoint and the start of a new worker group. Start-up is apart on both sides: the clock runs from the first checkpoint. A worker is
killed only after a checkpoint since the last kill, so the training ends on a slow machine too.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
import warnings
from pathlib import Path

from benchmarks.support.harness import Report, arguments, publish
from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.trainings import Inputs, Training, steps_of


def course(
    inputs: Inputs, num_steps: int, folder: Path, seconds_between_kills: float | None, most_kills: float = math.inf
) -> tuple[float, int, list[float]]:
    """(useful steps per second, kills, losses) of one training."""
    folder.mkdir()
    job = inputs.job("joint", num_steps, folder / "unused")
    with RayNodes(head_cpus=2) as nodes:
        training = Training(nodes, job, folder, max_worker_failures=-1)
        training.wait_for(lambda: training.saved() > 0)
        first, began, kills = training.saved(), time.monotonic(), 0
        killed_at, saved = began, 0
        while training.process.poll() is None:
            due = seconds_between_kills is not None and time.monotonic() - killed_at >= seconds_between_kills
            if due and kills < most_kills and training.saved() > saved:
                workers = nodes.head.processes("ray::RayTrainWorker")
                if workers:
                    os.kill(workers[-1], signal.SIGKILL)
                    killed_at, saved, kills = time.monotonic(), training.saved(), kills + 1
            time.sleep(0.1)
        seconds = time.monotonic() - began
        training.finish()
    return (num_steps - first) / seconds, kills, [row["loss"] for row in steps_of(training.folder)]


def main() -> None:
    options = arguments(__doc__ or "", steps=2000, seconds_between_kills=60.0)
    warnings.simplefilter("ignore", UserWarning)
    num_steps, between = (120, 15.0) if options.quick else (options.steps, options.seconds_between_kills)
    with tempfile.TemporaryDirectory() as scratch:
        inputs = Inputs(Path(scratch))
        alone, _, expected = course(inputs, num_steps, Path(scratch, "alone"), None)
        disturbed, kills, losses = course(inputs, num_steps, Path(scratch, "disturbed"), between, 3 if options.quick else math.inf)
    if not kills:
        raise RuntimeError("no worker was killed; this says nothing about goodput")
    if losses != expected:
        raise RuntimeError("the disturbed training found other losses than the one left alone")
    publish(
        Report(
            "goodput",
            measured={"goodput": disturbed / alone, "steps_per_second_alone": alone, "steps_per_second_disturbed": disturbed},
            goal={"goodput": "reported"},
            unit={"goodput": "share of undisturbed steps/s", "steps_per_second_alone": "1/s", "steps_per_second_disturbed": "1/s"},
            details={"kills": kills, "seconds_between_kills": between, "num_steps": num_steps, "same_losses": True},
        ),
        options.quick,
    )


if __name__ == "__main__":
    main()
