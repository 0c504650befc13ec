"""Derived clinical quantities as data: what is computed per hour from grid and history, from which columns, with its source.

One file per family (`derived/respiratory.yaml` …) with its thresholds as `parameters`. A quantity with a `condition` needs no
code; the others are functions in `clinjepa/trajectory/labels/derived/`. They serve labels only and are in no text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from clinjepa.clinical.conditions import Combination, Condition, parse_condition
from clinjepa.clinical.definitions import Key, check_entry, file_names, optional, read_definitions
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

FAMILY_KEYS = (
    Key("family", "Name of the family: the file's name."),
    Key("parameters", "Thresholds and windows that the family's functions read. May be empty: `{}`."),
    Key("quantities", "List of quantities, see below."),
)
"""Keys of a file `derived/<family>.yaml`."""

QUANTITY_KEYS = (
    Key("name", "Identifier; different from all variables and other quantities."),
    Key("title", "What it is, in words."),
    Key("unit", "Unit of its values; `indicator` for 0 and 1."),
    Key("source", "Where the definition is taken from."),
    optional("inputs", "Variables and quantities it is computed from. Default: those of `condition`."),
    optional("requires", "Variables that a data set must have to give it. `requires` or `requires_any` is needed."),
    optional("requires_any", "Variables of which a data set must have at least one."),
    optional("looks_ahead_hours", "Hours after hour h that its value at h may depend on. Default: 0."),
    optional("condition", "Definition as a condition: 1 if true, 0 if false, missing if unknown. Without it a function is needed."),
    optional("note", "Remarks for the reader."),
)
"""Keys of a derived quantity."""


@dataclass(frozen=True)
class Derived:
    """One derived quantity; QUANTITY_KEYS explains the fields. parameters: those of its family."""

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
    """All derived quantities by name; ConfigError when a file is not consistent with itself or with the variables."""
    found: dict[str, Derived] = {}
    files = {family: read_definitions(f"derived/{family}.yaml") for family in file_names("derived")}
    names = {raw.get("name") for content in files.values() for raw in content.get("quantities", ())}
    for family, content in files.items():
        where = f"clinjepa/clinical/derived/{family}.yaml"
        check_entry(content, FAMILY_KEYS, where)
        if content["family"] != family:
            raise ConfigError(f"{where}: family={content['family']!r} differs from the file's name")
        for raw in content["quantities"]:
            quantity = parse_quantity(raw, content, where, names)
            if quantity.name in found or quantity.name in load_variables():
                raise ConfigError(f"{where}: {quantity.name!r} is already the name of another quantity or of a variable")
            found[quantity.name] = quantity
    return found


def parse_quantity(raw: Any, content: Mapping[str, Any], where: str, names: Collection[str]) -> Derived:
    """One derived quantity from parsed YAML.

    Args:
        raw: The entry.
        content: The family's file, of which `family` and `parameters` are read.
        where: The file, for messages.
        names: Names of all derived quantities.

    Raises:
        ConfigError: The entry has unknown or missing keys, or names that do not exist.
    """
    name = raw.get("name") if isinstance(raw, Mapping) else None
    entry = check_entry(raw, QUANTITY_KEYS, f"{where}: {name}" if name else where)
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
    """The grid columns that columns and derived quantities are computed from, each once."""
    derived, found, open_names = load_derived(), dict[str, None](), list(names)
    while open_names:
        name = open_names.pop()
        if name in derived:
            open_names += derived[name].inputs
        else:
            found[name] = None
    return sorted(found)


def can_give(name: str, given: Collection[str]) -> bool:
    """Whether a source with the variables `given` can give this column or derived quantity."""
    quantity, variable = load_derived().get(name), load_variables().get(name)
    if quantity is None:
        return (variable.of if variable is not None and variable.of else name) in given
    return all(one in given for one in quantity.requires) and (
        not quantity.requires_any or any(one in given for one in quantity.requires_any)
    )
