"""The budget of a recipe divided among its phases, and the order of its phases and latent stores."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import accumulate

from clinjepa.curriculum.recipes.phases import Phase, Recipe
from clinjepa.errors import ConfigError

_TOLERANCE = 1e-6


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
