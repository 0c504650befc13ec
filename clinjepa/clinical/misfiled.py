"""Readings that stand under another variable or unit than their own: the certain cases, as data (`maps/misfiled.yaml`).

A rule holds only where the charted number is impossible for the variable: its range is disjoint from the variable's plausible one, which is
checked here. Applied by `clinjepa/sources/readings/misfiled.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from clinjepa.clinical.definitions import Key, check_entry, check_keys, optional, read_definitions
from clinjepa.clinical.variables import canonical_unit, load_variables
from clinjepa.errors import ConfigError

MISFILED_KEYS = (
    Key("name", "Identifier of the rule; its readings are counted under it."),
    Key("variable", "Variable under which the reading stands."),
    Key("units", "List of the units with which it may be charted; null: without a unit."),
    Key("from", "Lowest charted number. `from` to `to` must be disjoint from the variable's plausible range, unless the unit is another."),
    Key("to", "Highest charted number."),
    Key("becomes", "Variable that the reading belongs to; may be the same."),
    Key("why", "Why no other explanation is left."),
    optional("add", "Added to the number, before the multiplication. Default: 0."),
    optional("multiply", "Factor that brings the number to the unit of `becomes`. Default: 1."),
)
"""Keys of an entry of `rules` in `maps/misfiled.yaml`."""


@dataclass(frozen=True)
class Misfiled:
    """One rule; MISFILED_KEYS explains the fields. units: in the dictionary's spelling."""

    name: str
    variable: str
    units: tuple[str | None, ...]
    lowest: float
    highest: float
    becomes: str
    add: float
    multiply: float


@lru_cache(maxsize=1)
def load_misfiled() -> tuple[Misfiled, ...]:
    """All rules; ConfigError names a rule that is not certain by its ranges."""
    where = "clinjepa/clinical/maps/misfiled.yaml"
    content = check_keys(read_definitions("maps/misfiled.yaml"), {"version", "rules"}, set(), where)
    return tuple(parse_misfiled(raw, f"{where}: rule {position + 1}") for position, raw in enumerate(content["rules"]))


def parse_misfiled(raw: Any, where: str) -> Misfiled:
    """One rule from parsed YAML.

    Raises:
        ConfigError: an unknown or missing key, an unknown variable, or ranges that leave the reading where it stands possible.
    """
    entry = check_entry(raw, MISFILED_KEYS, where)
    place, variables = f"{where} ({entry['name']})", load_variables()
    for name in (entry["variable"], entry["becomes"]):
        if name not in variables or variables[name].minimum is None:
            raise ConfigError(f"{place}: {name!r} is not a variable with a plausible range")
    rule = Misfiled(
        name=entry["name"],
        variable=entry["variable"],
        units=tuple(canonical_unit(unit) for unit in entry["units"]),
        lowest=float(entry["from"]),
        highest=float(entry["to"]),
        becomes=entry["becomes"],
        add=float(entry.get("add", 0)),
        multiply=float(entry.get("multiply", 1)),
    )
    low, high = variables[rule.variable].minimum or 0.0, variables[rule.variable].maximum or 0.0
    if not rule.lowest < rule.highest or (rule.highest >= low and rule.lowest <= high):
        raise ConfigError(f"{place}: {rule.lowest:g} to {rule.highest:g} is not disjoint from the plausible {low:g} to {high:g}")
    low, high = variables[rule.becomes].minimum or 0.0, variables[rule.becomes].maximum or 0.0
    ends = [(end + rule.add) * rule.multiply for end in (rule.lowest, rule.highest)]
    if not low <= min(ends) <= max(ends) <= high:
        raise ConfigError(f"{place}: becomes {min(ends):g} to {max(ends):g}, outside the plausible {low:g} to {high:g} of {rule.becomes}")
    return rule
