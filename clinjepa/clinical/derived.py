"""Derived clinical state as data: what is computed per hour from grid and history, from which columns, by whose definition.

One file per family (`derived/respiratory.yaml` …) with its thresholds as `parameters`. A quantity with a `condition` needs no
code; the others are functions of `clinjepa/trajectory/labels/derived/registry.py`. They serve labels only and are in no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from clinjepa.clinical.conditions import Combination, Condition, parse_condition
from clinjepa.clinical.definitions import check_keys, file_names, read_definitions
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

_QUANTITY_OPTIONAL = {"inputs", "requires", "requires_any", "looks_ahead_hours", "condition", "note"}


@dataclass(frozen=True)
class Derived:
    """One derived quantity.

    inputs: columns and other quantities it is computed from. requires: variables without which a source cannot give it;
    requires_any: at least one of these. looks_ahead_hours: how many hours after hour h its value at h may depend on. parameters: those
    of its family, thresholds and windows. condition: its definition, where that alone says it (1 true, 0 false, NaN unknown).
    """

    name: str
    family: str
    title: str
    unit: str
    source: str
    inputs: tuple[str, ...]
    requires: tuple[str, ...] = ()
    requires_any: tuple[str, ...] = ()
    looks_ahead_hours: int = 0
    condition: Condition | Combination | None = None
    note: str = ""
    parameters: dict[str, Any] = field(default_factory=dict, hash=False)


@lru_cache(maxsize=1)
def load_derived() -> dict[str, Derived]:
    """All derived quantities by name; ConfigError when a file contradicts itself or the dictionary."""
    found: dict[str, Derived] = {}
    files = {family: read_definitions(f"derived/{family}.yaml") for family in file_names("derived")}
    names = {raw.get("name") for content in files.values() for raw in content.get("quantities", ())}
    for family, content in files.items():
        where = f"clinjepa/clinical/derived/{family}.yaml"
        check_keys(content, {"family", "parameters", "quantities"}, set(), where)
        if content["family"] != family:
            raise ConfigError(f"{where}: family={content['family']!r} differs from the file's name")
        for raw in content["quantities"]:
            quantity = parse_quantity(raw, content, where, names)
            if quantity.name in found or quantity.name in load_variables():
                raise ConfigError(f"{where}: {quantity.name!r} is already the name of another quantity or of a variable")
            found[quantity.name] = quantity
    return found


def parse_quantity(raw: Any, content: dict[str, Any], where: str, names: Collection[str]) -> Derived:
    """One entry of a family's file; `names`: all derived quantities there are."""
    entry = check_keys(raw, {"name", "title", "unit", "source"}, _QUANTITY_OPTIONAL, where)
    place = f"{where}: {entry['name']}"
    condition = parse_condition(entry["condition"], f"{place}: condition", names) if "condition" in entry else None
    inputs = tuple(entry.get("inputs", ())) or (condition.all_variables() if condition else ())
    required = (*entry.get("requires", ()), *entry.get("requires_any", ()))
    unknown = [name for name in (*inputs, *required) if name not in load_variables() and name not in names]
    if unknown:
        raise ConfigError(f"{place}: {unknown} are neither variables nor derived quantities")
    if not inputs or not required:
        raise ConfigError(f"{place}: needs inputs, and requires or requires_any (variables without which a source cannot give it)")
    return Derived(
        name=entry["name"],
        family=content["family"],
        title=entry["title"],
        unit=entry["unit"],
        source=entry["source"],
        inputs=inputs,
        requires=tuple(entry.get("requires", ())),
        requires_any=tuple(entry.get("requires_any", ())),
        looks_ahead_hours=int(entry.get("looks_ahead_hours", 0)),
        condition=condition,
        note=entry.get("note", ""),
        parameters=dict(content["parameters"]),
    )


def grid_inputs(names: Iterable[str]) -> list[str]:
    """The grid columns behind columns and derived quantities, each once."""
    derived, found, open_names = load_derived(), dict[str, None](), list(names)
    while open_names:
        name = open_names.pop()
        if name in derived:
            open_names += derived[name].inputs
        else:
            found[name] = None
    return sorted(found)


def can_give(name: str, given: Collection[str]) -> bool:
    """Whether a source that gives the variables `given` can give this column or derived quantity."""
    quantity = load_derived().get(name)
    if quantity is None:
        return name in given
    return all(one in given for one in quantity.requires) and (
        not quantity.requires_any or any(one in given for one in quantity.requires_any)
    )
