"""Forward and backward of one micro-batch of a phase: its inputs, its targets, its loss, and the weights that get a gradient.

| phase | inputs | targets | rollout |
|---|---|---|---|
| frozen encoder, online target | latent store (or encoded, `reencode`) | the same | native |
| joint refinement | encoded online, with gradient | encoded with the EMA target | teacher-forced |
| alignment | latent store (or encoded) | encoded with the EMA target | teacher-forced |

Targets carry no gradient and are states only. Loss terms are L1 sums divided by the valid counts of the global batch
(Clin-JEPA, arXiv 2605.10840; the counts are this project's, so that any number of workers gives the same loss). A further term needs
its name and weight in `phase_loss`, its sum in `PhaseObjective._terms`, and its count in `PhaseTraining.begin_step`
(`clinjepa/curriculum/phase.py`), all in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clinjepa.curriculum.checkpoints.history import Row
from clinjepa.curriculum.feed.window_plan import Assignment, torch_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.encoding import TextChunks, backward_chunks, cut_chunks, encode_chunks
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import set_gradient_sync
from clinjepa.model.encoder import Encoder
from clinjepa.model.losses import TeacherForced, rollout_loss, teacher_forcing_loss
from clinjepa.model.predictor import Predictor


class WeightedLoss:
    """A loss that is a weighted sum of terms, each a sum over positions divided by the count of positions of the global batch.

    The value that is optimised and the value that is logged go over the same terms, in the same order.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        """weights: by name of the term."""
        self._weights = dict(weights)

    @property
    def num_terms(self) -> int:
        return len(self._weights)

    def optimised(self, sums: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        """The loss of one micro-batch (scalar); sums and counts by term. Raises ValueError when there are more or fewer than terms."""
        parts = [weight * sum_ / max(1, count) for weight, sum_, count in zip(self._weights.values(), sums, counts, strict=True)]
        return torch.stack(parts).sum()

    def logged(self, totals: Sequence[float], counts: Sequence[int]) -> Row:
        """`loss` of the global batch and the mean of every term; raises ValueError as `optimised`."""
        means = {name: total / max(1, count) for name, total, count in zip(self._weights, totals, counts, strict=True)}
        return {"loss": sum(self._weights[name] * mean for name, mean in means.items()), **means}


def phase_loss(rollout_weight: float) -> WeightedLoss:
    """The loss of every phase; rollout_weight: of `curriculum.rollout_weight`."""
    return WeightedLoss({"teacher_forcing": 1.0, "rollout": rollout_weight})


@dataclass
class MicroBatchLatents:
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
        self._job, self._phase, self._dist = job, job.phase, dist
        self._predictor, self._encoder = predictor, encoder
        self._token_budget = job.encoder_settings.token_budget
        self._rollout_steps = job.curriculum_settings.rollout_steps
        self.loss = phase_loss(job.curriculum_settings.rollout_weight)

    def latents(self, arrays: dict[str, Tensor], seed: int, with_gradient: bool) -> MicroBatchLatents:
        """Inputs and targets of a collated micro-batch; all workers call it alike when the phase runs the encoder."""
        if self._job.reads_latents:
            z_static, z_state, z_action = (arrays[name].float() for name in ("z_static", "z_state", "z_action"))
        if self._encoder is None:
            return MicroBatchLatents(z_static, z_state, z_action, z_state, None, None, 0)
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
        return MicroBatchLatents(z_static, z_state, z_action, target, unique_UD, chunks, num_tokens)

    def forward_backward(self, arrays: dict[str, Tensor], assigned: Assignment, counts: Sequence[int], sync: bool) -> tuple[Tensor, int]:
        """Add the gradients of one micro-batch.

        A micro-batch of weight 0 takes part in every collective and adds exactly nothing.

        Args:
            arrays: the collated micro-batch, on this worker's device.
            assigned: its place in the plan and its weight.
            counts: valid positions of the global batch, for each term of the loss.
            sync: reduce gradients over workers with this micro-batch, the step's last.

        Returns:
            (float64 [terms] L1 sums of the terms, tokens encoded).
        """
        seed = torch_seed(self._job.seed, assigned.step, assigned.micro)
        joint = self._job.trains_encoder
        latents = self.latents(arrays, seed, with_gradient=joint)
        torch.manual_seed(seed)
        set_gradient_sync(self._predictor, sync)
        terms = self._terms(latents, arrays)
        # Gradients are summed over workers, so the divisor is the count of the global batch.
        torch.autograd.backward(self.loss.optimised(terms, counts) * assigned.weight)
        num_tokens = latents.num_tokens
        if joint and self._encoder is not None and latents.chunks is not None and latents.unique_UD is not None:
            gradient_UD = latents.unique_UD.grad
            if gradient_UD is None:
                raise AssertionError("the predictor's backward pass left no gradient on the latents")
            backward_chunks(self._encoder, latents.chunks, gradient_UD, sync, self._dist.device)
            num_tokens += latents.chunks.num_tokens
        sums = torch.stack([term.detach() for term in terms]).double() * assigned.weight
        return sums, num_tokens * assigned.weight

    def _terms(self, latents: MicroBatchLatents, arrays: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Sums of the loss terms (scalars), in the order of `phase_loss`."""
        valid = arrays["valid"]
        pred_BTD, _, cache = self._predictor(latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, valid, keep_cache=True)
        teacher_forcing, _ = teacher_forcing_loss(pred_BTD, latents.target_BTD, valid)
        rollout, _ = rollout_loss(
            self._predictor,
            TeacherForced(pred_BTD, cache),
            latents.z_action_BTD,
            latents.target_BTD,
            arrays["rollout_starts"],
            self._rollout_steps,
            self._phase.rollout,
        )
        return teacher_forcing, rollout


def spread(unique_UD: Tensor, index: Tensor) -> Tensor:
    """Rows of unique_UD at `index` (any shape); index -1 is padding and gives 0."""
    return unique_UD[index.clamp(min=0).long()].masked_fill((index < 0)[..., None], 0.0)
