"""A plan of treatment for the coming hours of a stay, written as the action texts that ingest would write.

A plan is a list of entries. The events of the entries go through `grid.place_events` and `text.hour_texts`, as the events of a source do.
What the plan does not name goes on as in the last known hour. Read by the what-if forecasts (`clinjepa/evaluation/forecasts/what_if.py`).
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeGuard

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable, load_variables
from clinjepa.clinical.variables import canonical_unit
from clinjepa.config.file_text import read_text
from clinjepa.config.yaml_text import YamlFault, parse_yaml
from clinjepa.errors import ConfigError
from clinjepa.sources.schema import EVENTS_SCHEMA
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.text import action_text, hour_texts, phrases_of

Said = Literal["rate", "amount", "value", "words"]
"""Key of an entry that says what is given: a rate, an amount in each hour, a setting (or 1 for on and 0 for off), a word."""
_SAID: tuple[Said, ...] = ("rate", "amount", "value", "words")
_KEYS = ("drug", *_SAID, "stop", "unit", "from_hour", "until_hour")
_CLOCK = datetime(2000, 1, 1)


@dataclass(frozen=True)
class PlanEntry:
    """What one entry says of a variable in hours `first` to `end` - 1 of the stay: `given`, a number in the variable's unit or a word; None
    for not given. `is_open`: the entry itself names no end, so a later entry of the variable ends it."""

    number: int
    variable: Variable
    given: float | str | None
    first: int
    end: int
    is_open: bool


def read_plan(path: Path, known_hour: int, last_hour: int, variables: Mapping[str, Variable] | None = None) -> list[PlanEntry]:
    """The entries of a plan file, by variable and hour; each ends where the next one of its variable begins.

    Args:
        path: YAML file, a list of entries with `drug` (the name of an action variable), what is given from `from_hour` on (`rate`, `amount`
            of each hour, `value` or `words`) until before `until_hour`, or `stop`, the hour from which it is not given.
        known_hour: last known hour of the stay; a plan begins after it.
        last_hour: last hour of the stay whose actions the forecast reads.
        variables: the variable dictionary; None reads it.

    Raises:
        ConfigError: the file is no plan; the message names file, entry and remedy.
    """
    if not path.exists():
        raise ConfigError(f"{path}: there is no such plan; give a YAML file with a list of entries")
    try:
        content = parse_yaml(read_text(path))
    except YamlFault as fault:
        raise ConfigError(f"{path}: {'' if fault.line is None else f'line {fault.line} '}{fault.words}") from None
    if not isinstance(content, list) or not content:
        raise ConfigError(f"{path} is no plan; give a list of entries such as `- {{drug: norepinephrine, rate: 0.1, from_hour: 30}}`")
    reader = _Reader(str(path), known_hour, last_hour, load_variables() if variables is None else variables)
    return reader.ended([reader.entry(number, raw) for number, raw in enumerate(content, start=1)])


def planned_texts(
    plan: Sequence[PlanEntry], last_text: str, hours: range, max_decimals: int, variables: Mapping[str, Variable] | None = None
) -> list[str]:
    """Action texts of the coming hours of a stay under a plan.

    In an hour in which an entry of a variable holds, that entry alone says what the text says under the variable's name. All other phrases
    are those of the last known hour, amounts and single doses among them.

    Args:
        plan: as `read_plan` returns it.
        last_text: action text of the last known hour.
        hours: hours of the stay, ascending by 1.
        max_decimals: `text.max_decimals` of the ingest that wrote the texts.
        variables: the variable dictionary; None reads it.
    """
    variables = load_variables() if variables is None else variables
    actions = {each.text_name: each for each in variables.values() if each.role == "action"}
    written = _written(plan, hours, max_decimals, variables)
    last = _placed(phrases_of(last_text), actions, len(variables))
    texts = []
    for hour in hours:
        named = {entry.variable.text_name for entry in plan if entry.first <= hour < entry.end}
        kept = [(place, phrase) for place, name, phrase in last if name not in named]
        own = [(actions[_name(phrase)].order, phrase) for phrase in written[hour]]
        texts.append(action_text(hour, (phrase for _, phrase in sorted(kept + own, key=lambda each: each[0]))))
    return texts


@dataclass(frozen=True)
class _Reader:
    """Checks entries of one file."""

    path: str
    known_hour: int
    last_hour: int
    variables: Mapping[str, Variable]

    def fault(self, number: int, words: str) -> ConfigError:
        return ConfigError(f"{self.path}: entry {number}: {words}")

    def entry(self, number: int, raw: Any) -> PlanEntry:
        """One entry; an open one reaches to the last hour."""
        if not isinstance(raw, dict):
            raise self.fault(number, "is no mapping; write {drug: norepinephrine, rate: 0.1, from_hour: 30}")
        if unknown := [str(key)[:40] for key in raw if key not in _KEYS]:
            raise self.fault(number, f"has the unknown key {unknown[0]}; the keys are {', '.join(_KEYS)}")
        variable = self._variable(number, raw.get("drug"))
        said = [key for key in (*_SAID, "stop") if key in raw]
        own = _said_of(variable)
        if len(said) != 1 or said[0] not in (own, "stop"):
            found = f"has {' and '.join(said)}" if said else "does not say what is given"
            raise self.fault(number, f"{found}; {variable.name} takes {own} ({_unit_words(variable)}) or stop, one of them")
        if "unit" in raw and (not isinstance(raw["unit"], str) or not _same_unit(raw["unit"], variable)):
            raise self.fault(number, f"another unit than that of {variable.name}; convert the number to {_unit_words(variable)}")
        if said == ["stop"]:
            if {"from_hour", "until_hour", "unit"} & raw.keys():
                raise self.fault(number, "stop is the hour from which the drug is not given, and stands alone beside drug; remove the rest")
            return PlanEntry(number, variable, None, self._hour(number, "stop", raw["stop"]), self.last_hour + 1, True)
        first = self._hour(number, "from_hour", raw.get("from_hour", self.known_hour + 1))
        end = raw.get("until_hour", self.last_hour + 1)
        if not _is_whole(end) or end <= first:
            raise self.fault(number, f"until_hour must be a whole hour of the stay after {first}, the first hour of the entry")
        return PlanEntry(number, variable, self._given(number, variable, raw[own]), first, end, "until_hour" not in raw)

    def ended(self, entries: list[PlanEntry]) -> list[PlanEntry]:
        """The entries by variable and hour, each ended where the next of its variable begins. Raises ConfigError for an overlap."""
        ordered = sorted(entries, key=lambda entry: (entry.variable.order, entry.first, entry.number))
        ends = {}
        for one, other in pairwise(ordered):
            if one.variable == other.variable and other.first < one.end:
                if other.first == one.first or not one.is_open:
                    words = f"overlaps entry {min(one.number, other.number)} of {one.variable.name}; let one end before the other begins"
                    raise self.fault(max(one.number, other.number), words)
                ends[one.number] = other.first
        found = [(entry, min(ends.get(entry.number, entry.end), self.last_hour + 1)) for entry in ordered]
        return [PlanEntry(e.number, e.variable, e.given, e.first, end, e.is_open) for e, end in found]

    def _variable(self, number: int, name: object) -> Variable:
        if not isinstance(name, str):
            raise self.fault(number, "names no drug; write drug: with the name of a variable of clinjepa/clinical/variables.yaml")
        actions = {each.name: each for each in self.variables.values() if each.role == "action"}
        if name in actions:
            return actions[name]
        if name in self.variables:
            raise self.fault(number, f"{name} is observed and not given; a plan changes variables of role action")
        titles = {each.text_name.lower(): each.name for each in actions.values()}
        near = difflib.get_close_matches(name.lower(), [*actions, *titles], n=1)
        hint = (
            f"did you mean {titles.get(near[0], near[0])}?" if near else "docs/clinical.md lists the variables; the plan names one by name"
        )
        raise self.fault(number, f"{name[:40]!r} is no action of clinjepa/clinical/variables.yaml; {hint}")

    def _given(self, number: int, variable: Variable, value: object) -> float | str:
        if variable.kind == "category":
            if not isinstance(value, str) or not value.strip() or ". " in value:
                raise self.fault(number, "words must be a word of the data, such as CPAP, in one sentence")
            return value
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.fault(number, f"{_said_of(variable)} is no number; give {variable.name} in {_unit_words(variable)}")
        low, high = variable.minimum, variable.maximum
        if variable.kind == "indicator" and value not in (0, 1):
            raise self.fault(number, f"value of {variable.name} must be 1 for on or 0 for off")
        if low is not None and high is not None and not low <= value <= high:
            raise self.fault(
                number, f"{_said_of(variable)} is outside {low:g} to {high:g} {variable.unit}, the plausible range of {variable.name}"
            )
        return float(value)

    def _hour(self, number: int, key: str, value: object) -> int:
        if not _is_whole(value):
            raise self.fault(number, f"{key} must be a whole hour of the stay")
        if value <= self.known_hour:
            raise self.fault(number, f"{key} must be after hour {self.known_hour}, the last known one: what was given then is known")
        if value > self.last_hour:
            raise self.fault(number, f"{key} is after hour {self.last_hour}, the last whose actions the forecast reads; begin earlier")
        return value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _said_of(variable: Variable) -> Said:
    if variable.kind == "rate":
        return "rate"
    if variable.kind == "category":
        return "words"
    return "amount" if variable.aggregation == "sum" else "value"


def _unit_words(variable: Variable) -> str:
    said = _said_of(variable)
    if variable.kind in ("indicator", "category"):
        return "1 or 0" if variable.kind == "indicator" else "a word of the data"
    return f"{variable.unit} in each hour" if said == "amount" else variable.unit


def _same_unit(unit: str, variable: Variable) -> bool:
    return canonical_unit(unit) == canonical_unit(variable.unit) or unit.strip() in variable.unit_aliases


def _name(phrase: str) -> str:
    """The name that a phrase begins with: all of it for one without a value."""
    return phrase.partition(": ")[0]


def _placed(phrases: Sequence[str], actions: Mapping[str, Variable], after: int) -> list[tuple[int, str, str]]:
    """(place in the clinical order, name, phrase) of the phrases of a text; medications are at the place `after` all variables.

    A phrase that no variable writes belongs to the variable before it where a later phrase is a variable's, and is a medication otherwise;
    so a bolus with the name of an infusion is a medication.
    """
    own = [_place(phrase, actions) for phrase in phrases]
    found: list[tuple[int, str, str]] = []
    place, name = -1, ""
    for number, phrase in enumerate(phrases):
        if (here := own[number]) is not None:
            place, name = here, _name(phrase)
        elif all(each is None for each in own[number + 1 :]):
            place, name = after, _name(phrase)
        found.append((place, name, phrase))
    return found


def _place(phrase: str, actions: Mapping[str, Variable]) -> int | None:
    """Order of the variable that writes the phrase; None where none does. A number has its variable's unit behind it."""
    variable = actions.get(_name(phrase))
    if variable is None or (variable.kind in ("numeric", "rate") and not phrase.endswith(f" {variable.unit}")):
        return None
    return variable.order


