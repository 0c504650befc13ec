"""Recipes and phases: `recipes.yaml`, validated, and the division of a budget of optimizer steps among the phases of a recipe.

What a phase does (`Phase`) is separate from the share of the budget that a recipe gives it (`Recipe.shares`). Names and the five phases
follow Clin-JEPA (arXiv 2605.10840).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import ClassVar, Literal, Self, get_args

import yaml

from clinjepa.curriculum.settings import Settings
from clinjepa.errors import ConfigError

EncoderStart = Literal["untrained", "sft"]
_RECIPES_FILE = Path(__file__).with_name("recipes.yaml")


@dataclass(frozen=True)
class Phase(Settings):
    """What one step of the curriculum does."""

    SECTION: ClassVar[str] = "phase"

    name: str
    trains: Literal["predictor", "both", "nothing"]
    """`predictor`, `both` (encoder and predictor) or `nothing` (hard sync)."""
    target: Literal["online", "ema"]
    """Which encoder's latents are the targets."""
    rollout: Literal["native", "teacher_forced"]
    """Input of a rollout step: `native` (the predictor's previous output) or `teacher_forced` (the true online latent)."""
    ema_moves: bool
    """Whether the target follows the online encoder after every optimizer step."""

    @classmethod
    def from_json(cls, value: object, where: str | None = None) -> Self:
        """Validate and build; raises ConfigError with the field, the value and the allowed values."""
        phase, where = super().from_json(value, where), where or cls.SECTION
        if phase.trains == "both" and phase.target != "ema":
            raise ConfigError(f"{where}: an encoder that trains against its own online latents collapses; set target: ema")
        if phase.target == "ema" and phase.rollout == "native":
            raise ConfigError(f"{where}: rollout: native needs inputs and targets in one space; with target: ema use teacher_forced")
        return phase

    @property
    def needs_target(self) -> bool:
        """True when the target encoder's state is an input of the phase."""
        return self.target == "ema" or self.ema_moves


@dataclass(frozen=True)
class Recipe:
    """An initialisation of the encoder and an ordered list of phases."""

    name: str
    encoder_start: EncoderStart
    """`untrained`: the base as it is. `sft`: after next-token fine-tuning."""
    phases: tuple[Phase, ...]
    shares: tuple[tuple[str, ...], ...]
    """For each phase the names in `curriculum.shares` whose sum is its part of the budget; none for a phase that trains nothing."""


def recipe_names() -> list[str]:
    """Names of all recipes, in the file's order."""
    return list(_load_file())


def load_recipe(name: str) -> Recipe:
    """The recipe `name` of `recipes.yaml`; raises ConfigError when there is none or it is not well-formed."""
    recipes = _load_file()
    if name not in recipes:
        raise ConfigError(f"there is no recipe {name!r}; recipes.yaml has: {', '.join(recipes)}")
    return recipes[name]


def parse_recipes(text: str) -> dict[str, Recipe]:
    """Read recipes from YAML text; raises ConfigError with the recipe and phase at fault."""
    loaded = yaml.safe_load(text)
    if not isinstance(loaded, dict):
        raise ConfigError("recipes: expected a mapping from recipe name to encoder_start and phases")
    return {name: _parse_recipe(name, value) for name, value in loaded.items()}


def phase_steps(recipe: Recipe, num_steps: int, shares: Mapping[str, float]) -> list[int]:
    """Optimizer steps of each phase; they sum to `num_steps`, and a phase ends at its rounded cumulative share.

    Ends are rounded, not lengths, so recipes with equal first phases give them equal steps and can share them.

    Args:
        recipe: the phases and the names of their shares.
        num_steps: optimizer steps of all phases together (`curriculum.num_steps`).
        shares: part of the budget by name (`curriculum.shares`); only their ratios matter.

    Raises:
        ConfigError: a share of the recipe is not in `shares`, or is so small that a phase that trains would get no step.
    """
    unknown = sorted({share for own in recipe.shares for share in own} - set(shares))
    if unknown:
        raise ConfigError(f"curriculum.shares lacks {', '.join(unknown)}, which recipe {recipe.name} needs; it has: {', '.join(shares)}")
    weights = [sum(float(shares[share]) for share in own) for own in recipe.shares]
    total = sum(weights)
    if min(weights) < 0 or total <= 0:
        raise ConfigError(f"curriculum.shares must not be negative and must add up to more than 0 for recipe {recipe.name}")
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
        elif phase.trains == "both":
            encoder = phase.name
        if phase.trains != "nothing":
            order.append(phase)
    fill()
    return order


def _parse_recipe(name: str, value: object) -> Recipe:
    if not isinstance(value, dict) or set(value) != {"encoder_start", "phases"} or not value["phases"]:
        raise ConfigError(f"recipe {name}: needs exactly encoder_start and a non-empty list phases")
    if value["encoder_start"] not in get_args(EncoderStart):
        allowed = ", ".join(get_args(EncoderStart))
        raise ConfigError(f"recipe {name}: encoder_start is {value['encoder_start']!r}; allowed: {allowed}")
    parsed = [_parse_phase(f"recipe {name}, phase {i}", phase) for i, phase in enumerate(value["phases"])]
    phases, shares = tuple(phase for phase, _ in parsed), tuple(own for _, own in parsed)
    if len({phase.name for phase in phases}) != len(phases):
        raise ConfigError(f"recipe {name}: two phases have the same name")
    given = [share for own in shares for share in own]
    if len(set(given)) != len(given):
        raise ConfigError(f"recipe {name}: a share is given to two phases; each belongs to one, or the budget would not be matched")
    return Recipe(name, value["encoder_start"], phases, shares)


def _parse_phase(where: str, value: object) -> tuple[Phase, tuple[str, ...]]:
    """A phase and its shares."""
    if not isinstance(value, dict) or not _is_list_of_names(value.get("shares")):
        raise ConfigError(f"{where}: needs the fields of a phase and shares, a list of names in curriculum.shares")
    phase = Phase.from_json({key: item for key, item in value.items() if key != "shares"}, where)
    if (phase.trains != "nothing") != bool(value["shares"]):
        raise ConfigError(f"{where}: a phase that trains needs shares, a phase that trains nothing must have none")
    return phase, tuple(value["shares"])


def _is_list_of_names(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(each, str) for each in value)


@cache
def _load_file() -> dict[str, Recipe]:
    return parse_recipes(_RECIPES_FILE.read_text(encoding="utf-8"))
