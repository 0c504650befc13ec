"""A stage's work as Ray tasks: one function in one task, or one task per part of an artifact."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow
import ray

from clinjepa.errors import ClinJepaError, retold, values_hidden
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage


def map_parts(context: RunContext, stage: Stage, num_parts: int, build: Callable[[int], None], at_a_time: int | None = None) -> None:
    """Run `build` on every part index with Ray Data, in parallel (at most `at_a_time`), one part in memory per task."""
    started, done = time.monotonic(), 0
    dataset = ray.data.range(num_parts, override_num_blocks=num_parts).map(
        lambda row: _guarded(build, int(row["id"])), num_cpus=1, compute=ray.data.TaskPoolStrategy(at_a_time)
    )
    for outcome in dataset.iter_rows():
        raise_fault(outcome)
        done += 1
        context.report(stage, done, num_parts, f"{done / (time.monotonic() - started):.1f} parts/s")


def _guarded(build: Callable[[int], None], index: int) -> dict[str, str]:
    """Return a ClinJepaError as a row: an exception would arrive with Ray's traceback and end the other parts."""
    try:
        with values_hidden():
            build(index)
    except ClinJepaError as error:
        return {"fault": type(error).__name__, "message": str(error)}
    finally:
        _give_memory_back()
    return {"fault": "", "message": ""}


def _give_memory_back() -> None:
    """Return freed memory to the system: Ray reuses the process, and allocators kept a third of the peak (measured)."""
    pyarrow.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone has it
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def raise_fault(outcome: Mapping[str, str]) -> None:
    """Raise in the driver the fault that a task returned as a row."""
    if outcome["fault"]:
        raise retold(outcome["fault"], outcome["message"])


def run_remotely(context: RunContext, function: Any, *arguments: Any) -> dict[str, Any]:
    """Run a function in a Ray task with `execution.evaluation_cpus`, outside the placement group of a Tune trial.

    Raises the ClinJepaError of the task itself, not Ray's wrapper.
    """
    cpus = context.config.execution.evaluation_cpus
    task = ray.remote(num_cpus=cpus, max_retries=2, scheduling_strategy="DEFAULT")(_call)
    name = getattr(getattr(function, "func", function), "__name__", "task")
    try:
        result: dict[str, Any] = ray.get(task.options(name=name).remote(function, *arguments))
        return result
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, ClinJepaError):
            raise error.cause from None
        raise


def _call(function: Any, *arguments: Any) -> Any:
    """The task of `run_remotely`."""
    with values_hidden():
        return function(*arguments)
