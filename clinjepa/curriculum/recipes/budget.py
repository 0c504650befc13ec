"""The budget of a recipe: matched by steps or by encoder tokens, divided among its phases; the order of its phases and latent stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Self

from clinjepa.curriculum.recipes.phases import Phase, Recipe
from clinjepa.curriculum.recipes.reading import load_recipe
from clinjepa.curriculum.terms.table import TERMS
from clinjepa.errors import ConfigError

_TOLERANCE = 1e-6
REFERENCE = "clin_jepa"
"""The recipe whose encoder tokens all others get with `curriculum.budget: encoder_tokens`."""


@dataclass(frozen=True)
class Budget:
    """The settings of the section `curriculum` that decide how many steps a phase takes."""

    num_steps: int
    """Optimizer steps of all phases together."""
    shares: Mapping[str, float]
    """Part of the budget by name; they add up to 1."""
    state_share: float | None = None
    """Share of the states in the tokens of a window. A number: recipes are matched by encoder tokens. None: by steps."""

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> Self:
        """From the values of the configuration's section."""
        by_tokens = section.get("budget", "steps") == "encoder_tokens"
        return cls(section["num_steps"], section["shares"], section["state_token_share"] if by_tokens else None)

    def steps(self, recipe: Recipe) -> list[int]:
        """Optimizer steps of each phase of a recipe. Raises ConfigError as `phase_steps`."""
        return phase_steps(recipe, self.total(recipe), self.shares)

    def total(self, recipe: Recipe) -> int:
        """Optimizer steps of all phases of a recipe together.

        Matched by encoder tokens it is `num_steps` times the mean passes of clin_jepa over those of the recipe, rounded. A recipe whose
        phases never run the encoder gets `num_steps`.
        """
        if self.state_share is None:
            return self.num_steps
        own = self._passes(recipe)
        return round(self.num_steps * self._passes(load_recipe(REFERENCE)) / own) if own else self.num_steps

    def _passes(self, recipe: Recipe) -> float:
        """Mean number of times per step that the tokens of a window pass through the encoder."""
        assert self.state_share is not None
        passes = (encoder_passes(phase, self.state_share) for phase in recipe.phases)
        parts = (sum(self.shares.get(name, 0.0) * part for name, part in own.items()) for own in recipe.shares)
        return sum(each * part for each, part in zip(passes, parts, strict=True))


def encoder_passes(phase: Phase, state_share: float) -> float:
    """How often the tokens of a window pass through the encoder in a step of a phase.

    Twice where the encoder trains (without and with a graph), once more for a loss on the texts themselves, and the states once for an EMA
    target. A phase with a frozen encoder reads its latents from a store.

    Args:
        phase: the phase.
        state_share: share of the states in a window's tokens.
    """
    of_texts = any(each.term in TERMS and TERMS[each.term].of_texts for each in phase.loss)
    return 2.0 * phase.trains_encoder + of_texts + state_share * (phase.target == "ema")


def phase_steps(recipe: Recipe, num_steps: int, shares: Mapping[str, float]) -> list[int]:
    """Optimizer steps of each phase; they sum to `num_steps`, and a phase ends at its rounded cumulative share.

    Ends are rounded, not lengths, so recipes with equal first phases give them equal steps and can share them.

    Args:
        recipe: the phases and the names of their shares.
        num_steps: optimizer steps of all phases together (`curriculum.num_steps`).
        shares: part of the budget by name (`curriculum.shares`); they add up to 1.

    Raises:
        ConfigError: the recipe names a share that is not in `shares` or leaves one out, the shares do not add up to 1, or a phase that
            trains would get no step.
    """
    unknown = sorted({share for own in recipe.shares for share in own} - set(shares))
    if unknown:
        raise ConfigError(f"curriculum.shares lacks {', '.join(unknown)}, which recipe {recipe.name} needs; it has: {', '.join(shares)}")
    if left_out := [share for share in shares if not any(share in own for own in recipe.shares)]:
        raise ConfigError(
            f"recipe {recipe.name}: no phase has the share {', '.join(left_out)} of curriculum.shares, so the recipe would get less "
            "than the budget of the others; give the name to one of its phases"
        )
    weights = [sum(float(shares[share]) * part for share, part in own.items()) for own in recipe.shares]
    total = sum(weights)
    if min(weights) < 0 or abs(total - 1) > _TOLERANCE:
        raise ConfigError(f"curriculum.shares add up to {total:g}, not to 1, or one is negative; they are parts of 1: change them")
    ends = [math.floor(reached / total * num_steps + 0.5) for reached in accumulate(weights)]
    steps = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    for phase, count in zip(recipe.phases, steps, strict=True):
        if phase.trains != "nothing" and count == 0:
            raise ConfigError(
                f"recipe {recipe.name}: phase {phase.name} would get 0 of {num_steps} steps; raise curriculum.num_steps or its share"
            )
    return steps


def run_order(recipe: Recipe) -> list[Phase | str]:
    """The work of a run on GPUs after SFT: the phases that train and, as names `embed (…)`, the latent stores filled between them.

    A store is filled for every encoder whose latents are read, by a phase that trains the predictor alone or by the evaluation at the
    end. The name in brackets is what made the encoder: `encoder_start`, or the phase that trained it.
    """
    order: list[Phase | str] = []
    encoder: str = recipe.encoder_start

    def fill() -> None:
        if (store := f"embed ({encoder})") not in order:
            order.append(store)

    for phase in recipe.phases:
        if phase.trains == "predictor":
            fill()
        elif phase.trains_encoder:
            encoder = phase.name
        if phase.trains != "nothing":
            order.append(phase)
    fill()
    return order
