"""The step loop of all training, SFT and phases alike; the same in a plain process, under `torchrun` and under Ray.

Per step: this worker's micro-batches of the plan, gradients summed over workers, a clip per parameter group, AdamW, and the action
after the update (the EMA move of a phase). The loop resumes from the newest whole checkpoint under `out/checkpoints`, and the files it
leaves in `out` do not depend on how often it was interrupted. What SFT and a phase do differently is behind `Training`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint, Digests, newest_for_all
from clinjepa.curriculum.checkpoints.history import Row, TrainingHistory
from clinjepa.curriculum.checkpoints.input_digests import agreed_digests
from clinjepa.curriculum.checkpoints.saving import Captured, Notice, OnReport, Saver
from clinjepa.curriculum.feed.plain_feed import Feed
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_plan import Assignment, assignments
from clinjepa.curriculum.jobs import TrainingJob, check_workers
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.storage import Folder

MicroBatch = tuple[dict[str, Tensor], Assignment]
"""An unpacked micro-batch and its place in the plan."""
_MEASUREMENTS_PER_JOB, _MIN_STEPS_BETWEEN = 4, 5


class Launch(NamedTuple):
    """How the loop is connected to its launcher; all workers pass the same kind of values."""

    dist: Dist
    feed: Feed
    on_report: OnReport
    notice: Notice | None = None
    after_step: Callable[[], None] | None = None
    """Called by every worker when a step and its saves are done."""


class Training(Protocol):
    """A job whose modules are assembled on this worker. Every method is collective: all workers call it at the same point."""

    @property
    def optimizer(self) -> GroupedAdamW: ...

    @property
    def clip_norm(self) -> float:
        """Largest gradient norm of a parameter group."""

    @property
    def last_step(self) -> int:
        """The number of steps that are done, over all phases, when the job is complete."""

    @property
    def arrays_on(self) -> torch.device:
        """Device that micro-batches are unpacked to."""

    @property
    def num_loss_terms(self) -> int:
        """Number of sums that `forward_backward` returns."""

    def begin_step(self, step: int) -> None:
        """Read the plan's counts of step `step` and set the modules to training mode."""

    def gather(self, batches: Iterable[MicroBatch]) -> Iterable[MicroBatch]:
        """The step's micro-batches, after sums over all micro-batches that global terms need."""

    def forward_backward(self, arrays: dict[str, Tensor], assigned: Assignment, sync: bool) -> tuple[Tensor, int]:
        """Add the gradients of one micro-batch; `sync`: reduce gradients over workers with it.

        Returns (float64 [num_loss_terms] sums of the loss terms, tokens through the encoder).
        """

    def losses(self, totals: Sequence[float]) -> Row:
        """`loss`, the value that the step optimises, and its terms, from the terms' sums over all workers."""

    def learning_rates(self, step: int) -> Mapping[str, float]:
        """Learning rate of each of the optimizer's groups."""

    def after_update(self) -> None:
        """Called after every optimizer update: the EMA target moves here."""

    def measure(self, done: int, history: TrainingHistory) -> None:
        """Append diagnostics after `done` steps; raises TrainingError when training must stop."""

    def captured(self) -> Captured:
        """Whole tensors of everything the job changes, by file name, and the optimizer's JSON state."""

    def write_outputs(self, history: TrainingHistory, digests: Digests) -> None:
        """Write the job's files to `out`; digests: of the job's settings and inputs."""


