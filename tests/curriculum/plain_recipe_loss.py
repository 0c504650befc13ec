"""The loss of a phase's first step written out plainly: window by window, hour by hour, and statistics over all windows at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.feed.window_plan import mix_seed, torch_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.recipes import LossTerm
from clinjepa.curriculum.steps.assembly import PhaseModules, assemble
from clinjepa.curriculum.steps.objective import MicroBatchLatents, PhaseObjective
from clinjepa.curriculum.terms.masked import masked_hours
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.encoding.packing import pack_texts
from tests.support.data.hour_grids import normalised_values


@dataclass
class Batch:
    """A micro-batch with what the modules make of it."""

    arrays: dict[str, Tensor]
    latents: MicroBatchLatents
    windows: list[tuple[int, int, int]]
    pred_BTD: Tensor | None = None
    hidden_BTH: Tensor | None = None
    cache: object = None

    @property
    def valid_BT(self) -> Tensor:
        return self.arrays["valid"]


class PlainLoss:
    """Sums and counts of every term over the first step's micro-batches, computed one micro-batch after another."""

    def __init__(self, job: PhaseJob) -> None:
        self.job, self.sums, self.counts, self.states = job, dict[str, float](), dict[str, float](), list[Tensor]()
        self.modules: PhaseModules = assemble(job, Dist.current(), None)
        for module in (self.modules.predictor, *self.modules.heads.values()):
            if module is not None:
                module.train()
        fetcher, step = WindowBatches(job), job.first_step
        objective = PhaseObjective(job, self.modules.predictor, self.modules.encoder, Dist.current(), self.modules.heads)
        for micro, ids in enumerate(fetcher.plan.step(step)):
            given = fetcher.window_arrays(ids, fetcher.plan.rollout_starts(step, micro))
            arrays = {key: torch.from_numpy(value) for key, value in given.items()}
            seed = torch_seed(job.seed, step, micro)
            with torch.no_grad():
                latents = objective.latents(arrays, seed, with_gradient=False)
                torch.manual_seed(seed)
                self._add(Batch(arrays, latents, fetcher._windows(ids)))

    def value(self) -> float:
        """The weighted sum of the terms' means."""
        return sum(self._weight(term) * self._mean(term) for term in self.job.phase.loss)

    def _weight(self, term: LossTerm) -> float:
        return self.job.curriculum_settings.rollout_weight if isinstance(term.weight, str) else term.weight

    def _mean(self, term: LossTerm) -> float:
        if term.term == "sigreg":
            return plain_sigreg(torch.cat(self.states), self.job.first_step, self.job.seed)
        return self.sums[term.name] / max(1, self.counts[term.name])

    def _add(self, batch: Batch) -> None:
        self.states.append(batch.latents.z_state_BTD[batch.valid_BT])
        if self.modules.predictor is not None:
            z = batch.latents
            batch.pred_BTD, batch.hidden_BTH, batch.cache = self.modules.predictor(
                z.z_static_BD, z.z_state_BTD, z.z_action_BTD, batch.valid_BT, keep_cache=True
            )
        for term in self.job.phase.loss:
            if term.term != "sigreg":
                total, count = getattr(self, f"_{term.term}")(batch, term)
                self.sums[term.name] = self.sums.get(term.name, 0.0) + float(total)
                self.counts[term.name] = self.counts.get(term.name, 0) + count

    def _teacher_forcing(self, batch: Batch, term: LossTerm) -> tuple[Tensor, int]:
        error_BU = compared(term, batch.pred_BTD[:, :-1], batch.latents.target_BTD[:, 1:])
        return error_BU[batch.valid_BT[:, 1:]].sum(), int(batch.valid_BT[:, 1:].sum())

    def _rollout(self, batch: Batch, term: LossTerm) -> tuple[float, int]:
        starts = batch.arrays["rollout_starts"]
        begin, rows, last = starts.clamp(min=0), torch.arange(len(starts)), batch.valid_BT.shape[1] - 1
        first, following = batch.pred_BTD[rows, begin], (begin + 1).clamp(max=last)
        if self.job.phase.rollout == "teacher_forced":
            second = batch.pred_BTD[rows, following]
        else:
            action = batch.latents.z_action_BTD[rows, following]
            cache = batch.cache.up_to(begin)
            second = self.modules.predictor(None, first[:, None], action[:, None], cache=cache, keep_cache=True)[0][:, 0]
        total = 0.0
        for index in np.flatnonzero(starts.numpy() >= 0).tolist():
            for ahead, guess in ((1, first), (2, second)):
                total += float(compared(term, guess[index], batch.latents.target_BTD[index, starts[index] + ahead]))
        return total, int((starts >= 0).sum())

    def _latent_ahead(self, batch: Batch, term: LossTerm) -> tuple[float, int]:
        total, count, ahead = 0.0, 0, int(term.options["hours"])
        for window in range(len(batch.valid_BT)):
            for hour in range(int(batch.valid_BT[window].sum()) - ahead):
                guess = self.modules.heads[term.name](batch.hidden_BTH[window, hour])
                total += float(compared(term, guess, batch.latents.target_BTD[window, hour + ahead]))
                count += 1
        return total, count

    def _masked_latents(self, batch: Batch, term: LossTerm) -> tuple[Tensor, int]:
        z, hidden_BT = batch.latents, masked_hours(batch.valid_BT, 0.4)
        visible_BT = batch.valid_BT & ~hidden_BT
        assert int(visible_BT.sum(dim=1).min()) >= 2
        pred = self.modules.heads[term.name](z.z_static_BD, z.z_state_BTD, z.z_action_BTD, visible_BT)
        return (pred - z.target_BTD).abs().sum(-1)[hidden_BT].sum(), int(hidden_BT.sum())

    def _next_token(self, batch: Batch, term: LossTerm) -> tuple[float, int]:
        return plain_next_token(self.modules.encoder, batch.arrays), 1

    def _value_decode(self, batch: Batch, term: LossTerm) -> tuple[float, int]:
        """Huber distance of every measured value, over the mean number of measured values in a training hour."""
        head, total = self.modules.heads[term.name], 0.0
        for window, (stay, start, hours) in enumerate(batch.windows):
            for hour in range(hours):
                known, mean_number = normalised_values(self.job.ingest, stay, start + hour)
                decoded_V = head(batch.latents.z_state_BTD[window, hour])
                for column, value in known.items():
                    error = abs(float(decoded_V[column]) - value)
                    total += (error**2 / 2 if error < 1 else error - 0.5) / mean_number
        return total, sum(hours for *_, hours in batch.windows)


