"""When all workers of a job save together, and when they may say that a checkpoint is whole.

Worker 0 writes, usually beside the training. What it alone knows (the write has ended; it is time to ask whether a node is going
away) reaches the others as two numbers in the sum that every step makes anyway, so that all of them decide alike.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.checkpoint import CheckpointWriter, Digests, checkpoint_folder
from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.jobs import Job
from clinjepa.storage import Folder

OnReport = Callable[[int, dict[str, Any], str | None], None]
Notice = Callable[[], Collection[str]]
"""Which of the nodes that compute this job are going away."""

Capture = Callable[[], tuple[Mapping[str, Mapping[str, Tensor]], dict[str, Any]]]

NUM_SIGNALS = 2
SECONDS_BETWEEN_QUESTIONS = 2.0
"""How often the launcher is asked whether a node is going away: the question is a round trip between all workers."""


class Saver:
    """Checkpoints and reports of one job on this worker."""

    def __init__(
        self,
        job: Job,
        checkpoints: Folder,
        digests: Digests,
        history: TrainingHistory,
        dist: Dist,
        steps: tuple[int, int],
        on_report: OnReport,
        notice: Notice | None,
    ) -> None:
        """steps: counted over all phases, the first of the job and how many are done when it is complete."""
        self._job, self._checkpoints, self._history, self._dist = job, checkpoints, history, dist
        self._first_step, self._last_step = steps
        self._on_report, self._notice = on_report, notice
        self._writer = CheckpointWriter(checkpoints, digests, job.keep_checkpoints, job.asynchronous_checkpoints)
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

    def after_step(self, done: int, signals: list[float], capture: Capture) -> None:
        """Save and report as is due after `done` steps; all workers call it with the sums of their signals.

        capture: gives whole tensors by file name and the optimizer's state; collective. Raises StorageError.
        """
        is_whole, asks = (bool(round(signal)) for signal in signals)
        newly_leaving = set(self._notice()) - self._leaving if asks and self._notice is not None else set()
        self._leaving |= newly_leaving
        address = self._settled() if is_whole else None
        if newly_leaving or done == self._last_step or (done - self._first_step) % self._job.checkpoint_every_steps == 0:
            # A node that is going away leaves no time to write beside the training.
            address = self._save(done, capture, bool(newly_leaving) or done == self._last_step) or address
        if address is not None or (done - self._first_step) % self._job.log_every_steps == 0:
            began = time.perf_counter()
            self._on_report(done, self._history.latest() | {"num_steps": self._last_step}, address)
            self._history.add_report(time.perf_counter() - began)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        """Wait for what is being written, also when the training must stop: what was captured before the fault is a good checkpoint."""
        self._writer.close()

    def _save(self, done: int, capture: Capture, at_once: bool) -> str | None:
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
