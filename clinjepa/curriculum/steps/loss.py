"""A phase's loss: its named terms with their weights, functions and heads, and the weighted sum that is optimised and logged."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clinjepa.curriculum.checkpoints.history import Row
from clinjepa.curriculum.jobs import PhaseJob
from clinjepa.curriculum.recipes.phases import ROLLOUT_WEIGHT, LossTerm
from clinjepa.curriculum.terms.functions import resolved
from clinjepa.curriculum.terms.inputs import HeadSizes, TermInputs
from clinjepa.curriculum.terms.table import OWN_MODULE, Option, Term
from clinjepa.errors import ConfigError


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


@dataclass(frozen=True)
class PhaseTerm:
    """A term of a phase's loss, ready to be computed."""

    name: str
    weight: float
    counts: str
    """Name of the count of the global batch that divides its sum."""
    options: Mapping[str, Option]
    function: Callable[..., Tensor]
    of_sums: Callable[..., Tensor] | None
    make_head: Callable[..., nn.Module] | None
    of_texts: bool
    """Computed by the encoder from the texts, apart from the other terms."""

    @property
    def is_global(self) -> bool:
        """Whether it is a function of sums over the global batch, so that these are needed before any gradient."""
        return self.of_sums is not None

    def sums(self, inputs: TermInputs, where: str) -> Tensor:
        """The term's sum over a micro-batch: a scalar, or a vector for a statistic of the global batch.

        Raises ConfigError when a recipe's own function fails or returns another shape. The message has no values of the data.
        """
        try:
            found = self.function(inputs, **self.options)
        except (TypeError, ValueError, AttributeError, LookupError, NameError, ArithmeticError, RuntimeError) as error:
            # Subclasses of RuntimeError are faults of a device, as its memory; torch raises the class itself for shapes that do not fit.
            if self.function.__module__ != OWN_MODULE or (isinstance(error, RuntimeError) and type(error) is not RuntimeError):
                raise
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == OWN_MODULE]
            place = f"in line {lines[-1]} of its file" if lines else "when it is called; it takes the TermInputs and its options"
            raise ConfigError(f"{where}: term {self.name} fails with {type(error).__name__} {place}") from None
        if not isinstance(found, Tensor) or found.ndim != int(self.is_global):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            wanted = "a vector of sums over all positions" if self.is_global else "a scalar, the sum over all positions"
            raise ConfigError(f"{where}: term {self.name} returns {shape}; it must return {wanted}")
        return found


def phase_terms(job: PhaseJob) -> list[PhaseTerm]:
    """The terms of the job's loss, in order. Raises ConfigError for a term that does not exist."""
    rollout_weight = job.curriculum_settings.rollout_weight
    return [phase_term(each, job.terms.term(each.term, job.name), rollout_weight) for each in job.phase.loss]


def phase_term(named: LossTerm, entry: Term, rollout_weight: float) -> PhaseTerm:
    """A term as a phase names it, with its functions. rollout_weight: of the settings, for a term that takes its weight from there."""
    return PhaseTerm(
        name=named.name,
        weight=rollout_weight if named.weight == ROLLOUT_WEIGHT else float(named.weight),
        counts=entry.counts,
        options=named.options,
        function=_no_function if entry.of_texts else resolved(entry.function),
        of_sums=None if entry.of_sums is None else resolved(entry.of_sums),
        make_head=None if entry.head is None else resolved(entry.head),
        of_texts=entry.of_texts,
    )


def _no_function(inputs: TermInputs, **options: Option) -> Tensor:
    """Stands for a term of the texts, whose sum `text_term` computes; it adds nothing to the loss of the latents."""
    return torch.zeros((), device=inputs.valid_BT.device)


def build_heads(job: PhaseJob, latent_dim: int, seed: int) -> dict[str, nn.Module]:
    """Fresh heads by name of their term, with weights that depend on `seed` only; the global generator is not advanced."""
    num_values = 0
    if job.reads_values:
        from clinjepa.trajectory.hour_values import value_names  # needs pyarrow, which a machine with torch alone lacks

        num_values = len(value_names())
    sizes = HeadSizes(latent_dim, job.predictor_settings.hidden_size, job.predictor_settings.max_hours, num_values)
    heads = {}
    with torch.random.fork_rng(devices=[]):
        for term in phase_terms(job):
            if term.make_head is not None:
                torch.manual_seed(seed)
                heads[term.name] = term.make_head(sizes, **term.options)
    return heads