def plain_next_token(encoder: Encoder, arrays: dict[str, Tensor]) -> float:
    """Mean next-token loss of the distinct texts, text by text, end-of-text included."""
    total, lengths = 0.0, arrays["text_lengths"].tolist()
    for text in torch.split(arrays["tokens"], lengths):
        (pack,) = pack_texts([text.numpy()], 1 << 20, encoder.spec.eos_id)
        total += float(encoder(pack.input_ids_L, pack.position_ids_L, labels_L=pack.labels_L))
    return total / sum(lengths)


def compared(term: LossTerm, pred: Tensor, target: Tensor) -> Tensor:
    """Distance over the last axis."""
    if term.options["normalise"] == "layernorm":
        pred, target = normalised(pred), normalised(target)
    return ((pred - target) ** 2).mean(-1) if term.options["distance"] == "mse" else (pred - target).abs().sum(-1)


def normalised(z: Tensor) -> Tensor:
    return (z - z.mean(-1, keepdim=True)) / (z.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()


def plain_sigreg(z_ND: Tensor, step: int, seed: int) -> float:
    """LeJEPA's published statistic on all latents at once."""
    generator = torch.Generator().manual_seed(mix_seed(7, seed, step))
    directions = torch.randn(z_ND.shape[1], 256, generator=generator)
    t = torch.linspace(0, 3, 17)
    weights = torch.full((17,), 2 * 3 / 16)
    weights[[0, -1]] = 3 / 16
    normal = torch.exp(-t.square() / 2)
    x_t = (z_ND @ (directions / directions.norm(p=2, dim=0))).unsqueeze(-1) * t
    error = (x_t.cos().mean(0) - normal).square() + x_t.sin().mean(0).square()
    return float(((error @ (weights * normal)) * len(z_ND)).mean())
