"""Prediction tasks as data: what is predicted, when, from which columns, on which sources, by whose definition.

Adding `tasks/<name>.yaml` adds a task. Columns are grid variables or derived quantities (`derived/*.yaml`). Kinds:

*event*: `state` gives every hour 1 (in the event), 0 (surely not) or unknown. The label of hour h with horizon H, from the states of
hours h+1 … h+H (eth-mds/icu-features `eep_label`): missing where hour h is in the event; 1 where one of them is 1; 0 where none is 1
and one is 0; missing where none is known. `switches_only`: a 1 is missing too where the last known state up to h was 1. `free_hours`:
missing where one of the last so many hours, h included, was in the event ("all": where any was), so that only new onsets count.
*time*: every hour, 1 where a time of the stay lies in the horizon after the prediction, 0 where not.
*change*: `column` at hour h+H minus `column` at hour h against a threshold; both must be known.
*regression*: a number, hourly or once: a column in hours ahead, or the time that is left.
*column*: a grid column that is a label as it stands (a label that the source itself gives).
*stay*: one outcome per stay, at the prediction hour or at ICU discharge.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

from clinjepa.clinical.conditions import Combination, Condition, Operator, check_columns, parse_condition
from clinjepa.clinical.definitions import check_keys, file_names, parse_definitions, read_definitions
from clinjepa.clinical.derived import load_derived
from clinjepa.errors import ConfigError

Kind = Literal["event", "time", "change", "regression", "column", "stay"]
StayTime = Literal[
    "intime", "outtime", "death_time", "hospital_admission_time", "hospital_discharge_time", "next_icu_admission_time",
    "next_hospital_admission_time",
]  # fmt: skip
StayFlag = Literal["died_in_hospital", "died_in_icu", "sepsis", "chronic_dialysis"]
Statistic = Literal["first", "last", "median", "mean", "min", "max"]
SOURCES = ("meds", "mimic_iv", "cinc2012", "cinc2019", "simulator")

_COMMON = {"name", "title", "kind", "source"}
_COMMON_OPTIONAL = {"requires", "sources", "note", "exclude_stays"}
_KEYS: dict[str, tuple[set[str], set[str]]] = {
    "event": ({"horizon_hours", "switches_only", "state", "requires"}, {"free_hours", "unless"}),
    "time": ({"horizon_hours", "time"}, {"gap_hours", "only_if"}),
    "change": ({"horizon_hours", "column", "op", "value", "requires"}, set()),
    "regression": ({"target"}, set()),
    "column": ({"column", "requires"}, set()),
    "stay": ({"outcome"}, {"at", "unless"}),
}


@dataclass(frozen=True)
class StayOutcome:
    """What becomes of a stay, in one of three ways.

    flag: a boolean column of `stays`. time: 1 when that time lies within `within_hours` after `since` (or beyond `beyond_hours`); a time
    that is null is never; `known_if` columns must not be null. state: 1 when an hour after the prediction is in that state; no label where
    an hour up to it was, and none where no later hour is known.
    """

    flag: StayFlag | None = None
    time: StayTime | None = None
    since: StayTime | None = None
    within_hours: float | None = None
    beyond_hours: float | None = None
    known_if: tuple[str, ...] = ()
    state: Condition | Combination | None = None


@dataclass(frozen=True)
class Target:
    """A number to predict: `statistic` of the known values of `column` in hours h+first_hour … h+last_hour, or the time left until `time`.

    transform `log`: ln(x + offset). once: predicted only at the stay's prediction hour. whole_window: only where the stay lasts until the
    last of these hours has passed. unit_hours: of the time left.
    """

    column: str | None = None
    first_hour: int = 0
    last_hour: int = 0
    statistic: Statistic = "last"
    transform: Literal["none", "log"] = "none"
    offset: float = 0.0
    once: bool = False
    whole_window: bool = False
    time: StayTime | None = None
    unit_hours: float = 24.0


@dataclass(frozen=True)
class Task:
    """One prediction task; the module's text says what each kind means.

    requires: columns without which a source cannot give the task (of several in one `any`/`first` condition not all are needed).
    sources: kinds of source on which it can be computed; empty: wherever the required columns are. exclude_stays: boolean columns of
    `stays`; where one is true, there is no label. unless: a state that takes the label of the hour away (event) or of the stay where it
    held by the prediction (stay). horizon_hours: hours after the predicted hour that the label speaks about.
    """

    name: str
    title: str
    kind: Kind
    source: str
    horizon_hours: int | None = None
    switches_only: bool = False
    free_hours: int | Literal["all"] | None = None
    state: Condition | Combination | None = None
    unless: Condition | Combination | None = None
    outcome: StayOutcome | None = None
    at: Literal["prediction_hour", "icu_discharge"] = "prediction_hour"
    time: StayTime | None = None
    gap_hours: int = 0
    only_if: StayFlag | None = None
    column: str | None = None
    op: Operator | None = None
    value: float | None = None
    target: Target | None = None
    requires: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    exclude_stays: tuple[str, ...] = ()
    note: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """Grid columns and derived quantities that it reads; empty for tasks made of the stay's own columns."""
        nodes = [self.state, self.unless, self.outcome.state if self.outcome else None]
        named = [name for node in nodes if node for name in node.all_variables()]
        columns = [self.column, self.target.column if self.target else None]
        return tuple(dict.fromkeys([*named, *(name for name in columns if name)]))

    @property
    def is_hourly(self) -> bool:
        """Whether it is predicted hour by hour, not once per stay."""
        return self.kind != "stay" and not (self.target is not None and self.target.once)

    @property
    def is_classification(self) -> bool:
        """Whether its labels are 0 or 1, not a number to be decoded."""
        return self.kind != "regression"

    @property
    def looks_ahead_hours(self) -> int | None:
        """Hours after the predicted one on which a label may depend; None: on the whole stay."""
        ahead = max((load_derived()[name].looks_ahead_hours for name in self.variables if name in load_derived()), default=0)
        if self.kind in ("stay", "time") or (self.target is not None and self.target.time is not None):
            return None
        return ahead + (self.target.last_hour if self.target else self.horizon_hours or 0)


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
    every = set().union(*(required | optional for required, optional in _KEYS.values()))
    kind = check_keys(content, _COMMON, _COMMON_OPTIONAL | every, where)["kind"]
    if kind not in _KEYS:
        raise ConfigError(f"{where}: kind={kind!r} is not one of {list(_KEYS)}")
    required, optional = _KEYS[kind]
    entry = check_keys(content, _COMMON | required, _COMMON_OPTIONAL | optional, f"{where} (kind: {kind})")
    derived = load_derived()
    fields: dict[str, Any] = {name: entry[name] for name in ("name", "title", "kind", "source")} | {"note": entry.get("note", "")}
    for key in ("horizon_hours", "gap_hours"):
        if key in entry:
            fields[key] = _whole(entry[key], f"{where}: {key}", lowest=0 if key == "gap_hours" else 1)
    for key in ("state", "unless"):
        if key in entry:
            fields[key] = parse_condition(entry[key], f"{where}: {key}", derived)
    if "free_hours" in entry:
        free = entry["free_hours"]
        fields["free_hours"] = free if free == "all" else _whole(free, f"{where}: free_hours", lowest=1)
    if kind == "event":
        fields["switches_only"] = bool(entry["switches_only"])
    if kind == "time":
        fields["time"] = _choice(entry["time"], get_args(StayTime), f"{where}: time")
        fields["only_if"] = _choice(entry["only_if"], get_args(StayFlag), f"{where}: only_if") if "only_if" in entry else None
    if kind in ("change", "column"):
        check_columns([entry["column"]], f"{where}: column", derived)
        fields["column"] = entry["column"]
    if kind == "change":
        fields["op"] = _choice(entry["op"], get_args(Operator), f"{where}: op")
        fields["value"] = _number(entry["value"], f"{where}: value")
    if kind == "regression":
        fields["target"] = _target(entry["target"], f"{where}: target", derived)
    if kind == "stay":
        fields["outcome"] = _outcome(entry["outcome"], f"{where}: outcome", derived)
        fields["at"] = _choice(entry.get("at", "prediction_hour"), ("prediction_hour", "icu_discharge"), f"{where}: at")
    fields["requires"] = tuple(entry.get("requires", ()))
    check_columns(fields["requires"], f"{where}: requires", derived)
    for key, allowed in (("sources", SOURCES), ("exclude_stays", get_args(StayFlag))):
        fields[key] = tuple(_choice(one, allowed, f"{where}: {key}") for one in entry.get(key, ()))
    task = Task(**fields)
    unused = set(task.requires) - set(task.variables)
    if unused:
        raise ConfigError(f"{where}: requires names {sorted(unused)}, which the {'state' if task.state else 'task'} does not read")
    return task


