"""Recipes and phases: what `recipes.yaml` says, validated, and how a budget of optimizer steps is divided among the phases.

The words and the five phases follow Clin-JEPA (arXiv 2605.10840).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from clinjepa.errors import ConfigError

ENCODER_STARTS = ("untrained", "sft", "random")
TRAINS = ("predictor", "both", "nothing")
TARGETS = ("online", "ema")
ROLLOUTS = ("native", "teacher_forced")
_RECIPES_FILE = Path(__file__).with_name("recipes.yaml")


@dataclass(frozen=True)
class Phase:
    """One step of the curriculum."""

    name: str
    trains: str
    """`predictor`, `both` (encoder and predictor) or `nothing` (hard sync)."""
    target: str
    """Whose latents are regressed on: `online` or `ema`."""
    rollout: str
    """`native` (own output fed back) or `teacher_forced` (true online latent fed)."""
    ema_moves: bool
    """Whether the target follows the online encoder after every optimizer step."""
    shares: tuple[str, ...]
    """Names in `curriculum.shares` that this phase's budget is the sum of."""

    @classmethod
    def from_dict(cls, value: Mapping[str, Any], where: str = "phase") -> Phase:
        """Validate and build; raises ConfigError naming the field, what was given and what is allowed."""
        _check_keys(value, cls, where)
        for key, allowed in (("trains", TRAINS), ("target", TARGETS), ("rollout", ROLLOUTS)):
            if value[key] not in allowed:
                raise ConfigError(f"{where}.{key} is {value[key]!r}; allowed: {', '.join(allowed)}")
        phase = cls(**{**value, "ema_moves": bool(value["ema_moves"]), "shares": tuple(value["shares"])})
        if phase.trains == "both" and phase.target != "ema":
            raise ConfigError(f"{where}: an encoder that trains against its own online latents collapses; set target: ema")
        if phase.target == "ema" and phase.rollout == "native":
            raise ConfigError(f"{where}: rollout: native needs inputs and targets in one space; with target: ema use teacher_forced")
        if (phase.trains == "nothing") != (not phase.shares):
            raise ConfigError(f"{where}: a phase that trains needs shares, a phase that trains nothing must have none")
        return phase

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        return {**asdict(self), "shares": list(self.shares)}

    @property
    def needs_target(self) -> bool:
        """True when the target encoder's state is an input of the phase."""
        return self.target == "ema" or self.ema_moves


@dataclass(frozen=True)
class Recipe:
    """An initialisation and an ordered list of phases."""

    name: str
    encoder_start: str
    phases: tuple[Phase, ...]


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
    recipes = {}
    for name, value in loaded.items():
        if not isinstance(value, dict) or set(value) != {"encoder_start", "phases"} or not value["phases"]:
            raise ConfigError(f"recipe {name}: needs exactly encoder_start and a non-empty list phases")
        if value["encoder_start"] not in ENCODER_STARTS:
            raise ConfigError(f"recipe {name}: encoder_start is {value['encoder_start']!r}; allowed: {', '.join(ENCODER_STARTS)}")
        phases = tuple(Phase.from_dict(phase, f"recipe {name}, phase {i}") for i, phase in enumerate(value["phases"]))
        if len({phase.name for phase in phases}) != len(phases):
            raise ConfigError(f"recipe {name}: two phases have the same name")
        shares = [share for phase in phases for share in phase.shares]
        if len(set(shares)) != len(shares):
            raise ConfigError(f"recipe {name}: a share is given to two phases; each belongs to one, or the budget would not be matched")
        recipes[name] = Recipe(name, value["encoder_start"], phases)
    return recipes


def phase_steps(recipe: Recipe, settings: Mapping[str, Any]) -> list[int]:
    """Optimizer steps of each phase, summing to `num_steps` (a phase ends at its rounded cumulative share).

    Rounding ends and not lengths gives recipes with equal first phases equal steps for them, so that they can share them.

    settings: the `curriculum` section as plain values (`num_steps`, `shares`). Raises ConfigError when a phase's share is
    unknown, or so small that a phase that trains would get no step.
    """
    shares, num_steps = settings["shares"], int(settings["num_steps"])
    unknown = sorted({share for phase in recipe.phases for share in phase.shares} - set(shares))
    if unknown:
        raise ConfigError(f"curriculum.shares lacks {', '.join(unknown)}, which recipe {recipe.name} needs; it has: {', '.join(shares)}")
    weights = [sum(float(shares[share]) for share in phase.shares) for phase in recipe.phases]
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
    """What a run does on GPUs after SFT: the phases that train and, as names `embed (…)`, the latent stores that are filled between them.

    A store is filled for every encoder whose latents somebody reads: a phase that trains the predictor alone, or the evaluation at the
    end. The name says what made the encoder: `encoder_start`, or the phase that trained it.
    """
    order: list[Phase | str] = []

    def fill() -> None:
        if (store := f"embed ({encoder})") not in order:
            order.append(store)

    encoder = recipe.encoder_start
    for phase in recipe.phases:
        if phase.trains == "predictor":
            fill()
        elif phase.trains == "both":
            encoder = phase.name
        if phase.trains != "nothing":
            order.append(phase)
    fill()
    return order


@cache
def _load_file() -> dict[str, Recipe]:
    return parse_recipes(_RECIPES_FILE.read_text(encoding="utf-8"))


def _check_keys(value: Mapping[str, Any], cls: type, where: str) -> None:
    names = [field.name for field in fields(cls)]
    if not isinstance(value, Mapping) or set(value) != set(names):
        given = ", ".join(map(str, value)) if isinstance(value, Mapping) else repr(value)
        raise ConfigError(f"{where}: needs exactly {', '.join(names)}; given: {given}")
