"""The variable dictionary: everything that is observed in or given to an ICU patient, with unit, range, item ids and hourly rule.

Read from `variables.yaml`. Sources map their codes to these names; trajectories use the order, text names and hourly rules. The fixed
clinical order of a text is that of Clin-JEPA (arXiv 2605.10840).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import Key, check_choice, check_entry, check_keys, optional, read_definitions
from clinjepa.errors import ConfigError

Role = Literal["state", "action", "static", "label_only"]
Kind = Literal["numeric", "category", "indicator", "rate"]
Aggregation = Literal["median", "min", "max", "last", "sum", "any", "time_weighted_mean", "first", "starts", "words", "last_words"]

_DEFAULT_LOOKBACK_HOURS = 24
DEFAULT_DIGITS = 3
"""Significant digits that a number of a text keeps, unless its variable sets `digits`."""

_MOST_DIGITS = 7  # float32, in which several sources deliver values, holds no more

VARIABLE_KEYS = (
    Key("name", "Identifier, and the column of the hourly grid."),
    Key("text_name", "Name in the hour's text."),
    Key("section", "Section of the text, one of `sections` at the top of the file. Inside a section the order of the file counts."),
    Key(
        "role",
        "`state`: observed, in state texts. `action`: given, in action texts. `static`: once per stay. `label_only`: only on the grid.",
        allowed=get_args(Role),
    ),
    Key("kind", "`rate` is the rate of an infusion, `indicator` is 0 or 1.", allowed=get_args(Kind)),
    Key("group", "Clinical group, such as `circulatory` or `lab`."),
    Key("unit", "Unit of all stored values."),
    Key("sources", "List of MIMIC-IV tables with item ids, see below; `[]` if MIMIC-IV does not have the variable."),
    Key("min", "Lowest plausible value in `unit`; values below are dropped and counted. null for a category."),
    Key("max", "Highest plausible value in `unit`; values above are dropped and counted. null for a category."),
    Key("conversions", "List of rules that bring values to `unit`, see below; `[]` if none is needed."),
    Key(
        "agg",
        "Rule for the value of an hour. `time_weighted_mean`: rate x overlap / 1 h. `starts`: starts in the hour. With `of` only: "
        "`words`, the different words of a category; `last_words`, those of the latest time.",
        allowed=get_args(Aggregation),
    ),
    Key("provenance", "List of places that the definition is taken from."),
    optional("unit_aliases", "More spellings of `unit` in the data. General ones are in `maps/units.yaml`."),
    optional("lookback_hours", "Hours before ICU admission in which an event still counts. Default: 24."),
    optional(
        "of",
        "Variable whose readings it takes, under its own `agg`: a second column of the grid for labels (`role: label_only`). `sources` is "
        "`[]`, and unit and kind are those of that variable.",
    ),
    optional("digits", "Significant digits that a number in a text keeps, 1 to 7; `text.max_decimals` rounds further ones. Default: 3."),
    optional("alternates", "Item ids that are deliberately not used, with the reason. Not read by the code."),
    optional("alt_ranges", "Plausible ranges of other projects. Not read by the code."),
    optional("icarefm_tag", "Name of the variable in ICareFM. Not read by the code."),
    optional("note", "Remarks for the reader. Not read by the code."),
)
"""Keys of an entry of `variables.yaml`."""

ITEM_KEYS = (
    Key("table", "MIMIC-IV table."),
    optional("itemids", "Item ids of the table. Without them the entry is documentation only."),
    optional("labels", "Item id -> label in the table's dictionary; compared with the data at start-up."),
    optional("column", "Column of the table, for variables that are not items. Not read by the code."),
)
"""Keys of an entry of a variable's `sources`."""

CONVERSION_KEYS = (
    optional("itemid", "Applies only to this item."),
    optional("unit", "Applies only to rows with this unit."),
    optional("text", "Applies only to rows with this text."),
    optional("patient_weight", "Applies only to rows with this patient weight, in kg."),
    optional("from", "Applies only to values of at least this. Values of the item outside all such ranges are dropped."),
    optional("to", "Applies only to values of at most this."),
    optional("add", "Added to the value, before the multiplication. Default: 0."),
    optional("multiply", "Factor. Default: 1."),
    optional("per_kg", "true: divide the result by the patient's weight in kg."),
    optional("drop", "Drop the row and count it under this name, instead of a conversion."),
)
"""Keys of an entry of a variable's `conversions`. The first rule that applies is used."""


@dataclass(frozen=True)
class ItemSource:
    """MIMIC-IV items of one table that map to a variable. `labels`: item id -> label in the table's dictionary."""

    table: str
    itemids: tuple[int, ...]
    labels: dict[int, str]