def _outcome(raw: Any, where: str, derived: Any) -> StayOutcome:
    if isinstance(raw, str):
        return StayOutcome(flag=_choice(raw, get_args(StayFlag), where))
    if isinstance(raw, dict) and "state" in raw:
        check_keys(raw, {"state"}, set(), where)
        return StayOutcome(state=parse_condition(raw["state"], f"{where}.state", derived))
    entry = check_keys(raw, {"time", "since"}, {"within_hours", "beyond_hours", "known_if"}, where)
    if ("within_hours" in entry) == ("beyond_hours" in entry):
        raise ConfigError(f"{where}: needs either within_hours or beyond_hours")
    known_if = tuple(_choice(one, (*get_args(StayTime), *get_args(StayFlag)), f"{where}.known_if") for one in entry.get("known_if", ()))
    return StayOutcome(
        time=_choice(entry["time"], get_args(StayTime), f"{where}.time"),
        since=_choice(entry["since"], get_args(StayTime), f"{where}.since"),
        within_hours=_number(entry["within_hours"], f"{where}.within_hours") if "within_hours" in entry else None,
        beyond_hours=_number(entry["beyond_hours"], f"{where}.beyond_hours") if "beyond_hours" in entry else None,
        known_if=known_if,
    )


def _target(raw: Any, where: str, derived: Any) -> Target:
    if isinstance(raw, dict) and "time" in raw:
        entry = check_keys(raw, {"time"}, {"unit_hours"}, where)
        unit = _number(entry.get("unit_hours", 24), f"{where}.unit_hours")
        return Target(time=_choice(entry["time"], get_args(StayTime), f"{where}.time"), unit_hours=unit)
    entry = check_keys(raw, {"column", "hours"}, {"statistic", "transform", "offset", "once", "whole_window"}, where)
    check_columns([entry["column"]], f"{where}.column", derived)
    hours = entry["hours"] if isinstance(entry["hours"], list) else [entry["hours"], entry["hours"]]
    if len(hours) != 2:
        raise ConfigError(f"{where}.hours={hours!r} must be one number of hours ahead or the first and the last")
    first, last = (_whole(hour, f"{where}.hours", lowest=1) for hour in hours)
    if last < first:
        raise ConfigError(f"{where}.hours: the last hour {last} lies before the first {first}")
    return Target(
        column=entry["column"],
        first_hour=first,
        last_hour=last,
        statistic=_choice(entry.get("statistic", "last"), get_args(Statistic), f"{where}.statistic"),
        transform=_choice(entry.get("transform", "none"), ("none", "log"), f"{where}.transform"),
        offset=_number(entry.get("offset", 0), f"{where}.offset"),
        once=bool(entry.get("once", False)),
        whole_window=bool(entry.get("whole_window", False)),
    )


def _choice(value: Any, allowed: tuple[str, ...], where: str) -> Any:
    if value not in allowed:
        raise ConfigError(f"{where}={value!r} is not one of {list(allowed)}")
    return value


def _whole(value: Any, where: str, lowest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ConfigError(f"{where}={value!r} must be a whole number of hours >= {lowest}")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{where}={value!r} is not a number")
    return float(value)
