"""Recipes from YAML: those of the project beside this module, and a user's file anywhere. Every fault is one line with its remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, get_args

import yaml

from clinjepa.curriculum.recipes.phases import (
    DEFAULT_LOSS,
    OWN_SETTINGS,
    ROLLOUT_WEIGHT,
    EncoderStart,
    LossTerm,
    Phase,
    Recipe,
    check_phase,
)
from clinjepa.curriculum.settings import CurriculumSettings, field_types
from clinjepa.curriculum.terms.table import Option, Term, TermTable
from clinjepa.errors import ConfigError

_FOLDER = Path(__file__).parent
_RECIPE_FIELDS = ("encoder_start", "phases", "terms")
_PHASE_FIELDS = (
    *("name", "trains", "target", "rollout", "ema_moves", "shares"),
    *("loss", "target_gradient", "may_collapse", "schedule", "settings"),
)
_TRAINED = {frozenset(): "nothing", frozenset({"predictor"}): "predictor", frozenset({"encoder"}): "encoder"} | {
    frozenset({"encoder", "predictor"}): "both"
}
_WORDS = {"nothing": [], "predictor": ["predictor"], "encoder": ["encoder"], "both": ["encoder", "predictor"]}


def recipe_names() -> list[str]:
    """Names of the project's recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipes(entries: Sequence[str]) -> list[Recipe]:
    """The recipes of `grid.recipes`; raises ConfigError as `load_recipe`, and when two have the same name."""
    recipes = [load_recipe(entry) for entry in entries]
    names = [recipe.name for recipe in recipes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"grid.recipes has two recipes called {', '.join(twice)}; a recipe is called like its file: rename one")
    return recipes


def load_recipe(entry: str) -> Recipe:
    """The project's recipe of a name, or a user's in a YAML file; raises ConfigError when there is none or it cannot work."""
    if not entry.endswith((".yaml", ".yml")):
        return _load_own(entry)
    path = Path(entry)
    return parse_recipe(_text(path, f"recipe {entry}", "the working folder"), path.stem, path.parent, where=f"recipe {entry}")


def parse_recipe(text: str, name: str, folder: Path | None = None, where: str | None = None) -> Recipe:
    """A recipe from YAML text.

    Args:
        text: the file's content.
        name: of the recipe: its file's without the ending.
        folder: where the recipe's file of terms is looked for.
        where: the recipe in messages.

    Raises:
        ConfigError: with the recipe, the phase, the fault and the remedy.
    """
    where = where or f"recipe {name}"
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ConfigError(f"{where}: a recipe is called like its file: use letters, digits, _ and - in its name")
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{where}: {f'line {mark.line + 1} ' if mark else ''}is not valid YAML") from None
    loaded = _mapping(loaded, where, _RECIPE_FIELDS, ("encoder_start", "phases"))
    if loaded["encoder_start"] not in get_args(EncoderStart):
        allowed = ", ".join(get_args(EncoderStart))
        raise ConfigError(f"{where}: encoder_start is {loaded['encoder_start']!r}; allowed: {allowed}")
    source = _terms_source(loaded["terms"], folder or Path(), where) if "terms" in loaded else None
    if not isinstance(loaded["phases"], list) or not loaded["phases"]:
        raise ConfigError(f"{where}: phases is a non-empty list")
    reader = _PhaseReader(where, source)
    phases = tuple(reader.phase(index, value) for index, value in enumerate(loaded["phases"]))
    settings = tuple(reader.settings) if any(reader.settings) else ()
    recipe = Recipe(name, loaded["encoder_start"], phases, tuple(reader.shares), settings, source)
    _check_recipe(recipe, where)
    return recipe