def train(
    job: TrainingJob, inputs: Callable[[], Mapping[str, str]], assemble: Callable[[Checkpoint | None], Training], launch: Launch
) -> dict[str, object]:
    """Train a job from its newest checkpoint, or its start, to its end and write its files to `job.out`; collective.

    Args:
        job: what to train.
        inputs: finds the digests of the job's inputs.
        assemble: builds the modules, from a checkpoint where there is one.
        launch: workers, feed and reports.

    Returns:
        The summary of the job's history.

    Raises:
        ConfigError: before any work, for a job that cannot work.
        StoreError: before any work, for inputs that do not belong together.
        CheckpointError: the checkpoint found does not fit the job.
        TrainingError: training must stop; the last good checkpoint is kept.
    """
    job.validate()
    dist, checkpoints = launch.dist, Folder(job.out) / "checkpoints"
    check_workers(job, dist.world_size)
    digests = agreed_digests(job, inputs, dist)
    checkpoint = newest_for_all(checkpoints, digests, dist)
    history = TrainingHistory(checkpoint.state()["history"] if checkpoint else None)
    start = checkpoint.step if checkpoint else job.start_step
    training = assemble(checkpoint)
    micro_batches = _MicroBatches(job, training, start, launch)
    if start == job.start_step and not history.diagnostics:
        training.measure(start, history)
    with Saver(job, digests, history, dist, training.last_step, launch.on_report, launch.notice) as saver:
        for step in range(start, training.last_step):
            began, waited = time.perf_counter(), micro_batches.waited
            row, norms, num_tokens, signals = _gradients(training, step, micro_batches, saver, dist)
            rates = training.learning_rates(step)
            row |= {f"grad_norm_{name}": norm for name, norm in norms.items()} | {f"lr_{name}": rate for name, rate in rates.items()}
            history.check(row, job.name, checkpoints.address)
            training.optimizer.step(rates, norms, training.clip_norm)
            training.after_update()
            history.add(row, num_tokens)
            seconds, waited = time.perf_counter() - began, micro_batches.waited - waited
            history.add_time(seconds, waited, dist.world_size, starts_at=step if step == start else None)
            done = step + 1
            if is_diagnostic_step(done - job.start_step, training.last_step - job.start_step):
                training.measure(done, history)
            saver.after_step(done, signals, training.captured)
            if launch.after_step is not None:
                launch.after_step()
    training.write_outputs(history, digests)
    return {**history.summary(), **history.time_summary()}


def is_diagnostic_step(done: int, num_steps: int) -> bool:
    """Whether to measure after `done` steps of a job: at its end and up to four times before, independent of logging and
    checkpoint intervals."""
    return done == num_steps or done % max(_MIN_STEPS_BETWEEN, num_steps // _MEASUREMENTS_PER_JOB) == 0


class _MicroBatches:
    """This worker's micro-batches, unpacked, in the order of the plan."""

    def __init__(self, job: TrainingJob, training: Training, start: int, launch: Launch) -> None:
        dist, self._device = launch.dist, training.arrays_on
        self.per_step = -(-job.num_micro_batches // dist.world_size)
        assigned = list(assignments(job, dist.rank, dist.world_size, start, training.last_step))
        self._arrivals, self._assigned = launch.feed(assigned), iter(assigned)
        self.waited = 0.0
        """Seconds spent waiting for data."""

    def of_step(self) -> Iterator[MicroBatch]:
        """The next step's micro-batches with their assignments."""
        for assigned in islice(self._assigned, self.per_step):
            before = time.perf_counter()
            arrays = unpacked(next(self._arrivals), self._device)
            self.waited += time.perf_counter() - before
            yield arrays, assigned


def _gradients(
    training: Training, step: int, micro_batches: _MicroBatches, saver: Saver, dist: Dist
) -> tuple[Row, dict[str, float], int, list[float]]:
    """Gradients of one step, reduced over workers.

    Returns (row with the step's losses, gradient norm by group, tokens through the encoder, summed signals of the savers).
    """
    training.begin_step(step)
    training.optimizer.zero_grad()
    num_terms = training.num_loss_terms
    sums = torch.zeros(num_terms + 1, dtype=torch.float64, device=dist.device)
    for turn, (arrays, assigned) in enumerate(training.gather(micro_batches.of_step())):
        terms, num_tokens = training.forward_backward(arrays, assigned, sync=turn == micro_batches.per_step - 1)
        sums[:num_terms] += terms
        sums[num_terms] += num_tokens
    # One collective per step: sums of the loss terms, tokens, squared norms of the reduced gradient shards, signals of worker 0's saver.
    sums = torch.cat([sums, training.optimizer.squared_norms(dist.device), saver.signals()])
    *totals, checkpoint_is_whole, ask_for_notice = dist.sum_(sums).tolist()
    squares = totals[num_terms + 1 :]
    norms = {name: math.sqrt(square) for name, square in zip(training.optimizer.groups, squares, strict=True)}
    row: Row = {"step": step, **training.losses(totals[:num_terms])}
    return row, norms, int(totals[num_terms]), [checkpoint_is_whole, ask_for_notice]
