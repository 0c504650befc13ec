"""Ray Data carries out a worker's part of the plan, ahead of the training step. Apart from the trainer: its readers need no torch."""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import ray.data
from ray.data._internal.execution.execution_callback import ExecutionCallback

from clinjepa.curriculum.feed.micro_batches import MicroBatchFetcher
from clinjepa.curriculum.jobs import Job, load_training_job
from clinjepa.errors import ClinJepaError, retold

_ROWS_PER_BLOCK = 8
_MOST_BLOCKS, _BLOCK_BYTES = 1024, 64 << 20
"""What Ray Data does for a block costs as much as for a row, so micro-batches travel several to a block, but not above this size."""

_PAUSE_SECONDS = 0.05

_LAST_SECONDS = 10.0
"""For threads of Ray Data to end after the training has left the feed; they take a tenth of a second on an idle machine."""


def ray_data_feed(job: Job) -> Any:
    """A feed that lets Ray Data execute this rank's part of the plan, in its order, ahead of the training step.

    Its reader asks for no CPU: the training worker has reserved it.
    """

    def feed(assignments: Sequence[Any]) -> Iterator[pa.Buffer]:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True  # before the dataset is made: it copies the context
        context.target_max_block_size = _BLOCK_BYTES
        if _Unhurried not in context.custom_execution_callback_classes:
            context.custom_execution_callback_classes.append(_Unhurried)
        if not assignments:
            return
        # from_items: its blocks are made here, whereas from_arrow starts a task that wants a whole CPU, which a busy cluster may not have.
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
            blocks.close()
            _wait_for_threads(others)

    return feed


def _wait_for_threads(others: set[threading.Thread]) -> None:
    """Until Ray Data's threads of a feed that was left have ended: one that asks Ray for anything after its shutdown ends the process."""
    deadline = time.monotonic() + _LAST_SECONDS
    for thread in set(threading.enumerate()) - others:
        if thread.name.startswith(("iter_threaded", "StreamingExecutor")):
            thread.join(max(0.0, deadline - time.monotonic()))


class _Unhurried(ExecutionCallback):
    """A pause after every step of Ray Data's scheduling loop in which nothing happened; the loop runs in the training process.

    It waits for tasks only while some run and may hand over. Once the object store is as full as it may be it would go round without a
    pause until the training has eaten a block, and hold the interpreter lock all the while (four fifths of the time, measured with
    Ray 2.60). After a step that submitted a task or brought a block a pause would cost half of what a reader can deliver.
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

    A fault of the project's own is told in a row: what a task raises arrives with Ray's traceback and advice in its words.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._fetch: MicroBatchFetcher | None = None

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        places = zip(rows["step"].to_pylist(), rows["micro"].to_pylist(), strict=True)
        try:
            if self._fetch is None:
                self._fetch = MicroBatchFetcher(load_training_job(self._job))
            for payload in self._fetch.micro_batches(places):
                yield _row(payload)
        except ClinJepaError as error:
            yield _row(pa.py_buffer(b""), type(error).__name__, str(error))


def _row(payload: pa.Buffer, fault: str = "", message: str = "") -> pa.Table:
    """A table of one row; its payload is these bytes themselves, not a copy."""
    column = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(struct.pack("<qq", 0, payload.size)), payload])
    return pa.table({"payload": column, "fault": [fault], "message": [message]})
