"""When all workers of a job save together, and when they report that a checkpoint is whole.

Worker 0 writes, usually while training continues. Only worker 0 knows that a write has ended and that it is time to ask whether a node
is about to leave. It passes both to the others as two numbers in the sum that every step makes, so all workers decide alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Self

import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.checkpoint import CheckpointWriter, Digests, checkpoint_folder
from clinjepa.curriculum.checkpoints.history import Row, TrainingHistory
from clinjepa.curriculum.jobs import TrainingJob
from clinjepa.curriculum.steps.optimizer import OptimizerState
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.storage import Folder

OnReport = Callable[[int, Row, str | None], None]
"""Takes the steps done over all phases, the latest metrics, and the address of a checkpoint that is now whole or None."""
Notice = Callable[[], Collection[str]]
"""Returns the names of the job's nodes that are about to leave the cluster."""

Captured = tuple[dict[str, dict[str, Tensor]], OptimizerState]
"""Whole tensors by file name without suffix, and the optimizer's JSON state."""

NUM_SIGNALS = 2
SECONDS_BETWEEN_QUESTIONS = 2.0
"""Least time between two calls of `Notice`, which costs a round trip between all workers."""


class Saver:
    """Checkpoints and reports of one job on this worker."""

    def __init__(
        self,
        job: TrainingJob,
        digests: Digests,
        history: TrainingHistory,
        dist: Dist,
        last_step: int,
        on_report: OnReport,
        notice: Notice | None,
    ) -> None:
        """Opens the checkpoint writer of a job.

        Args:
            job: the job that is trained.
            digests: of the job's settings and inputs.
            history: saved with every checkpoint.
            dist: the workers that save together.
            last_step: steps done, over all phases, when the job is complete.
            on_report: called when a step is logged and when a checkpoint is whole.
            notice: returns the nodes that are about to leave; None where nodes do not leave.
        """
        self._job, self._history, self._dist = job, history, dist
        self._checkpoints = Folder(job.out) / "checkpoints"
        self._first_step, self._last_step = job.start_step, last_step
        self._on_report, self._notice = on_report, notice
        self._writer = CheckpointWriter(self._checkpoints, digests, job.keep_checkpoints, job.asynchronous_checkpoints)
        self._pending: int | None = None
        self._asked_at = time.monotonic()
        self._leaving: set[str] = set()

    def signals(self) -> Tensor:
        """float64 [NUM_SIGNALS] for the step's sum. Raises StorageError on worker 0 when a checkpoint could not be written."""
        signals = torch.zeros(NUM_SIGNALS, dtype=torch.float64, device=self._dist.device)
        if self._dist.is_main:
            signals[0] = float(self._pending is not None and self._writer.is_whole())
            if self._notice is not None and time.monotonic() - self._asked_at > SECONDS_BETWEEN_QUESTIONS:
                signals[1] = 1.0
                self._asked_at = time.monotonic()
        return signals

    def after_step(self, done: int, signals: list[float], capture: Callable[[], Captured]) -> None:
        """Save and report where it is due after `done` steps; all workers call it.

        Args:
            done: steps done, over all phases.
            signals: the sums of all workers' `signals`.
            capture: returns the state to save; collective.

        Raises:
            StorageError: writing a checkpoint failed.
        """
        is_whole, asks = (bool(round(signal)) for signal in signals)
        newly_leaving = set(self._notice()) - self._leaving if asks and self._notice is not None else set()
        self._leaving |= newly_leaving
        address = self._settled() if is_whole else None
        if newly_leaving or done == self._last_step or (done - self._first_step) % self._job.checkpoint_every_steps == 0:
            # A node that is about to leave allows no time to write while training continues.
            address = self._save(done, capture, bool(newly_leaving) or done == self._last_step) or address
        if address is not None or (done - self._first_step) % self._job.log_every_steps == 0:
            began = time.perf_counter()
            self._on_report(done, {**self._history.latest(), "num_steps": self._last_step}, address)
            self._history.add_report(time.perf_counter() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """Wait for a write in progress, also after a fault: the state captured before the fault is a good checkpoint."""
        self._writer.close()

    def _save(self, done: int, capture: Callable[[], Captured], at_once: bool) -> str | None:
        began = time.perf_counter()
        address = self._wait() if self._pending is not None else None
        tensors, optimizer = capture()
        if self._dist.is_main:
            self._writer.save(done, tensors, {"optimizer": optimizer, "history": self._history.to_json()})
        self._pending = done
        if at_once or not self._job.asynchronous_checkpoints:
            address = self._wait()
        self._history.add_saves(1, time.perf_counter() - began)
        return address

    def _wait(self) -> str:
        if self._dist.is_main:
            self._writer.wait()
        self._dist.barrier()  # a reported address is whole for every worker
        return self._settled()

    def _settled(self) -> str:
        step, self._pending = self._pending, None
        if step is None:
            raise AssertionError("no checkpoint is being written")
        return checkpoint_folder(self._checkpoints, step).address
