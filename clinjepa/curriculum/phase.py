"""One phase of the curriculum as the step loop's work: which modules train, its losses, the EMA move, and the files it leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint, Digests
from clinjepa.curriculum.checkpoints.history import Row, TrainingHistory
from clinjepa.curriculum.checkpoints.input_digests import phase_inputs
from clinjepa.curriculum.checkpoints.saving import Captured, Notice, OnReport
from clinjepa.curriculum.feed.plain_feed import Feed
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import Assignment
from clinjepa.curriculum.jobs import COST, PhaseJob
from clinjepa.curriculum.schedule import Schedule
from clinjepa.curriculum.steps.assembly import assemble
from clinjepa.curriculum.steps.diagnostics import PhaseDiagnostics
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.training_loop import Launch, MicroBatch, train
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.out_of_memory import names_settings, phase_remedies
from clinjepa.model.predictor import PREDICTOR_ENCODER, save_predictor
from clinjepa.model.pretrained.identity import encoder_digest
from clinjepa.model.tensor_files import write_tensors
from clinjepa.storage import Folder

HOUR_VALUES = "hour_values.json"
"""Statistics by which the values were normalised, in a phase whose loss reads the hours' values: what its heads' outputs mean."""


def run_phase(
    job: PhaseJob,
    dist: Dist,
    feed: Feed,
    on_report: OnReport,
    notice: Notice | None = None,
    after_step: Callable[[], None] | None = None,
) -> dict[str, object]:
    """Train a phase from its newest checkpoint, or its start, to its end and write its files to `job.out`.

    Args:
        job: the phase.
        dist: this worker's place; all workers call the function alike.
        feed: yields this worker's micro-batches in the order of the assignments it is given.
        on_report: called by all workers at log steps and when a checkpoint is whole, with the steps done over all phases, the latest
            metrics (`num_steps` in them is the number of steps done when the phase is complete), and the checkpoint's address or None.
        notice: returns the names of nodes that are about to leave; called by all workers alike every few seconds. For each a
            checkpoint is written at once.
        after_step: called by every worker when a step and its saves are done.

    Returns:
        The summary of the phase's history.

    Raises:
        ConfigError, StoreError, CheckpointError, TrainingError: as `train`.
        ResourceError: memory ran out; the message names the settings to change.
    """
    launch = Launch(dist, feed, on_report, notice, after_step)
    with names_settings(job.name, phase_remedies(job)):
        return train(job, partial(phase_inputs, job), partial(PhaseTraining, job, dist), launch)


class PhaseTraining:
    """A phase with its modules; see `Training` for the methods."""

    def __init__(self, job: PhaseJob, dist: Dist, checkpoint: Checkpoint | None) -> None:
        self._job, self._dist, self._settings = job, dist, job.curriculum_settings
        self._modules = assemble(job, dist, checkpoint)
        fetcher = WindowBatches(job)
        self._plan, self._values = fetcher.plan, fetcher.values
        self._objective = PhaseObjective(job, self._modules.predictor, self._modules.encoder, dist, self._modules.heads)
        self._diagnostics = PhaseDiagnostics(job, self._objective, self._modules, fetcher, dist)
        own = job.phase.schedule == "own"
        self._schedule_start = job.first_step if own else 0
        self._schedule = Schedule(
            job.num_steps if own else job.total_steps,
            self._settings.warmup_fraction,
            job.first_step - self._schedule_start,
            encoder_warmup_steps=self._settings.encoder_warmup_steps,
        )
        self._step, self._counts = job.first_step, [0] * self._objective.loss.num_terms
        self.optimizer, self.last_step, self.arrays_on = self._modules.optimizer, job.last_step, dist.device
        self.clip_norm, self.num_loss_terms = self._settings.clip_norm, self._objective.loss.num_terms

    def begin_step(self, step: int) -> None:
        for module in (self._modules.predictor, *self._modules.heads.values()):
            if module is not None:
                module.train()
        self._step = step
        self._counts = [0 if term.of_texts else self._plan.count(step, term.counts, term.options) for term in self._objective.terms]

    def gather(self, batches: Iterable[MicroBatch]) -> Iterable[MicroBatch]:
        return self._objective.gather(batches, self._counts)

    def forward_backward(self, arrays: dict[str, Tensor], assigned: Assignment, sync: bool) -> tuple[Tensor, int]:
        return self._objective.forward_backward(arrays, assigned, self._counts, sync)

    def losses(self, totals: Sequence[float]) -> Row:
        return self._objective.loss.logged(totals, self._objective.divisors(self._counts))

    def learning_rates(self, step: int) -> Mapping[str, float]:
        step -= self._schedule_start
        rates = {
            "predictor": self._schedule.predictor_factor(step) * self._settings.predictor_lr,
            "encoder": self._schedule.encoder_factor(step) * self._settings.encoder_lr,
            "heads": self._schedule.predictor_factor(step) * self._settings.predictor_lr,
        }
        return {group: rates[group] for group in self.optimizer.groups}

    def after_update(self) -> None:
        """Move the EMA target: target ← momentum · target + (1 − momentum) · online."""
        if self._job.phase.ema_moves and self._modules.encoder is not None:
            self._modules.encoder.ema_update(self._settings.momentum(self._step - self._job.first_step, self._job.num_steps))

    def measure(self, done: int, history: TrainingHistory) -> None:
        self._diagnostics.measure(done, history)

    def captured(self) -> Captured:
        return self._modules.captured(self._job)

    def write_outputs(self, history: TrainingHistory, digests: Digests) -> None:
        job, encoder = self._job, digests.get("encoder")  # None when the job names no encoder by content
        tensors, optimizer = self._modules.captured(job)
        if self._dist.is_main:
            out = Folder(job.out)
            predictor = self._modules.predictor
            if predictor is not None:
                save_predictor(tensors["predictor"], replace(predictor.spec, trained_hours=self._plan.trained_hours), out)
            for name, group in tensors.items():
                if name != "predictor":
                    write_tensors(out, f"{name}.safetensors", group)
            if encoder is not None and self._modules.predictor is not None:
                encoder = encoder_digest(Folder(str(job.base)), out) if job.trains_encoder else encoder
                out.write_json(PREDICTOR_ENCODER, {"encoder_digest": encoder})
            out.write_json("optimizer.json", optimizer)
            out.write_json("metrics.json", history.metrics())
            if self._values is not None:
                out.write_json(HOUR_VALUES, self._values.described())
            out.write_json("timing.json", history.time_summary())
            trains = job.phase.trains_predictor
            out.write_json(COST, {"predictor_tokens": self._plan.predictor_tokens(job.first_step, job.last_step) if trains else 0})
        self._dist.barrier()
