"""The variable dictionary: what can be observed in or given to an ICU patient, in which unit, from which item ids.

Read from `variables.yaml` (its header explains the fields); sources map their codes onto these names, trajectories take
order, text names and hourly rules from here. The fixed clinical order of a text is that of Clin-JEPA (arXiv 2605.10840).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.errors import ConfigError

Role = Literal["state", "action", "static", "label_only"]
Kind = Literal["numeric", "category", "indicator", "rate"]
Aggregation = Literal["median", "min", "last", "sum", "any", "time_weighted_mean", "first", "starts"]

_REQUIRED = {"name", "text_name", "section", "role", "kind", "group", "unit", "sources", "min", "max", "conversions", "agg", "provenance"}
_OPTIONAL = {"unit_aliases", "alternates", "alt_ranges", "icarefm_tag", "note", "lookback_hours"}
_DEFAULT_LOOKBACK_HOURS = 24
_CONVERSION_KEYS = {"itemid", "unit", "text", "patient_weight", "from", "to", "add", "multiply", "per_kg", "drop"}


@dataclass(frozen=True)
class ItemSource:
    """MIMIC-IV items of one table that mean a variable. `labels`: item id -> the table's own label."""

    table: str
    itemids: tuple[int, ...]
    labels: dict[int, str]


@dataclass(frozen=True)
class Conversion:
    """One rule from a source's value to the variable's unit: (value + add) * multiply, divided by body weight with `per_kg`.

    The rule applies where all its selectors hold: `itemid`, `unit` (canonical spelling), `text`, `patient_weight` (kg),
    lowest <= value <= highest. `drop` names the count under which a selected row is dropped instead.
    """

    itemid: int | None = None
    unit: str | None = None
    text: str | None = None
    patient_weight: float | None = None
    lowest: float | None = None
    highest: float | None = None
    add: float = 0.0
    multiply: float = 1.0
    per_kg: bool = False
    drop: str | None = None


@dataclass(frozen=True)
class Variable:
    """One entry of the dictionary.

    name: identifier, also the grid's column. text_name: what a text says. unit: of every stored value. section: position of
    its section in the fixed clinical order; `order`: position among all variables in that order (sort texts by it).
    role: `state` and `action` appear in those texts, `static` once per stay, `label_only` on the grid but in no text.
    aggregation: hourly rule of the grid. minimum, maximum: plausible values in `unit`, None for categories.
    For an interval event (with end_time) of kind `rate` the value is the rate; of aggregation `sum` it is the whole amount
    given over the interval; of kind `indicator` it is 1 and the event's text may name what was given.
    lookback_hours: how long before ICU admission an event may lie; such events are in no text and serve labels only.
    """

    name: str
    text_name: str
    unit: str
    section: int
    section_name: str
    order: int
    role: Role
    aggregation: Aggregation
    minimum: float | None
    maximum: float | None
    kind: Kind
    group: str
    sources: tuple[ItemSource, ...] = ()
    conversions: tuple[Conversion, ...] = ()
    unit_aliases: tuple[str, ...] = ()
    lookback_hours: int = _DEFAULT_LOOKBACK_HOURS


@lru_cache(maxsize=1)
def load_variables() -> dict[str, Variable]:
    """All variables by name, in the fixed clinical order; ConfigError when the file contradicts itself."""
    return parse_variables(read_definitions("variables.yaml"), "clinjepa/clinical/variables.yaml")


@lru_cache(maxsize=1)
def section_names() -> tuple[str, ...]:
    """Sections of a text in their fixed clinical order."""
    return tuple(read_definitions("variables.yaml")["sections"])


