"""Prediction tasks as data: what counts as the event or outcome, over which horizon, from which variables, by whose definition.

An *event* task is an early-event prediction on the hourly grid. Its `state` gives every hour one of three values: 1 (in the
event), 0 (surely not), unknown. The label of hour h with horizon H then is, from the states of hours h+1 … h+H (eth-mds/icu-features
`eep_label`): missing where hour h itself is in the event; 1 where one of them is 1; 0 where none is 1 and at least one is 0; missing where
none is known. With `switches_only`, a 1 also becomes missing where the last known state up to hour h was 1: only onsets after
a known recovery, or after no event yet, count. A *stay* task is one outcome per stay, from a column of `stays`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import check_keys, file_names, parse_definitions, read_definitions
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

Stat = Literal["observed", "given"]
Operator = Literal["<", "<=", ">", ">=", "=="]
Rule = Literal["all", "any", "not", "agree"]
Outcome = Literal["died_in_hospital", "died_in_icu", "sepsis"]

_TASK_REQUIRED = {"name", "title", "kind", "source"}
_TASK_OPTIONAL = {"horizon_hours", "switches_only", "state", "outcome", "requires", "note"}


@dataclass(frozen=True)
class Condition:
    """A three-valued comparison of one hour's grid values.

    variables: grid columns. stat `observed`: the hourly aggregate, unknown where null; `given`: the hourly rate, amount or indicator of
    a treatment, 0 where null (so never unknown). pick `first`: the first variable of the list that is known decides (a
    fallback); `any`: true where one of the known ones satisfies the comparison, false where at least one is known and none does.
    value: in the variables' unit.
    """

    variables: tuple[str, ...]
    stat: Stat
    op: Operator
    value: float
    pick: Literal["first", "any"] = "any"

    def all_variables(self) -> tuple[str, ...]:
        """Grid columns that the condition reads."""
        return self.variables


@dataclass(frozen=True)
class Combination:
    """Three-valued logic over parts.

    `all`: false if one part is false, else unknown if one is unknown, else true. `any`: true if one part is true, else unknown if
    one is unknown, else false. `not` (one part): true and false swap, unknown stays. `agree`: true if all are true,
    false if all are false, else unknown.
    """

    rule: Rule
    parts: tuple[Condition | Combination, ...]

    def all_variables(self) -> tuple[str, ...]:
        """Grid columns that the parts read, each once."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.all_variables()))


@dataclass(frozen=True)
class Task:
    """One prediction task.

    kind `event`: has `state`, `horizon_hours` (hours after the predicted hour in which the event may lie) and `switches_only`.
    kind `stay`: has `outcome`, the boolean column of `stays` that is predicted (null there = no label).
    requires: variables without which a source cannot give the task (of several variables in one `any`/`first` condition not all are
    needed). source: where the definition is taken from.
    """

    name: str
    title: str
    kind: Literal["event", "stay"]
    source: str
    horizon_hours: int | None = None
    switches_only: bool = False
    state: Condition | Combination | None = None
    outcome: Outcome | None = None
    requires: tuple[str, ...] = ()
    note: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """Grid columns that the state reads; empty for stay tasks."""
        return self.state.all_variables() if self.state else ()


def list_tasks() -> list[str]:
    """Names of all tasks that are there."""
    return file_names("tasks")


@lru_cache(maxsize=256)
def load_task(name: str) -> Task:
    """The task `clinjepa/clinical/tasks/<name>.yaml`; ConfigError when it is unknown or contradicts itself."""
    known = list_tasks()
    if name not in known:
        raise ConfigError(f"task {name!r} is not known; known are {known}")
    where = f"clinjepa/clinical/tasks/{name}.yaml"
    task = _task(read_definitions(f"tasks/{name}.yaml"), where)
    if task.name != name:
        raise ConfigError(f"{where}: name={task.name!r} differs from the file's name")
    return task


def load_tasks(names: list[str]) -> list[Task]:
    """Several tasks, in the order given."""
    return [load_task(name) for name in names]


def parse_task(text: str, where: str) -> Task:
    """A task from YAML text; `where` names it in messages."""
    return _task(parse_definitions(text, where), where)


def _task(content: Any, where: str) -> Task:
    entry = check_keys(content, _TASK_REQUIRED, _TASK_OPTIONAL, where)
    requires = tuple(entry.get("requires", ()))
    _check_variables(requires, f"{where}: requires")
    common = {"name": entry["name"], "title": entry["title"], "source": entry["source"], "note": entry.get("note", "")}
    if entry["kind"] == "stay":
        check_keys(entry, _TASK_REQUIRED | {"outcome"}, {"note"}, f"{where} (kind: stay)")
        if entry["outcome"] not in get_args(Outcome):
            raise ConfigError(f"{where}: outcome={entry['outcome']!r} is not one of {list(get_args(Outcome))}")
        return Task(**common, kind="stay", outcome=entry["outcome"])
    if entry["kind"] != "event":
        raise ConfigError(f"{where}: kind={entry['kind']!r} is not one of ['event', 'stay']")
    check_keys(entry, _TASK_REQUIRED | {"horizon_hours", "switches_only", "state", "requires"}, {"note"}, f"{where} (kind: event)")
    horizon = entry["horizon_hours"]
    if not isinstance(horizon, int) or horizon < 1:
        raise ConfigError(f"{where}: horizon_hours={horizon!r} must be a whole number of hours >= 1")
    state = _state(entry["state"], f"{where}: state")
    unused = set(requires) - set(state.all_variables())
    if unused:
        raise ConfigError(f"{where}: requires names {sorted(unused)}, which the state does not read")
    return Task(**common, kind="event", horizon_hours=horizon, switches_only=bool(entry["switches_only"]), state=state, requires=requires)


def _state(raw: Any, where: str) -> Condition | Combination:
    if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in get_args(Rule):
        rule, content = next(iter(raw.items()))
        parts = [content] if rule == "not" else content
        if not isinstance(parts, list) or not parts:
            raise ConfigError(f"{where}.{rule}: expected a list of conditions")
        return Combination(cast(Rule, rule), tuple(_state(part, f"{where}.{rule}[{index}]") for index, part in enumerate(parts)))
    entry = check_keys(raw, {"variables", "stat", "op", "value"}, {"pick"}, where)
    names = tuple(entry["variables"]) if isinstance(entry["variables"], list) else ()
    if not names:
        raise ConfigError(f"{where}.variables: expected a list of variable names")
    _check_variables(names, where)
    for key, allowed in (("stat", get_args(Stat)), ("op", get_args(Operator)), ("pick", ("first", "any"))):
        if key in entry and entry[key] not in allowed:
            raise ConfigError(f"{where}.{key}={entry[key]!r} is not one of {list(allowed)}")
    if not isinstance(entry["value"], int | float) or isinstance(entry["value"], bool):
        raise ConfigError(f"{where}.value={entry['value']!r} is not a number")
    return Condition(names, entry["stat"], entry["op"], float(entry["value"]), entry.get("pick", "any"))


def _check_variables(names: tuple[str, ...], where: str) -> None:
    variables = load_variables()
    for name in names:
        if name not in variables:
            raise ConfigError(f"{where}: {name!r} is not in variables.yaml")
        if variables[name].kind == "category":
            raise ConfigError(f"{where}: {name!r} is a category; conditions compare numbers")