def _written(plan: Sequence[PlanEntry], hours: range, max_decimals: int, variables: Mapping[str, Variable]) -> dict[int, list[str]]:
    """Phrases of the plan's entries in each hour, by the writer of the stores."""
    num_hours = hours.stop
    ends = {"intime": [_CLOCK], "outtime": [_CLOCK + timedelta(hours=num_hours)]}
    stays = pl.DataFrame({"stay_id": [0], **ends, "num_hours": [num_hours]})
    rows = [row for entry in plan for row in _events(entry)]
    columns = {name: [row.get(name, 0 if name in ("stay_id", "row") else None) for row in rows] for name in EVENTS_SCHEMA.names}
    plain = [pa.string() if pa.types.is_dictionary(field.type) else field.type for field in EVENTS_SCHEMA]
    events = pa.table([pa.array(columns[field.name], kind) for field, kind in zip(EVENTS_SCHEMA, plain, strict=True)], EVENTS_SCHEMA.names)
    placed, _ = place_events(events.cast(EVENTS_SCHEMA), stays, variables)
    texts = hour_texts(placed, stays, variables, max_decimals, include_medications=False)["action_texts"].to_list()[0]
    return {hour: phrases_of(texts[hour]) for hour in hours}


def _events(entry: PlanEntry) -> list[dict[str, object]]:
    """The events of an entry in the sources' schema: one interval for what runs, one reading an hour for settings and words."""
    if entry.given is None:
        return []
    variable, length = entry.variable.name, entry.end - entry.first
    begin, end = _CLOCK + timedelta(hours=entry.first), _CLOCK + timedelta(hours=entry.end)
    match _said_of(entry.variable):
        case "rate":
            return [{"variable": variable, "time": begin, "end_time": end, "value": entry.given}]
        case "amount":
            return [{"variable": variable, "time": begin, "end_time": end, "value": float(entry.given) * length}]
        case "value" if entry.variable.kind == "indicator":
            return [{"variable": variable, "time": begin, "end_time": end, "value": entry.given}]
        case "value":
            return [{"variable": variable, "time": begin + timedelta(hours=k), "value": entry.given} for k in range(length)]
        case _:
            return [{"variable": variable, "time": begin + timedelta(hours=k), "text": str(entry.given)} for k in range(length)]