def parse_variables(content: Any, where: str) -> dict[str, Variable]:
    """Check and build the dictionary from parsed YAML; ConfigError names the entry and what is wrong with it."""
    content = check_keys(content, {"version", "sections", "defaults", "variables"}, {"derived"}, where)
    sections: list[str] = content["sections"]
    seen: set[str] = set()
    rows: list[tuple[int, int, dict[str, Any]]] = []
    for position, raw in enumerate(content["variables"]):
        entry = dict(check_keys(raw, _REQUIRED, _OPTIONAL, f"{where}: variable {position + 1}"))
        place = f"{where}: variable {entry['name']!r}"
        if entry["name"] in seen:
            raise ConfigError(f"{place} stands there twice")
        seen.add(entry["name"])
        _check_choice(entry["section"], sections, "section", place)
        _check_choice(entry["role"], get_args(Role), "role", place)
        _check_choice(entry["kind"], get_args(Kind), "kind", place)
        _check_choice(entry["agg"], get_args(Aggregation), "agg", place)
        low, high = entry["min"], entry["max"]
        if entry["kind"] == "category":
            if low is not None or high is not None:
                raise ConfigError(f"{place}: a category has no min and max")
        elif low is None or high is None or not low < high:
            raise ConfigError(f"{place}: needs min < max, found {low} and {high}")
        lookback = entry.get("lookback_hours", _DEFAULT_LOOKBACK_HOURS)
        if not isinstance(lookback, int) or lookback < 0:
            raise ConfigError(f"{place}: lookback_hours={lookback!r} must be a whole number of hours >= 0")
        rows.append((sections.index(entry["section"]), position, entry))
    ordered = enumerate(sorted(rows, key=lambda row: row[:2]))
    return {
        entry["name"]: _variable(entry, section, order, f"{where}: variable {entry['name']!r}") for order, (section, _, entry) in ordered
    }


def canonical_unit(unit: str | None) -> str | None:
    """The dictionary's spelling of a unit; None for a missing one; the stripped input when it is not known."""
    if unit is None or not unit.strip():
        return None
    spelled = unit.strip()
    known = _unit_spellings().get(spelled.casefold())
    return None if known == "" else known or spelled


@lru_cache(maxsize=1)
def _unit_spellings() -> dict[str, str]:
    content = check_keys(read_definitions("maps/units.yaml"), {"missing", "units"}, set(), "clinjepa/clinical/maps/units.yaml")
    spellings = {spelling.casefold(): unit for unit, others in content["units"].items() for spelling in (unit, *others)}
    return spellings | {spelling.casefold(): "" for spelling in content["missing"]}


def _variable(entry: dict[str, Any], section: int, order: int, place: str) -> Variable:
    return Variable(
        name=entry["name"],
        text_name=entry["text_name"],
        unit=entry["unit"],
        section=section,
        section_name=entry["section"],
        order=order,
        role=cast(Role, entry["role"]),
        aggregation=cast(Aggregation, entry["agg"]),
        minimum=None if entry["min"] is None else float(entry["min"]),
        maximum=None if entry["max"] is None else float(entry["max"]),
        kind=cast(Kind, entry["kind"]),
        group=entry["group"],
        sources=tuple(
            ItemSource(source["table"], tuple(source["itemids"]), {int(item): label for item, label in source.get("labels", {}).items()})
            for source in entry["sources"]
            if "itemids" in source
        ),
        conversions=tuple(_conversion(raw, place) for raw in entry["conversions"]),
        unit_aliases=tuple(entry.get("unit_aliases", ())),
        lookback_hours=entry.get("lookback_hours", _DEFAULT_LOOKBACK_HOURS),
    )


def _conversion(raw: Any, place: str) -> Conversion:
    rule = check_keys(raw, set(), _CONVERSION_KEYS, f"{place}: conversion")
    return Conversion(
        itemid=rule.get("itemid"),
        unit=canonical_unit(rule.get("unit")),
        text=rule.get("text"),
        patient_weight=rule.get("patient_weight"),
        lowest=rule.get("from"),
        highest=rule.get("to"),
        add=float(rule.get("add", 0.0)),
        multiply=float(rule.get("multiply", 1.0)),
        per_kg=bool(rule.get("per_kg", False)),
        drop=rule.get("drop"),
    )


def _check_choice(value: Any, allowed: Any, key: str, place: str) -> None:
    if value not in allowed:
        raise ConfigError(f"{place}: {key}={value!r} is not one of {list(allowed)}")
