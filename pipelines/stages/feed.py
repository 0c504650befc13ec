"""The feed under Ray: Ray Data reads a worker's part of the plan ahead of the training step.

This module is apart from `ray_train`, because its reader processes need no torch.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from clinjepa.curriculum.feed.micro_batches import open_micro_batches
from clinjepa.curriculum.feed.plain_feed import Feed
from clinjepa.curriculum.feed.text_batches import TextBatches
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import Assignment
from clinjepa.curriculum.jobs import Job, load_training_job
from clinjepa.errors import ClinJepaError, retold, values_hidden

_ROWS_PER_BLOCK = 8
_MOST_BLOCKS, _BLOCK_BYTES = 1024, 64 << 20
"""Ray Data's overhead is per block, so several micro-batches travel in a block, up to this size."""

_PAUSE_SECONDS = 0.05

_LAST_SECONDS = 10.0
"""Longest wait for threads of Ray Data to end after training has left the feed; on an idle machine they take a tenth of a second."""


def ray_data_feed(job: Job) -> Feed:
    """A feed in which Ray Data reads this rank's part of the plan, in its order, ahead of the training step.

    Its reader requests no CPU, because the training worker has reserved it.
    """

    def feed(assignments: Sequence[Assignment]) -> Iterator[pa.Buffer]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True  # before the dataset is made: it copies the context
        context.target_max_block_size = _BLOCK_BYTES
        if _PauseWhenIdle not in context.custom_execution_callback_classes:
            context.custom_execution_callback_classes.append(_PauseWhenIdle)
        if not assignments:
            return
        # from_items makes its blocks in this process; from_arrow starts a task that needs a whole CPU, which a busy cluster may not have.
        rows = [{"step": each.step, "micro": each.micro} for each in assignments]
        dataset = ray.data.from_items(rows, override_num_blocks=min(-(-len(rows) // _ROWS_PER_BLOCK), _MOST_BLOCKS)).map_batches(
            _Fetch,
            fn_constructor_args=(job.to_json(),),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=1),
            num_cpus=0,
        )
        others = set(threading.enumerate())
        blocks = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1))
        try:
            for block in blocks:
                for payload, fault, message in zip(block["payload"], block["fault"], block["message"], strict=True):
                    if fault.as_py():
                        raise retold(fault.as_py(), message.as_py())
                    yield payload.as_buffer()
        finally:
            blocks.close()  # type: ignore[attr-defined]  # a generator, which Ray annotates as an iterator
            _wait_for_threads(others)

    return feed


def _wait_for_threads(others: set[threading.Thread]) -> None:
    """Wait for Ray Data's threads of a closed feed to end: a thread that calls Ray after its shutdown would end the process."""
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith(("iter_threaded", "StreamingExecutor")):
            thread.join(max(0.0, deadline - time.monotonic()))


class _PauseWhenIdle(ExecutionCallback):
    """A pause after every step of Ray Data's scheduling loop in which nothing happened; the loop runs in the training process.

    The loop waits for tasks only while some are running. When the object store has reached its limit, the loop would spin until training
    has taken a block, and hold the interpreter lock (four fifths of the time, measured with Ray 2.60). There is no pause after a step that
    submitted a task or received a block, where it would halve the throughput of a reader.
    """

    def __init__(self) -> None:
        self._happened: list[tuple[int, int, int]] = []

    def on_execution_step(self, executor: Any) -> None:
        happened = [
            (metrics.num_tasks_submitted, metrics.num_task_outputs_generated, metrics.num_tasks_finished)
            for metrics in (operator.metrics for operator in executor._topology)
        ]
        if happened == self._happened:
            time.sleep(_PAUSE_SECONDS)
        self._happened = happened


class _Fetch:
    """Ray Data actor that turns (step, micro-batch) rows into collated micro-batches.

    Faults that the user can act on travel as a row, because an exception raised in a task arrives wrapped in Ray's traceback and advice.
    """

    def __init__(self, job: Mapping[str, object]) -> None:
        self._job = job
        self._micro_batches: WindowBatches | TextBatches | None = None

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        places = zip(rows["step"].to_pylist(), rows["micro"].to_pylist(), strict=True)
        try:
            with values_hidden():
                if self._micro_batches is None:
                    self._micro_batches = open_micro_batches(load_training_job(self._job))
                for payload in self._micro_batches.in_order(places):
                    yield _row(payload)
        except ClinJepaError as error:
            yield _row(pa.py_buffer(b""), type(error).__name__, str(error))


def _row(payload: pa.Buffer, fault: str = "", message: str = "") -> pa.Table:
    """A table of one row whose payload is these bytes, not a copy."""
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(struct.pack("<qq", 0, payload.size)), payload])
    return pa.table({"payload": column, "fault": [fault], "message": [message]})
