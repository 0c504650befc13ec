"""The training loop of one phase, the same in a plain process, under `torchrun` and under Ray; and the hard sync.

Per step: the plan's micro-batches, gradients summed over workers, a clip per group, AdamW, the EMA update. The loop goes on
by itself from the newest whole checkpoint under `out/checkpoints`, and what it leaves in `out` does not depend on how
often it was interrupted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from clinjepa.curriculum.assembly import PhaseModules, assemble
from clinjepa.curriculum.checkpoints.checkpoint import newest_for_all
from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.checkpoints.input_digests import agreed_digests
from clinjepa.curriculum.checkpoints.saving import Notice, OnReport, Saver
from clinjepa.curriculum.diagnostics import PhaseDiagnostics, is_diagnostic_step
from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.feed.micro_batches import MicroBatchFetcher
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_plan import Assignment, assignments
from clinjepa.curriculum.jobs import PhaseJob, check_workers, num_micro_batches
from clinjepa.curriculum.objective import PhaseObjective
from clinjepa.curriculum.out_of_memory import names_settings
from clinjepa.curriculum.schedule import Schedule
from clinjepa.errors import CheckpointError, ConfigError
from clinjepa.model.identity import encoder_digest
from clinjepa.model.predictor import PREDICTOR_ENCODER, save_predictor
from clinjepa.model.tensor_files import check_same_tensors, read_tensors, write_tensors
from clinjepa.storage import Folder

Feed = Callable[[Sequence[Assignment]], Iterator[pa.Buffer]]

SYNC_GAP = 1e-5
"""Largest difference that the hard sync may leave between online and target (Clin-JEPA, arXiv 2605.10840)."""


@names_settings
def run_phase(job: PhaseJob, dist: Dist, feed: Feed, on_report: OnReport, notice: Notice | None = None) -> dict[str, Any]:
    """Train a phase from its newest checkpoint, or its start, to its end and write its files to `job.out`; returns a summary.

    All workers call it alike. feed: yields this worker's micro-batches in the order of the assignments it is given;
    on_report(steps done over all phases, latest metrics, address of a checkpoint that is now whole or None): called by all workers
    at log steps and when a checkpoint is whole; the metrics' `num_steps` is the number of steps done when the phase is complete.
    notice(): which nodes are going away, asked by all workers alike every few seconds; for each a checkpoint is written at once.
    Raises ConfigError, or StoreError for latents of another encoder, before any work, CheckpointError for what cannot be gone on from,
    and TrainingError when training must not go on; the last good checkpoint is then still there.
    """
    job.validate()
    check_workers(job, dist.world_size)
    phase = job.parsed_phase
    if phase.trains == "nothing":
        raise ConfigError(f"phase {phase.name} takes no training steps; it is an operation on checkpoints (hard_sync)")
    checkpoints, digests = Folder(job.out) / "checkpoints", agreed_digests(job, dist)
    checkpoint = newest_for_all(checkpoints, digests, dist)
    history = TrainingHistory(checkpoint.state()["history"] if checkpoint else None)
    start = checkpoint.step if checkpoint else job.first_step
    modules = assemble(job, dist, checkpoint)
    fetcher = MicroBatchFetcher(job)
    objective = PhaseObjective(job, modules.predictor, modules.encoder, dist)
    diagnostics = PhaseDiagnostics(job, objective, modules, fetcher, dist)
    settings = job.curriculum_settings
    schedule = Schedule(job.total_steps, float(settings["warmup_fraction"]), job.first_step, int(settings["encoder_warmup_steps"]))
    plan = fetcher.plan
    rounds = -(-num_micro_batches(job) // dist.world_size)
    assigned = list(assignments(job, dist.rank, dist.world_size, start, job.last_step))
    arrivals = feed(assigned)
    if start == job.first_step and not history.diagnostics:
        diagnostics.measure(start, history)
    with Saver(job, checkpoints, digests, history, dist, (job.first_step, job.last_step), on_report, notice) as saver:
        for step in range(start, job.last_step):
            began = time.perf_counter()
            waited = 0.0
            modules.predictor.train()
            modules.optimizer.zero_grad()
            counts = plan.teacher_forcing_count(step), plan.rollout_count(step)
            sums = torch.zeros(3, dtype=torch.float64, device=dist.device)
            for turn in range(rounds):
                before = time.perf_counter()
                arrays = unpacked(next(arrivals), dist.device)
                waited += time.perf_counter() - before
                current = assigned[(step - start) * rounds + turn]
                losses, tokens = objective.forward_backward(arrays, current, counts, sync=turn == rounds - 1)
                sums[:2] += losses
                sums[2] += tokens
            # One collective per step: loss sums, tokens, squared norms of the reduced gradient shards, and what worker 0 has to say.
            sums = torch.cat([sums, modules.optimizer.squared_norms(dist.device), saver.signals()])
            *totals, whole, asks = dist.sum_(sums).tolist()
            norms = {name: math.sqrt(value) for name, value in zip(modules.optimizer.groups, totals[3:], strict=True)}
            row = _row(step, totals, counts, norms, float(settings["rollout_weight"]))
            factors = {"predictor": schedule.predictor_factor(step), "encoder": schedule.encoder_factor(step)}
            rates = {name: factors[name] * float(settings[f"{name}_lr"]) for name in modules.optimizer.groups}
            row |= {f"lr_{name}": rates[name] for name in rates}
            history.check(row, checkpoints.address)
            modules.optimizer.step(rates, norms, float(settings["clip_norm"]))
            if phase.ema_moves and modules.encoder is not None:
                modules.encoder.ema_update(float(settings["ema_momentum"]))
            history.add(row, int(totals[2]))
            history.add_time(time.perf_counter() - began, waited, dist.world_size, starts_at=step if step == start else None)
            done = step + 1
            if is_diagnostic_step(done - job.first_step, job.num_steps):
                diagnostics.measure(done, history)
            saver.after_step(done, [whole, asks], lambda: modules.tensors(job))
    _write_outputs(job, modules, history, dist, digests.get("encoder"))
    return history.summary() | history.time_summary()


def hard_sync(job: PhaseJob) -> dict[str, Any]:
    """Phase 4: write `target.safetensors` := the online state, read it back and check the gap; returns the gap before and after.

    Takes no training steps and builds no model. One process calls it. Raises CheckpointError when online and target are not
    of the same encoder or the gap is not below 1e-5 afterwards, and ConfigError for the job of a phase that trains something.
    """
    job.validate()
    if job.parsed_phase.trains != "nothing":
        raise ConfigError(f"phase {job.parsed_phase.name} trains something; only a phase that trains nothing is a hard sync")
    out = Folder(job.out)
    online = read_tensors(Folder(str(job.encoder)), "online.safetensors")
    before = None
    if job.target:
        target = read_tensors(Folder(job.target), "target.safetensors")
        check_same_tensors(target, online, f"{job.target}/target.safetensors")
        before = _gap(online, target)
    write_tensors(out, "target.safetensors", online)
    after = _gap(online, read_tensors(out, "target.safetensors"))
    if not after < SYNC_GAP:
        raise CheckpointError(f"{out.address}: online and target still differ by {after:.3g} after the hard sync (limit {SYNC_GAP:g})")
    gaps = {"target_gap_before": before, "target_gap_after": after}
    out.write_json("metrics.json", {**TrainingHistory().metrics(), **gaps})
    return {"num_steps": 0, **gaps}


def _gap(online: dict[str, Tensor], target: dict[str, Tensor]) -> float:
    return max((float((online[name].float() - target[name].float()).abs().max()) for name in online if online[name].numel()), default=0.0)


def _row(step: int, totals: list[float], counts: tuple[int, int], norms: dict[str, float], rollout_weight: float) -> dict[str, Any]:
    teacher_forcing, rollout = totals[0] / max(1, counts[0]), totals[1] / max(1, counts[1])
    row = {"step": step, "loss": teacher_forcing + rollout_weight * rollout, "teacher_forcing": teacher_forcing, "rollout": rollout}
    return row | {f"grad_norm_{name}": norm for name, norm in norms.items()}


def _write_outputs(job: PhaseJob, modules: PhaseModules, history: TrainingHistory, dist: Dist, encoder: str | None) -> None:
    """encoder: digest of the encoder that the phase began with; None when the job names none by content."""
    tensors, optimizer = modules.tensors(job)
    if dist.is_main:
        out = Folder(job.out)
        save_predictor(tensors.pop("predictor"), modules.predictor.spec, out)
        for name, group in tensors.items():
            write_tensors(out, f"{name}.safetensors", group)
        if encoder is not None:
            encoder = encoder_digest(Folder(str(job.base)), out) if job.trains_encoder else encoder
            out.write_json(PREDICTOR_ENCODER, {"encoder_digest": encoder})
        out.write_json("optimizer.json", optimizer)
        out.write_json("metrics.json", history.metrics())
        out.write_json("timing.json", history.time_summary())
    dist.barrier()