class _PhaseReader:
    """Reads the phases of one recipe; `shares` and `settings` collect those of the phases read."""

    def __init__(self, recipe: str, terms_source: str | None) -> None:
        self._recipe = recipe
        try:
            self._table = TermTable.of(terms_source)
        except ConfigError as error:
            raise ConfigError(f"{recipe}: {error}") from None
        self.shares: list[Mapping[str, float]] = []
        self.settings: list[Mapping[str, Any]] = []

    def phase(self, index: int, value: object) -> Phase:
        called = value.get("name") if isinstance(value, dict) else None
        where = f"{self._recipe}, phase {called if isinstance(called, str) and called else index}"
        given = _mapping(value, where, _PHASE_FIELDS, ("name", "trains"))
        trains, heads = _trained(given["trains"], where)
        target = given.get("target", "online")
        loss = [self._loss_term(each, where) for each in given["loss"]] if "loss" in given else DEFAULT_LOSS
        fields = {
            "name": given["name"],
            "trains": trains,
            "target": target,
            "rollout": given.get("rollout", "teacher_forced" if target == "ema" else "native"),
            "ema_moves": given.get("ema_moves", False),
            "heads": heads,
            "loss": tuple(loss),
            "target_gradient": given.get("target_gradient", False),
            "schedule": given.get("schedule", "shared"),
        }
        phase = Phase.from_json(fields, where)
        names = [each.name for each in phase.loss]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{where}: two terms of the loss are called {', '.join(twice)}; give one another name")
        check_phase(phase, self._table, bool(given.get("may_collapse", False)), where)
        self.shares.append(_shares(given.get("shares", []), phase, where))
        self.settings.append(_own_settings(given.get("settings", {}), where))
        return phase

    def _loss_term(self, value: object, where: str) -> LossTerm:
        if not isinstance(value, dict) or not isinstance(value.get("term"), str) or "weight" not in value:
            raise ConfigError(f"{where}: an entry of loss needs term and weight, as in {{term: teacher_forcing, weight: 1.0}}")
        name = value["term"]
        term = self._table.term(name, where)
        weight = value["weight"]
        if weight != ROLLOUT_WEIGHT:
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
                raise ConfigError(f"{where}: the weight of {name} is {weight!r}; give a number of at least 0, or {ROLLOUT_WEIGHT}")
            weight = float(weight)
        options = {key: item for key, item in value.items() if key not in ("term", "weight", "name")}
        called = value.get("name", name)
        if not isinstance(called, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", called) or called in ("loss", "step"):
            raise ConfigError(f"{where}: the name {called!r} of a term must be one word other than loss and step")
        return LossTerm(name, weight, called, _options(term, options, f"{where}, term {name}"))


def _options(term: Term, given: Mapping[str, object], where: str) -> Mapping[str, Option]:
    """All options of a term, defaults filled in."""
    if unknown := sorted(set(given) - set(term.options)):
        known = ", ".join(f"{name} ({default})" for name, default in term.options.items()) or "none"
        raise ConfigError(f"{where}: unknown option {', '.join(unknown)}; it has {known}")
    found: dict[str, Option] = {}
    for name, default in term.options.items():
        value = given.get(name, default)
        kind = type(default)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise ConfigError(f"{where}: {name} is {value!r}; expected a value like {default!r}")
        if value not in term.choices.get(name, (value,)):
            raise ConfigError(f"{where}: {name} is {value!r}; allowed: {', '.join(term.choices[name])}")
        if isinstance(term.function, str) and isinstance(value, int | float) and not 0 < value < math.inf:
            raise ConfigError(f"{where}: {name} is {value!r}; it must be greater than 0")
        found[name] = value
    return found


def _trained(value: object, where: str) -> tuple[str, tuple[str, ...]]:
    """(what of encoder and predictor is trained in one word, names of heads)."""
    named = _WORDS.get(value) if isinstance(value, str) else value
    if not isinstance(named, list) or not all(isinstance(each, str) for each in named):
        raise ConfigError(f"{where}: trains is {value!r}; allowed: {', '.join(_WORDS)}, or a list of encoder, predictor and heads")
    parts = frozenset(named) & {"encoder", "predictor"}
    heads = tuple(sorted(set(named) - parts))
    if heads and not parts:
        raise ConfigError(f"{where}: trains is {value!r}; a head is trained with the encoder or the predictor: add one")
    return _TRAINED[parts], heads


def _shares(value: object, phase: Phase, where: str) -> Mapping[str, float]:
    """Parts of shares by name: a list of names stands for all of each."""
    parts = dict.fromkeys(value, 1.0) if isinstance(value, list) and all(isinstance(each, str) for each in value) else value
    if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts):
        raise ConfigError(f"{where}: shares is a list of names in curriculum.shares, or parts of them as in {{joint: 0.5}}")
    for name, part in parts.items():
        if isinstance(part, bool) or not isinstance(part, int | float) or not 0 < part <= 1:
            raise ConfigError(f"{where}: the part of share {name} is {part!r}; give a number over 0 and up to 1")
    if (phase.trains != "nothing") != bool(value):
        raise ConfigError(f"{where}: a phase that trains needs shares, a phase that trains nothing must have none")
    return {name: float(part) for name, part in parts.items()}