@dataclass(frozen=True)
class Conversion:
    """One rule that converts a source's value to the variable's unit: (value + add) * multiply, divided by body weight with `per_kg`.

    The rule applies where all its selectors hold: `itemid`, `unit` (canonical spelling), `text`, `patient_weight` (kg),
    lowest <= value <= highest. With `drop`, a selected row is dropped and counted under that name instead.
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
    """One variable of the dictionary; VARIABLE_KEYS explains the fields.

    section: position of its section in the fixed clinical order. order: position among all variables in that order; texts are sorted by
    it. aggregation: `agg` of the entry. minimum, maximum: plausible values in `unit`, None for categories.
    The value of an interval event (with end_time) is the rate (kind `rate`), the total amount given over the interval (aggregation
    `sum`) or 1 (kind `indicator`; the event's text may name what was given). Events before ICU admission, within `lookback_hours`, are
    in no text and serve labels only.
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
    digits: int = DEFAULT_DIGITS
    of: str | None = None


@lru_cache(maxsize=1)
def load_variables() -> dict[str, Variable]:
    """All variables by name, in the fixed clinical order; ConfigError when the file is not consistent."""
    return parse_variables(read_definitions("variables.yaml"), "clinjepa/clinical/variables.yaml")


@lru_cache(maxsize=1)
def section_names() -> tuple[str, ...]:
    """Sections of a text in their fixed clinical order."""
    return tuple(read_definitions("variables.yaml")["sections"])


def parse_variables(content: Any, where: str) -> dict[str, Variable]:
    """Build the dictionary from parsed YAML; ConfigError names the entry and its fault."""
    content = check_keys(content, {"version", "sections", "defaults", "variables"}, {"derived"}, where)
    found: dict[str, Variable] = {}
    for position, raw in enumerate(content["variables"]):
        name = raw.get("name") if isinstance(raw, Mapping) else None
        place = f"{where}: variable {name!r}" if name else f"{where}: variable {position + 1}, which has no name"
        variable = _variable(raw, content["sections"], place)
        if variable.name in found:
            raise ConfigError(f"{place} is defined twice")
        found[variable.name] = variable
    for variable in found.values():
        _check_base(variable, found, where)
    ordered = sorted(found.values(), key=lambda variable: variable.section)
    return {variable.name: replace(variable, order=order) for order, variable in enumerate(ordered)}


def canonical_unit(unit: str | None) -> str | None:
    """The dictionary's spelling of a unit; None for a missing unit, the stripped input for an unknown one."""
    if unit is None or not unit.strip():
        return None
    spelled = re.sub(r"\s*/\s*", "/", unit.strip())
    spellings = _unit_spellings()
    known = spellings.get(_spelling(spelled), spellings.get(_spelling(spelled.rstrip(". "))))
    return None if known == "" else known or spelled


@lru_cache(maxsize=1)
def _unit_spellings() -> dict[str, str]:
    content = read_definitions("maps/units.yaml")
    spellings = {_spelling(spelling): unit for unit, others in content["units"].items() for spelling in (unit, *others)}
    return spellings | {_spelling(spelling): "" for spelling in content["missing"]}


def _spelling(text: str) -> str:
    """A unit without case, with `u` for the sign of micro (U+00B5) and the Greek letter that looks like it (U+03BC)."""
    return text.casefold().replace("\u00b5", "u").replace("\u03bc", "u")


def _variable(raw: Any, sections: list[str], place: str) -> Variable:
    """One variable of the dictionary; its `order` is not set yet."""
    entry = check_entry(raw, VARIABLE_KEYS, place)
    check_choice([entry["section"]], sections, f"{place}: section")
    low, high = entry["min"], entry["max"]
    if entry["kind"] == "category":
        if low is not None or high is not None:
            raise ConfigError(f"{place}: a category has no min and max")
    elif low is None or high is None or not low < high:
        raise ConfigError(f"{place}: needs min < max, found {low} and {high}")
    lookback = entry.get("lookback_hours", _DEFAULT_LOOKBACK_HOURS)
    if not isinstance(lookback, int) or lookback < 0:
        raise ConfigError(f"{place}: lookback_hours={lookback!r} must be a whole number of hours >= 0")
    digits = entry.get("digits", DEFAULT_DIGITS)
    if not isinstance(digits, int) or isinstance(digits, bool) or not 1 <= digits <= _MOST_DIGITS:
        raise ConfigError(f"{place}: digits={digits!r} must be a whole number from 1 to {_MOST_DIGITS}")
    return Variable(
        name=entry["name"],
        text_name=entry["text_name"],
        unit=entry["unit"],
        section=sections.index(entry["section"]),
        section_name=entry["section"],
        order=0,
        role=cast(Role, entry["role"]),
        aggregation=cast(Aggregation, entry["agg"]),
        minimum=None if low is None else float(low),
        maximum=None if high is None else float(high),
        kind=cast(Kind, entry["kind"]),
        group=entry["group"],
        sources=tuple(
            ItemSource(source["table"], tuple(source["itemids"]), {int(item): label for item, label in source.get("labels", {}).items()})
            for source in (check_entry(one, ITEM_KEYS, f"{place}: sources") for one in entry["sources"])
            if "itemids" in source
        ),
        conversions=tuple(_conversion(one, place) for one in entry["conversions"]),
        unit_aliases=tuple(entry.get("unit_aliases", ())),
        lookback_hours=lookback,
        digits=digits,
        of=entry.get("of"),
    )


def _check_base(variable: Variable, found: Mapping[str, Variable], where: str) -> None:
    """ConfigError when `of` names no variable that it can be a second column of."""
    if variable.of is None:
        return
    place, base = f"{where}: variable {variable.name!r}", found.get(variable.of)
    if base is None or base.of is not None:
        raise ConfigError(f"{place}: of={variable.of!r} is not a variable that a source emits")
    if variable.role != "label_only" or variable.sources or (variable.unit, variable.kind) != (base.unit, base.kind):
        raise ConfigError(f"{place}: a variable `of` another needs role label_only, no sources, and that one's unit and kind")


def _conversion(raw: Any, place: str) -> Conversion:
    rule = check_entry(raw, CONVERSION_KEYS, f"{place}: conversion")
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
