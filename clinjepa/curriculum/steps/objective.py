"""Forward and backward of one micro-batch of a phase: its inputs, its targets, its loss, and the weights that get a gradient.

| phase | inputs | targets | rollout |
|---|---|---|---|
| frozen encoder, online target | latent store (or encoded, `reencode`) | the same | native |
| joint refinement | encoded online, with gradient | encoded with the EMA target | teacher-forced |
| alignment | latent store (or encoded) | encoded with the EMA target | teacher-forced |

Targets are states only, and carry no gradient unless the phase sets `target_gradient`. Loss terms (`clinjepa/curriculum/terms/`) are sums
divided by counts of the global batch (Clin-JEPA, arXiv 2605.10840; the counts are this project's, so that any number of workers gives the
same loss). A term of statistics of the global batch gets its sums over all micro-batches and workers first (`gather`); a micro-batch then
adds its part of the statistic's gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from clinjepa.curriculum.feed.window_plan import Assignment, mix_seed, torch_seed
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.steps.encoding import TextChunks, backward_chunks, cut_chunks, encode_chunks, next_token_backward
from clinjepa.curriculum.steps.loss import PhaseTerm, WeightedLoss, phase_terms
from clinjepa.curriculum.terms.inputs import HourNumbers, TermInputs
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.curriculum.workers.gathering import set_gradient_sync
from clinjepa.model.encoding.encoder import Encoder
from clinjepa.model.losses import TeacherForced
from clinjepa.model.predictor import Predictor

_STEP_TAG = 7

MicroBatch = tuple[dict[str, Tensor], Assignment]


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


@dataclass(frozen=True)
class _Statistic:
    """A global term in one step: its value and the gradient of its value by the sums of the global batch."""

    value: Tensor
    gradient: Tensor


class PhaseObjective:
    """Runs micro-batches of one phase on this worker's modules."""

    def __init__(
        self, job: PhaseJob, predictor: Predictor | None, encoder: Encoder | None, dist: Dist, heads: Mapping[str, nn.Module] | None = None
    ) -> None:
        self._job, self._phase, self._dist = job, job.phase, dist
        self._predictor, self._encoder, self._heads = predictor, encoder, heads or {}
        self._token_budget = job.encoder_settings.token_budget
        self._rollout_steps = job.curriculum_settings.rollout_steps
        self.terms = phase_terms(job)
        self.loss = WeightedLoss({term.name: term.weight for term in self.terms})
        self._gathered: dict[tuple[int, int], MicroBatchLatents] = {}
        self._statistics: dict[str, _Statistic] = {}

    def gather(self, batches: Iterable[MicroBatch], counts: Sequence[int]) -> Iterable[MicroBatch]:
        """The step's micro-batches, once the sums of global terms are those of the global batch; collective.

        Without a global term they pass one by one. With one, all of them are read and encoded first, and their latents kept for
        `forward_backward`, so no text is encoded more often.
        """
        statistics = [(term, count) for term, count in zip(self.terms, counts, strict=True) if term.is_global]
        if not statistics:
            return batches
        kept, totals = list(batches), dict.fromkeys((term.name for term, _ in statistics), torch.zeros((), device=self._dist.device))
        for arrays, assigned in kept:
            seed = torch_seed(self._job.seed, assigned.step, assigned.micro)
            latents = self._gathered[assigned.micro, assigned.weight] = self.latents(arrays, seed, with_gradient=self._job.trains_encoder)
            with torch.no_grad():
                inputs = self._inputs(latents, arrays, assigned.step)
                for term, _ in statistics:
                    totals[term.name] = totals[term.name] + term.sums(inputs, self._job.name) * assigned.weight
        for term, count in statistics:
            assert term.of_sums is not None
            sums = self._dist.sum_(totals[term.name]).requires_grad_(True)
            value = term.of_sums(sums, count, **term.options)
            (gradient,) = torch.autograd.grad(value, sums)
            self._statistics[term.name] = _Statistic(value.detach(), gradient)
        return kept

    def latents(self, arrays: dict[str, Tensor], seed: int, with_gradient: bool) -> MicroBatchLatents:
        """Inputs and targets of a collated micro-batch; collective when the phase runs the encoder."""
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
        target = z_state if self._phase.target_gradient else z_state.detach()
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
        trained = self._job.trains_encoder
        latents = self._gathered.pop((assigned.micro, assigned.weight), None) or self.latents(arrays, seed, with_gradient=trained)
        torch.manual_seed(seed)
        for module in (self._predictor, *self._heads.values()):
            if module is not None:
                set_gradient_sync(module, sync)
        terms = self._terms(latents, arrays, assigned.step)
        num_tokens = latents.num_tokens
        # Gradients are summed over workers, so the divisor is the count of the global batch.
        torch.autograd.backward(self.loss.optimised(self._optimised(terms), self.divisors(counts)) * assigned.weight)
        terms, text_tokens = self._text_terms(terms, arrays, seed, assigned.weight)
        num_tokens += text_tokens
        if trained and self._encoder is not None and latents.chunks is not None and latents.unique_UD is not None:
            gradient_UD = latents.unique_UD.grad
            if gradient_UD is None:
                raise AssertionError("the backward pass of the loss left no gradient on the latents")
            backward_chunks(self._encoder, latents.chunks, gradient_UD, sync, self._dist.device)
            num_tokens += latents.chunks.num_tokens
        sums = torch.stack([term.detach() for term in self._logged(terms)]).double() * assigned.weight
        return sums, num_tokens * assigned.weight

    def divisors(self, counts: Sequence[int]) -> list[int]:
        """What the term's sums are divided by: the counts, 1 for global terms, the number of micro-batches for terms of texts."""
        pairs = zip(self.terms, counts, strict=True)
        return [1 if term.is_global else self._job.num_micro_batches if term.of_texts else count for term, count in pairs]

    def _optimised(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Scalars whose gradients are those of the terms; that of a global term is the inner product with its statistic's gradient."""
        pairs = zip(self.terms, terms, strict=True)
        return [(sums * self._statistics[term.name].gradient).sum() if term.is_global else sums for term, sums in pairs]

    def _logged(self, terms: Sequence[Tensor]) -> list[Tensor]:
        """Scalars that, summed over the step's micro-batches, are the terms' sums."""
        share = 1 / self._job.num_micro_batches
        return [self._statistics[term.name].value * share if term.is_global else sums for term, sums in zip(self.terms, terms, strict=True)]

    def _terms(self, latents: MicroBatchLatents, arrays: dict[str, Tensor], step: int) -> list[Tensor]:
        """Sums of the loss terms, in their order."""
        inputs = self._inputs(latents, arrays, step)
        if self._predictor is not None:
            valid = arrays["valid"]
            pred_BTD, hidden_BTH, cache = self._predictor(
                latents.z_static_BD, latents.z_state_BTD, latents.z_action_BTD, valid, keep_cache=True
            )
            window = TeacherForced(pred_BTD, cache)
            inputs = replace(inputs, predictor=self._predictor, window=window, hidden_BTH=hidden_BTH)
        return [self._computed(term, inputs) for term in self.terms]

    def _text_terms(self, terms: list[Tensor], arrays: dict[str, Tensor], seed: int, weight: int) -> tuple[list[Tensor], int]:
        """The terms with those of the texts filled in, whose gradients are added here, and the tokens encoded for them."""
        found, num_tokens = list(terms), 0
        for place, term in enumerate(self.terms):
            if term.of_texts and self._encoder is not None:
                scale = term.weight * weight / self._job.num_micro_batches
                mean, tokens = next_token_backward(self._encoder, arrays, self._token_budget, seed, scale, self._dist)
                found[place], num_tokens = mean, num_tokens + tokens
        return found, num_tokens

    def _computed(self, term: PhaseTerm, inputs: TermInputs) -> Tensor:
        head = self._heads.get(term.name)
        return term.sums(replace(inputs, head=head) if head is not None else inputs, self._job.name)

    def _inputs(self, latents: MicroBatchLatents, arrays: dict[str, Tensor], step: int) -> TermInputs:
        return TermInputs(
            valid_BT=arrays["valid"],
            z_static_BD=latents.z_static_BD,
            z_state_BTD=latents.z_state_BTD,
            z_action_BTD=latents.z_action_BTD,
            target_BTD=latents.target_BTD,
            start_B=arrays["rollout_starts"],
            rollout=self._phase.rollout,
            rollout_steps=self._rollout_steps,
            values=HourNumbers(arrays["values"], arrays["measured"], arrays["value_rates"]) if "values" in arrays else None,
            step_seed=mix_seed(_STEP_TAG, self._job.seed, step),
        )


def spread(unique_UD: Tensor, index: Tensor) -> Tensor:
    """Rows of unique_UD at `index` (any shape); index -1 is padding and gives 0."""
    return unique_UD[index.clamp(min=0).long()].masked_fill((index < 0)[..., None], 0.0)
