"""torch's profiler over some steps of a training, one trace a worker; a trace holds names, shapes of kernels' grids and times, no data."""

from __future__ import annotations

import contextlib
import gzip
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from clinjepa.storage import Folder

SKIPPED_STEPS, WARMUP_STEPS = 1, 1
"""Steps before those that are recorded: the first compiles and fills caches, in the second the profiler itself warms up."""


@contextlib.contextmanager
def profiled_steps(folder: Folder, rank: int, num_steps: int) -> Iterator[Callable[[], None] | None]:
    """Record `num_steps` steps of this worker; yields what the step loop has to call after every step, None for no steps.

    A training that ends, or is stopped, in between leaves a trace of what was recorded.

    Args:
        folder: gets `worker-<rank>.json.gz` in Chrome's trace format, for Perfetto or `chrome://tracing`.
        rank: of this worker.
        num_steps: steps to record; 0: the profiler is not started.

    Raises:
        StorageError: the trace cannot be written.
    """
    if num_steps < 1:
        yield None
        return

    def write(made: profile) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch, "trace.json")
            made.export_chrome_trace(str(path))
            folder.write_bytes(f"worker-{rank}.json.gz", gzip.compress(path.read_bytes(), mtime=0))

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    plan = schedule(skip_first=SKIPPED_STEPS, wait=0, warmup=WARMUP_STEPS, active=num_steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=False, with_stack=False) as profiler:
        yield profiler.step
