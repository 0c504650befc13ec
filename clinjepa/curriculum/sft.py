"""SFT initialisation: next-token training of the encoder on the pooled hour texts, before the curriculum.

A small base made here is trained whole and becomes the base that LoRA then adapts (`config.json`, `model.safetensors`); a
public model gets its online adapters trained (`online.safetensors`). End-of-text is always appended (Clin-JEPA,
arXiv 2605.10840). Same plan, checkpoints and determinism as the phases.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clinjepa.curriculum.assembly import encoder_spec
from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint, newest_for_all
from clinjepa.curriculum.checkpoints.history import TrainingHistory
from clinjepa.curriculum.checkpoints.input_digests import agreed_digests
from clinjepa.curriculum.checkpoints.saving import Notice, OnReport, Saver
from clinjepa.curriculum.diagnostics import is_diagnostic_step
from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.feed.micro_batches import MicroBatchFetcher
from clinjepa.curriculum.feed.text_plan import TextPlan
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_plan import Assignment, assignments, mix_seed, torch_seed
from clinjepa.curriculum.gathering import communicates_in_every_forward, keep_gathered, set_gradient_sync
from clinjepa.curriculum.jobs import SftJob, check_workers, num_micro_batches, pack_places
from clinjepa.curriculum.optimizer import GroupedAdamW
from clinjepa.curriculum.out_of_memory import names_settings
from clinjepa.curriculum.phase import Feed
from clinjepa.curriculum.schedule import Schedule
from clinjepa.model.base_model import write_base
from clinjepa.model.encoder import Encoder, build_encoder
from clinjepa.model.packing import Pack, pack_texts
from clinjepa.model.tensor_files import write_tensors
from clinjepa.storage import Folder

_INIT_TAG = 8
NUM_TUNING_TEXTS = 256
"""Texts of tuning stays whose loss is measured while training."""


@names_settings
def run_sft(job: SftJob, dist: Dist, feed: Feed, on_report: OnReport, notice: Notice | None = None) -> dict[str, Any]:
    """Train from the newest checkpoint, or the start, to the end and write the base or the adapters to `job.out`; returns a summary.

    All workers call it alike; `feed`, `on_report`, `notice` and what is raised are as in `run_phase`. Loss is in nats per predicted token.
    """
    job.validate()
    check_workers(job, dist.world_size)
    settings = job.sft_settings
    checkpoints, digests = Folder(job.out) / "checkpoints", agreed_digests(job, dist)
    checkpoint = newest_for_all(checkpoints, digests, dist)
    history = TrainingHistory(checkpoint.state()["history"] if checkpoint else None)
    start = checkpoint.step if checkpoint else 0
    encoder, optimizer = _assemble(job, dist, checkpoint)
    fetcher = MicroBatchFetcher(job)
    plan: TextPlan = fetcher.plan
    tuning = _TuningLoss(job, encoder, fetcher, dist)
    schedule = Schedule(plan.num_steps, float(settings["warmup_fraction"]))
    rounds = -(-num_micro_batches(job) // dist.world_size)
    assigned = list(assignments(job, dist.rank, dist.world_size, start, plan.num_steps))
    arrivals = feed(assigned)
    if start == 0 and not history.diagnostics:
        tuning.measure(0, history)
    with Saver(job, checkpoints, digests, history, dist, (0, plan.num_steps), on_report, notice) as saver:
        for step in range(start, plan.num_steps):
            began, waited = time.perf_counter(), 0.0
            optimizer.zero_grad()
            labels = plan.label_count(step)
            sums = torch.zeros(2, dtype=torch.float64, device=dist.device)
            for turn in range(rounds):
                before = time.perf_counter()
                arrays = unpacked(next(arrivals), torch.device("cpu"))
                waited += time.perf_counter() - before
                current = assigned[(step - start) * rounds + turn]
                loss, tokens = _forward_backward(job, encoder, arrays, current, labels, turn == rounds - 1, dist)
                sums += torch.tensor([loss, tokens], dtype=torch.float64, device=dist.device)
            sums = torch.cat([sums, optimizer.squared_norms(dist.device), saver.signals()])
            *totals, whole, asks = dist.sum_(sums).tolist()
            rate = schedule.predictor_factor(step) * float(settings["learning_rate"])
            norm = math.sqrt(totals[2])
            row = {"step": step, "loss": totals[0] / labels, "grad_norm_encoder": norm, "lr_encoder": rate}
            history.check(row, checkpoints.address)
            optimizer.step({"encoder": rate}, {"encoder": norm}, float(settings["clip_norm"]))
            history.add(row, int(totals[1]))
            history.add_time(time.perf_counter() - began, waited, dist.world_size, starts_at=step if step == start else None)
            done = step + 1
            if is_diagnostic_step(done, plan.num_steps):
                tuning.measure(done, history)
            saver.after_step(done, [whole, asks], lambda: _captured(encoder, optimizer))
    _write_outputs(job, encoder, history, dist)
    return history.summary() | history.time_summary()


class _TuningLoss:
    """Next-token loss on fixed texts of tuning stays, in nats per token; nothing is measured when there are none."""

    def __init__(self, job: SftJob, encoder: Encoder, fetcher: MicroBatchFetcher, dist: Dist) -> None:
        self._job, self._encoder, self._dist = job, encoder, dist
        stays = fetcher.trajectories.stays
        split = np.asarray(stays["split"].to_pylist())
        ids = stays["stay_id"].to_numpy()[split == "tuning"]
        generator = np.random.default_rng(mix_seed(_INIT_TAG, job.seed))
        self._texts: list[np.ndarray] = []
        for stay_id in generator.permutation(ids).tolist():
            if len(self._texts) >= NUM_TUNING_TEXTS:
                break
            stay = fetcher.trajectories.stay(stay_id)
            self._texts += [stay.static, *stay.states, *stay.actions]
        self._texts = self._texts[:NUM_TUNING_TEXTS]

    def measure(self, done: int, history: TrainingHistory) -> None:
        if not self._texts:
            history.alarm("no_tuning_stays", done, "there are no tuning stays: the tuning loss is not measured")
            return
        began = time.perf_counter()
        loss = self._loss()
        history.add_diagnosis(time.perf_counter() - began)
        history.diagnostics.append({"step": done, "tuning_loss": loss})

    @torch.no_grad()
    def _loss(self) -> float:
        self._encoder.eval()
        total = 0.0
        for pack in pack_texts(self._texts, int(self._job.sft_settings["micro_tokens"]), self._encoder.spec.eos_id):
            total += float(_next_token_sum(self._encoder, pack, self._dist))
        self._encoder.train()
        return total / sum(len(text) for text in self._texts)


def _forward_backward(
    job: SftJob, encoder: Encoder, arrays: dict[str, Tensor], assigned: Assignment, labels: int, sync: bool, dist: Dist
) -> tuple[float, int]:
    """(summed loss, tokens) of one micro-batch; in several packs where one would take more places than memory is planned for."""
    lengths = arrays["text_lengths"].tolist()
    texts = [text.numpy() for text in torch.split(arrays["tokens"], lengths)] if lengths else []
    # A micro-batch without texts still takes part in the collectives, with one end-of-text that predicts nothing.
    places = pack_places(int(job.sft_settings["micro_tokens"]))
    packs = pack_texts(texts or [np.zeros(0, dtype=np.int64)], places, encoder.spec.eos_id)
    rounds = dist.max_int(len(packs)) if communicates_in_every_forward(encoder) else len(packs)
    torch.manual_seed(torch_seed(job.seed, assigned.step, assigned.micro))
    total, tokens = 0.0, 0
    for i in range(rounds):
        spare = i >= len(packs)
        pack, weight = packs[0 if spare else i], 0 if spare else assigned.weight
        set_gradient_sync(encoder, sync and i == rounds - 1)
        loss = _next_token_sum(encoder, pack, dist)
        (loss * (weight / labels)).backward()
        total, tokens = total + float(loss.detach()) * weight, tokens + pack.num_tokens * weight
    return total, tokens


def _next_token_sum(encoder: Encoder, pack: Pack, dist: Dist) -> Tensor:
    ids, positions, labels = (each.to(dist.device) for each in (pack.input_ids_L, pack.position_ids_L, pack.labels_L))
    return encoder(ids, positions, labels_L=labels)


def _assemble(job: SftJob, dist: Dist, checkpoint: Checkpoint | None) -> tuple[Encoder, GroupedAdamW]:
    spec = encoder_spec(job.encoder_settings, Folder(job.trajectories))
    encoder = build_encoder(
        spec,
        Folder(job.base) if job.base else None,
        mix_seed(_INIT_TAG, job.seed),
        whole_model_trainable=_trains_whole_model(job),
        device=dist.device,
        mesh=dist.mesh(),
        with_head=True,
    )
    if checkpoint is not None:
        encoder.load_online(checkpoint.tensors("online"))
    encoder.train()
    encoder.recompute(job.activation_checkpointing)
    keep_gathered(encoder)
    optimizer = GroupedAdamW({"encoder": encoder.online_parameters()}, float(job.sft_settings["weight_decay"]))
    if checkpoint is not None:
        optimizer.load(checkpoint.tensors("optimizer"), checkpoint.state()["optimizer"]["updates"])
    return encoder, optimizer


def _trains_whole_model(job: SftJob) -> bool:
    return job.encoder_settings["init"] == "config" or job.encoder_settings["adaptation"] == "full"


def _captured(encoder: Encoder, optimizer: GroupedAdamW) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    moments, optimizer_state = optimizer.state()
    return {"online": encoder.online_state(), "optimizer": moments}, optimizer_state


def _write_outputs(job: SftJob, encoder: Encoder, history: TrainingHistory, dist: Dist) -> None:
    whole_model = _trains_whole_model(job)
    state = encoder.base_state() if whole_model else encoder.online_state()
    if dist.is_main:
        out = Folder(job.out)
        if whole_model:
            write_base(out, encoder.base_config(), state)
        else:
            write_tensors(out, "online.safetensors", state)
        out.write_json("metrics.json", history.metrics())
        out.write_json("timing.json", history.time_summary())
    dist.barrier()
