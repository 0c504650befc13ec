"""SFT as the step loop's work: next-token training of the encoder on the pooled hour texts, before the curriculum.

Without adapters the whole base is trained in fp32 and becomes the base that LoRA then adapts (`config.json`, `model.safetensors`); with
adapters the online adapters of a public model are trained (`online.safetensors`). End-of-text is always appended (Clin-JEPA,
arXiv 2605.10840). Plan, checkpoints and determinism are those of the phases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.checkpoint import Checkpoint, Digests
from clinjepa.curriculum.checkpoints.history import Row, TrainingHistory
from clinjepa.curriculum.checkpoints.input_digests import sft_inputs
from clinjepa.curriculum.checkpoints.saving import Captured, Notice, OnReport
from clinjepa.curriculum.feed.plain_feed import Feed
from clinjepa.curriculum.feed.text_batches import TextBatches
from clinjepa.curriculum.feed.window_plan import Assignment, mix_seed, torch_seed
from clinjepa.curriculum.jobs import SftJob, pack_places
from clinjepa.curriculum.schedule import Schedule
from clinjepa.curriculum.steps.encoder_specs import next_token_spec
from clinjepa.curriculum.steps.optimizer import GroupedAdamW
from clinjepa.curriculum.training_loop import Launch, MicroBatch, train
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import communicates_in_every_forward, keep_gathered, set_gradient_sync
from clinjepa.curriculum.workers.out_of_memory import names_settings, sft_remedies
from clinjepa.model.encoding.encoder import Encoder, Loading, build_encoder
from clinjepa.model.encoding.packing import Pack
from clinjepa.model.pretrained.base_model import write_base
from clinjepa.model.tensor_files import ONLINE_TENSORS, write_tensors
from clinjepa.storage import Folder

_INIT_TAG = 8
NUM_TUNING_TEXTS = 256
"""Texts of tuning stays whose loss is measured during training."""


def run_sft(
    job: SftJob,
    dist: Dist,
    feed: Feed,
    on_report: OnReport,
    notice: Notice | None = None,
    after_step: Callable[[], None] | None = None,
) -> dict[str, object]:
    """Train from the newest checkpoint, or the start, to the end and write the base or the adapters to `job.out`; returns a summary.

    Arguments and errors are those of `run_phase`. The loss is in nats per predicted token.
    """
    launch = Launch(dist, feed, on_report, notice, after_step)
    with names_settings(job.name, sft_remedies(job)):
        return train(job, partial(sft_inputs, job), partial(SftTraining, job, dist), launch)


class SftTraining:
    """SFT with its modules; see `Training` for the methods."""

    num_loss_terms = 1

    def __init__(self, job: SftJob, dist: Dist, checkpoint: Checkpoint | None) -> None:
        self._job, self._dist, self._settings = job, dist, job.sft_settings
        self.encoder, self.optimizer = _assemble(job, dist, checkpoint)
        fetcher = TextBatches(job)
        self._plan = fetcher.plan
        self._tuning = TuningLoss(job, self.encoder, fetcher, dist)
        self._schedule = Schedule(self._plan.num_steps, self._settings.warmup_fraction)
        self._num_labels = 1
        self.last_step: int = self._plan.num_steps
        self.clip_norm, self.arrays_on = self._settings.clip_norm, torch.device("cpu")

    def begin_step(self, step: int) -> None:
        self._num_labels = self._plan.label_count(step)

    def gather(self, batches: Iterable[MicroBatch]) -> Iterable[MicroBatch]:
        """They pass one by one: the loss is a plain sum over tokens."""
        return batches

    def forward_backward(self, arrays: dict[str, Tensor], assigned: Assignment, sync: bool) -> tuple[Tensor, int]:
        """Sum of the next-token losses of one micro-batch, which is cut into packs of at most `pack_places` places."""
        lengths = arrays["text_lengths"].tolist()
        texts = [text.numpy() for text in torch.split(arrays["tokens"], lengths)] if lengths else []
        # A micro-batch without texts still takes part in the collectives, with one end-of-text that predicts nothing.
        encoder, places = self.encoder, pack_places(self._settings.micro_tokens)
        packs = encoder.pack(texts or [np.zeros(0, dtype=np.int64)], places, encoder.spec.eos_id)
        rounds = self._dist.max_int(len(packs)) if communicates_in_every_forward(encoder) else len(packs)
        torch.manual_seed(torch_seed(self._job.seed, assigned.step, assigned.micro))
        total, num_tokens = 0.0, 0
        for i in range(rounds):
            spare = i >= len(packs)
            pack, weight = packs[0 if spare else i], 0 if spare else assigned.weight
            set_gradient_sync(encoder, sync and i == rounds - 1)
            loss = _next_token_sum(encoder, pack, self._dist)
            torch.autograd.backward(loss * (weight / self._num_labels))
            total, num_tokens = total + float(loss.detach()) * weight, num_tokens + pack.num_tokens * weight
        return torch.tensor([total], dtype=torch.float64, device=self._dist.device), num_tokens

    def losses(self, totals: Sequence[float]) -> Row:
        return {"loss": totals[0] / self._num_labels}

    def learning_rates(self, step: int) -> Mapping[str, float]:
        return {"encoder": self._schedule.predictor_factor(step) * self._settings.learning_rate}

    def after_update(self) -> None:
        """SFT has no target that moves."""

    def measure(self, done: int, history: TrainingHistory) -> None:
        self._tuning.measure(done, history)

    def captured(self) -> Captured:
        moments, optimizer_state = self.optimizer.state()
        return {"online": self.encoder.online_state(), "optimizer": moments}, optimizer_state

    def write_outputs(self, history: TrainingHistory, digests: Digests) -> None:
        whole_model = self._job.lora is None
        state = self.encoder.base_state() if whole_model else self.encoder.online_state()
        if self._dist.is_main:
            out = Folder(self._job.out)
            if whole_model:
                write_base(out, self.encoder.base_config(), state)
            else:
                write_tensors(out, ONLINE_TENSORS, state)
            out.write_json("metrics.json", history.metrics())
            out.write_json("timing.json", history.time_summary())
        self._dist.barrier()


class TuningLoss:
    """Next-token loss on fixed texts of tuning stays, in nats per token; nothing is measured when there are none."""

    def __init__(self, job: SftJob, encoder: Encoder, fetcher: TextBatches, dist: Dist) -> None:
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
        """Append the loss after `done` steps; all workers call it."""
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
        for pack in self._encoder.pack(self._texts, self._job.sft_settings.micro_tokens, self._encoder.spec.eos_id):
            total += float(_next_token_sum(self._encoder, pack, self._dist))
        self._encoder.train()
        return total / sum(len(text) for text in self._texts)


def _next_token_sum(encoder: Encoder, pack: Pack, dist: Dist) -> Tensor:
    ids, positions, labels = (each.to(dist.device) for each in (pack.input_ids_L, pack.position_ids_L, pack.labels_L))
    loss: Tensor = encoder(ids, positions, labels_L=labels)
    return loss


def _assemble(job: SftJob, dist: Dist, checkpoint: Checkpoint | None) -> tuple[Encoder, GroupedAdamW]:
    encoder = build_encoder(
        next_token_spec(job.base_settings, job.lora, Folder(job.trajectories)),
        Folder(job.base) if job.base else None,
        mix_seed(_INIT_TAG, job.seed),
        with_head=True,
        loading=Loading(dist.device, dist.mesh()),
    )
    if checkpoint is not None:
        encoder.load_online(checkpoint.tensors("online"))
    encoder.train()
    encoder.recompute(job.activation_checkpointing)
    keep_gathered(encoder)
    optimizer = GroupedAdamW({"encoder": encoder.online_parameters()}, job.sft_settings.weight_decay)
    if checkpoint is not None:
        optimizer.load(checkpoint.tensors("optimizer"), checkpoint.state()["optimizer"]["updates"])
    return encoder, optimizer
