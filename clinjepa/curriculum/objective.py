"""Forward and backward of one micro-batch of a phase: which latents go in, what they are regressed on, what gets a gradient.

| phase | inputs | targets | rollout |
|---|---|---|---|
| frozen encoder, online target | latent store (or encoded, `reencode`) | the same | native |
| joint refinement | encoded online, with gradient | encoded with the EMA target | teacher-forced |
| alignment | latent store (or encoded) | encoded with the EMA target | teacher-forced |

Targets carry no gradient and are states only. Losses are L1 sums divided by the valid counts of the global batch
(Clin-JEPA, arXiv 2605.10840; the counts are this project's, so that any number of workers gives the same loss).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clinjepa.curriculum.dist import Dist
from clinjepa.curriculum.encoding import TextChunks, backward_chunks, cut_chunks, encode_chunks
from clinjepa.curriculum.feed.window_plan import Assignment, torch_seed
from clinjepa.curriculum.gathering import set_gradient_sync
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.model.encoder import Encoder
from clinjepa.model.losses import rollout_loss, teacher_forcing_loss
from clinjepa.model.predictor import Predictor


@dataclass
class Latents:
    """Latents of a micro-batch: inputs and targets; `unique_UD` is the leaf that takes dL/dz in joint refinement."""

    z_static_BD: Tensor
    z_state_BTD: Tensor
    z_action_BTD: Tensor
    target_BTD: Tensor
    unique_UD: Tensor | None
    chunks: TextChunks | None
    num_tokens: int


class PhaseObjective:
    """Runs micro-batches of one phase on this worker's modules."""

    def __init__(self, job: PhaseJob, predictor: Predictor, encoder: Encoder | None, dist: Dist) -> None:
        self._job, self._phase, self._dist = job, job.parsed_phase, dist
        self._predictor, self._encoder = predictor, encoder
        self._token_budget = int(job.encoder_settings["token_budget"])
        self._rollout_steps = int(job.curriculum_settings["rollout_steps"])
        self._rollout_weight = float(job.curriculum_settings["rollout_weight"])

    def latents(self, arrays: dict[str, Tensor], seed: int, with_gradient: bool) -> Latents:
        """Inputs and targets of a collated micro-batch. All workers call it alike when the phase runs the encoder."""
        if self._job.reads_latents:
            z_static, z_state, z_action = (arrays[name].float() for name in ("z_static", "z_state", "z_action"))
        if self._encoder is None:
            return Latents(z_static, z_state, z_action, z_state, None, None, 0)
        device, num_tokens = self._dist.device, 0
        unique_UD = chunks = None
        if not self._job.reads_latents:
            chunks = cut_chunks(self._encoder, arrays, self._token_budget, seed, self._dist)
            unique_UD = encode_chunks(self._encoder, chunks, "online", device).requires_grad_(with_gradient)
            num_tokens += chunks.num_tokens
            z_static = unique_UD[arrays["static_texts"].long()]
            z_state = spread(unique_UD, arrays["state_texts"])
            z_action = spread(unique_UD, arrays["action_texts"])
        target = z_state.detach()
        if self._phase.target == "ema":
            num_states = int(arrays["state_texts"].max()) + 1
            state_chunks = cut_chunks(self._encoder, arrays, self._token_budget, seed, self._dist, num_states)
            target = spread(encode_chunks(self._encoder, state_chunks, "target", device), arrays["state_texts"])
            num_tokens += state_chunks.num_tokens
        return Latents(z_static, z_state, z_action, target, unique_UD, chunks, num_tokens)

    def forward_backward(self, arrays: dict[str, Tensor], assigned: Assignment, counts: tuple[int, int], sync: bool) -> tuple[Tensor, int]:
        """Add the gradients of one micro-batch; returns (float64 [2] teacher-forcing and rollout L1 sums, tokens encoded).

        counts: valid teacher-forcing and rollout positions of the global batch; sync: reduce gradients over workers now (the
        step's last micro-batch). A micro-batch of weight 0 takes part in every collective and adds exactly nothing.
        """
        seed = torch_seed(self._job.seed, assigned.step, assigned.micro)
        joint = self._job.trains_encoder
        latents = self.latents(arrays, seed, with_gradient=joint)
        torch.manual_seed(seed)
        set_gradient_sync(self._predictor, sync)
        teacher_forcing, rollout = self._losses(latents, arrays)
        loss = teacher_forcing / max(1, counts[0]) + self._rollout_weight * rollout / max(1, counts[1])
        (loss * assigned.weight).backward()  # summed over workers: the divisor is that of the global batch
        num_tokens = latents.num_tokens
        if joint:
            backward_chunks(self._encoder, latents.chunks, latents.unique_UD.grad, sync, self._dist.device)
            num_tokens += latents.chunks.num_tokens
        sums = torch.stack([teacher_forcing.detach(), rollout.detach()]).double() * assigned.weight
        return sums, num_tokens * assigned.weight

    def _losses(self, latents: Latents, arrays: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        valid = arrays["valid"]
        pred_BTD, _, cache = self._predictor(latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, valid, keep_cache=True)
        teacher_forcing, _ = teacher_forcing_loss(pred_BTD, latents.target_BTD, valid)
        rollout, _ = rollout_loss(
            self._predictor,
            cache,
            pred_BTD,
            latents.z_action_BTD,
            latents.target_BTD,
            arrays["rollout_starts"],
            self._rollout_steps,
            self._phase.rollout,
        )
        return teacher_forcing, rollout


def spread(unique_UD: Tensor, index: Tensor) -> Tensor:
    """unique_UD at `index` (any shape; -1 is padding and gives 0)."""
    return unique_UD[index.clamp(min=0).long()].masked_fill((index < 0)[..., None], 0.0)