def _own_settings(value: object, where: str) -> Mapping[str, Any]:
    """A phase's own settings, with `ema_momentum: [from, to]` as two values."""
    given = dict(_mapping(value, f"{where}, settings", (*OWN_SETTINGS,), ())) if value else {}
    if isinstance(momentum := given.get("ema_momentum"), list):
        if len(momentum) != 2:
            raise ConfigError(f"{where}: ema_momentum is {momentum!r}; give one number, or [first, last] for a linear change")
        given |= {"ema_momentum": momentum[0], "ema_momentum_end": momentum[1]}
    types = field_types(CurriculumSettings)
    for name, item in given.items():
        low, high = OWN_SETTINGS[name]
        kinds = (int, float) if types[name] in (float, float | None) else (types[name],)
        if not isinstance(item, kinds) or (isinstance(item, bool) and bool not in kinds) or not low <= item <= high:  # type: ignore[arg-type]  # a tuple of types
            raise ConfigError(f"{where}: {name} is {item!r}; expected a number from {low:g} to {high:g}")
    return given


def _check_recipe(recipe: Recipe, where: str) -> None:
    """Raise ConfigError for phases that do not fit each other."""
    names = [phase.name for phase in recipe.phases]
    if len(set(names)) != len(names):
        raise ConfigError(f"{where}: two phases have the same name")
    given: dict[str, float] = {}
    for own in recipe.shares:
        for share, part in own.items():
            given[share] = given.get(share, 0.0) + part
    for share, total in given.items():
        if abs(total - 1) > 1e-6:
            raise ConfigError(
                f"{where}: the phases get {total:g} of the share {share}, not 1, so the budget would not be matched; give it to one phase, "
                "or parts of it that add up to 1"
            )
    has_target = has_predictor = False
    for phase in recipe.phases:
        here = f"{where}, phase {phase.name}"
        if (phase.trains == "nothing" or (phase.needs_target and not phase.trains_encoder)) and not has_target:
            raise ConfigError(f"{here}: its target does not exist yet; put a phase with trains: both and ema_moves: true before it")
        if phase.trains == "encoder" and has_predictor:
            raise ConfigError(f"{here}: it would leave the predictor in another encoder's space; add predictor to trains, or move it first")
        has_predictor |= phase.trains_predictor
        if phase.trains_encoder:
            has_target = phase.ema_moves
    if not has_predictor:
        raise ConfigError(f"{where}: no phase trains the predictor, so there is nothing to evaluate; add a phase with trains: predictor")


def _terms_source(value: object, folder: Path, where: str) -> str:
    if not isinstance(value, str) or not value.endswith(".py"):
        raise ConfigError(f"{where}: terms is {value!r}; give the Python file with the recipe's own terms")
    return _text(folder / value, f"{where}: terms", "the recipe's folder")


def _text(path: Path, what: str, base: str) -> str:
    """The content of a file. base: what a relative path starts from, for the message."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{what}: there is no file {path.absolute()}; a path is relative to {base}, or give it whole") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what}: {path} cannot be read ({type(error).__name__})") from None


def _mapping(value: object, where: str, known: Sequence[str], needed: Sequence[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping with {', '.join(known)}")
    if unknown := sorted(str(name) for name in set(value) - set(known)):
        raise ConfigError(f"{where}: unknown {', '.join(unknown)}; it has {', '.join(known)}")
    if missing := [name for name in needed if name not in value]:
        raise ConfigError(f"{where} lacks {', '.join(missing)}")
    return value


@cache
def _load_own(name: str) -> Recipe:
    path = _FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        raise ConfigError(f"there is no recipe {name!r}; there are {', '.join(recipe_names())}; a file's name ends in .yaml")
    return parse_recipe(path.read_text(encoding="utf-8"), name, _FOLDER)
