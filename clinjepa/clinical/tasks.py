"""Prediction tasks as data: what is predicted, when, from which columns, on which sources, and where the definition is from.

Adding `tasks/<name>.yaml` adds a task; `task_keys.py` lists the keys. Columns are grid variables or derived quantities. Kinds:

*event*: `state` gives every hour 1 (in the event), 0 (not in it) or unknown. The label of hour h with horizon H is computed from hours
h+1 … h+H (eth-mds/icu-features `eep_label`): missing if hour h is in the event, 1 if one of them is 1, 0 if none is 1 and one is 0,
missing if none is known. `switches_only`: a 1 is also missing if the last known state up to h was 1, and with `carried_event: unknown`
a 0 as well. `free_hours`: missing if one of the last so many hours, h included, was in the event ("all": if any was), so that only new
onsets count.
*time*: every hour, 1 if a time of the stay lies in the horizon after the prediction, otherwise 0.
*change*: `column` at hour h+H minus `column` at hour h, compared with a threshold; both must be known.
*regression*: a number, hourly or once: a column in hours ahead, or the time that is left.
*column*: a grid column that is itself a label (a label that the data set provides).
*stay*: one outcome per stay, at the prediction hour or at ICU discharge.
*given*: labels from a file of the user (`labels.files`), which no definition here describes: `given_task`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.conditions import Combination, Condition, Operator, check_columns, parse_condition
from clinjepa.clinical.definitions import Key, check_choice, check_entry, file_names, parse_definitions, read_definitions
from clinjepa.clinical.derived import load_derived
from clinjepa.clinical.task_keys import (
    COMMON_KEYS,
    KIND_KEYS,
    OUTCOME_STATE_KEYS,
    OUTCOME_TIME_KEYS,
    TARGET_TIME_KEYS,
    TARGET_VALUE_KEYS,
    CarriedEvent,
    Kind,
    LabelColumn,
    PredictedAt,
    Statistic,
    StayFlag,
    StayTime,
    Transform,
)
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError


@dataclass(frozen=True)
class StayOutcome:
    """Outcome of a stay, in one of three forms: a boolean column of `stays` (flag), a time, or a state.

    OUTCOME_TIME_KEYS and OUTCOME_STATE_KEYS explain the fields.
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

    TARGET_VALUE_KEYS and TARGET_TIME_KEYS explain the fields.
    """

    column: str | None = None
    first_hour: int = 0
    last_hour: int = 0
    statistic: Statistic = "last"
    transform: Transform = "none"
    offset: float = 0.0
    once: bool = False
    whole_window: bool = False
    time: StayTime | None = None
    unit_hours: float = 24.0


@dataclass(frozen=True)
class Task:
    """One prediction task. The module's docstring describes the kinds; COMMON_KEYS and KIND_KEYS of `task_keys.py` explain the fields.

    requires: of several variables in one `any` or `first` condition not all need to be required. sources: empty means wherever the
    required columns are.
    """

    name: str
    title: str
    kind: Kind | Literal["given"]
    source: str
    horizon_hours: int | None = None
    switches_only: bool = False
    carried_event: CarriedEvent = "negatives_only"
    free_hours: int | Literal["all"] | None = None
    state: Condition | Combination | None = None
    unless: Condition | Combination | None = None
    outcome: StayOutcome | None = None
    at: PredictedAt = "prediction_hour"
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
    given: LabelColumn | None = None
    """Column of the label file, of a task of kind `given`."""

    @property
    def variables(self) -> tuple[str, ...]:
        """Grid columns and derived quantities that it reads; empty for tasks that only read columns of `stays`."""
        nodes = [self.state, self.unless, self.outcome.state if self.outcome else None]
        named = [name for node in nodes if node for name in node.all_variables()]
        columns = [self.column, self.target.column if self.target else None]
        return tuple(dict.fromkeys([*named, *(name for name in columns if name)]))

    @property
    def is_hourly(self) -> bool:
        """Whether it is predicted hour by hour on a stride, not once per stay or where a label file says."""
        return self.kind not in ("stay", "given") and not (self.target is not None and self.target.once)

    @property
    def is_classification(self) -> bool:
        """Whether its labels are 0 or 1 rather than a number."""
        return self.kind != "regression" and self.given in (None, "boolean_value")

    @property
    def label_unit(self) -> str:
        """Unit of a regression task's labels, as `mmHg`, `days` or `ln(mg/dL + 0.1)`; empty for labels 0 and 1."""
        if self.target is None:
            return ""
        if self.target.column is None:
            return {1.0: "hours", 24.0: "days"}.get(self.target.unit_hours, f"{self.target.unit_hours:g} h")
        derived = load_derived().get(self.target.column)
        unit = derived.unit if derived is not None else load_variables()[self.target.column].unit
        if self.target.transform == "none":
            return unit
        return f"ln({unit} + {self.target.offset:g})" if self.target.offset else f"ln({unit})"

    @property
    def looks_ahead_hours(self) -> int | None:
        """Hours after the predicted hour that a label may depend on; None: the whole stay."""
        if self.kind in ("stay", "time", "given") or (self.target is not None and self.target.time is not None):
            return None
        return self.reads_hours_ahead

    @property
    def reads_hours_ahead(self) -> int | None:
        """Hours after the predicted hour whose hourly values a label reads; None: all until the end of the stay.

        Times and outcomes of the stay are no hourly values.
        """
        if self.outcome is not None and self.outcome.state is not None:
            return None
        ahead = max((load_derived()[name].looks_ahead_hours for name in self.variables if name in load_derived()), default=0)
        return ahead + (self.target.last_hour if self.target else 0 if self.kind == "time" else self.horizon_hours or 0)


def list_tasks() -> list[str]:
    """Names of all tasks."""
    return file_names("tasks")


@lru_cache(maxsize=256)
def load_task(name: str) -> Task:
    """The task `clinjepa/clinical/tasks/<name>.yaml`; ConfigError when it is unknown or not valid."""
    known = list_tasks()
    if name not in known:
        raise ConfigError(f"task {name!r} is not known; known are {known}")
    where = f"clinjepa/clinical/tasks/{name}.yaml"
    task = _task(read_definitions(f"tasks/{name}.yaml"), where)
    if task.name != name:
        raise ConfigError(f"{where}: name={task.name!r} differs from the file's name")
    return task


def load_tasks(names: list[str], given: Mapping[str, LabelColumn] | None = None) -> list[Task]:
    """Several tasks, in the order given. given: tasks of label files by name, with the column of their labels."""
    files = given or {}
    return [given_task(name, files[name]) if name in files else load_task(name) for name in names]


def given_task(name: str, column: LabelColumn) -> Task:
    """A task whose labels come from a file of the user: no horizon, no stride, nothing known of how the labels were made."""
    return Task(name=name, title=name.replace("_", " "), kind="given", source="a label file", given=column)


def parse_task(text: str, where: str) -> Task:
    """A task from YAML text; `where` names it in messages."""
    return _task(parse_definitions(text, where), where)


def _task(content: Any, where: str) -> Task:
    everything = (*COMMON_KEYS, *(key._replace(required=False, allowed=()) for keys in KIND_KEYS.values() for key in keys))
    kind = check_entry(content, everything, where)["kind"]
    entry = check_entry(content, _keys_of(kind), f"{where} (kind: {kind})")
    derived = load_derived()
    for column in (*([entry["column"]] if "column" in entry else []), *entry.get("requires", ())):
        check_columns([column], f"{where}: {'column' if column == entry.get('column') else 'requires'}", derived)
    free = entry.get("free_hours")
    task = Task(
        name=entry["name"],
        title=entry["title"],
        kind=kind,
        source=entry["source"],
        horizon_hours=_whole(entry["horizon_hours"], f"{where}: horizon_hours", lowest=1) if "horizon_hours" in entry else None,
        switches_only=bool(entry.get("switches_only", False)),
        carried_event=entry.get("carried_event", "negatives_only"),
        free_hours=free if free is None or free == "all" else _whole(free, f"{where}: free_hours", lowest=1),
        state=parse_condition(entry["state"], f"{where}: state", derived) if "state" in entry else None,
        unless=parse_condition(entry["unless"], f"{where}: unless", derived) if "unless" in entry else None,
        outcome=_outcome(entry["outcome"], f"{where}: outcome", derived) if "outcome" in entry else None,
        at=entry.get("at", "prediction_hour"),
        time=entry.get("time"),
        gap_hours=_whole(entry.get("gap_hours", 0), f"{where}: gap_hours", lowest=0),
        only_if=entry.get("only_if"),
        column=entry.get("column"),
        op=entry.get("op"),
        value=_number(entry["value"], f"{where}: value") if "value" in entry else None,
        target=_target(entry["target"], f"{where}: target", derived) if "target" in entry else None,
        requires=tuple(entry.get("requires", ())),
        sources=tuple(entry.get("sources", ())),
        exclude_stays=tuple(entry.get("exclude_stays", ())),
        note=entry.get("note", ""),
    )
    if "carried_event" in entry and not task.switches_only:
        raise ConfigError(f"{where}: carried_event needs switches_only: true; without it an hour keeps its label whatever was known before")
    unused = set(task.requires) - set(task.variables)
    if unused:
        raise ConfigError(f"{where}: requires names {sorted(unused)}, which the {'state' if task.state else 'task'} does not read")
    return task


def _keys_of(kind: Kind) -> list[Key]:
    """Keys of a kind of task; a key of the kind replaces the common one of that name."""
    return list({key.name: key for key in (*COMMON_KEYS, *KIND_KEYS[kind])}.values())


def _outcome(raw: Any, where: str, derived: Collection[str]) -> StayOutcome:
    if isinstance(raw, str):
        check_choice([raw], get_args(StayFlag), where)
        return StayOutcome(flag=cast(StayFlag, raw))
    if isinstance(raw, dict) and "state" in raw:
        check_entry(raw, OUTCOME_STATE_KEYS, where)
        return StayOutcome(state=parse_condition(raw["state"], f"{where}.state", derived))
    entry = check_entry(raw, OUTCOME_TIME_KEYS, where)
    if ("within_hours" in entry) == ("beyond_hours" in entry):
        raise ConfigError(f"{where}: needs either within_hours or beyond_hours")
    return StayOutcome(
        time=entry["time"],
        since=entry["since"],
        within_hours=_number(entry["within_hours"], f"{where}.within_hours") if "within_hours" in entry else None,
        beyond_hours=_number(entry["beyond_hours"], f"{where}.beyond_hours") if "beyond_hours" in entry else None,
        known_if=tuple(entry.get("known_if", ())),
    )


def _target(raw: Any, where: str, derived: Collection[str]) -> Target:
    if isinstance(raw, dict) and "time" in raw:
        entry = check_entry(raw, TARGET_TIME_KEYS, where)
        return Target(time=entry["time"], unit_hours=_number(entry.get("unit_hours", 24), f"{where}.unit_hours"))
    entry = check_entry(raw, TARGET_VALUE_KEYS, where)
    check_columns([entry["column"]], f"{where}.column", derived)
    hours = entry["hours"] if isinstance(entry["hours"], list) else [entry["hours"], entry["hours"]]
    if len(hours) != 2:
        raise ConfigError(f"{where}.hours={hours!r} must be one number of hours ahead or the first and the last")
    first, last = (_whole(hour, f"{where}.hours", lowest=1) for hour in hours)
    if last < first:
        raise ConfigError(f"{where}.hours: the last hour {last} is before the first {first}")
    return Target(
        column=entry["column"],
        first_hour=first,
        last_hour=last,
        statistic=entry.get("statistic", "last"),
        transform=entry.get("transform", "none"),
        offset=_number(entry.get("offset", 0), f"{where}.offset"),
        once=bool(entry.get("once", False)),
        whole_window=bool(entry.get("whole_window", False)),
    )


def _whole(value: Any, where: str, lowest: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
        raise ConfigError(f"{where}={value!r} must be a whole number of hours >= {lowest}")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ConfigError(f"{where}={value!r} is not a number")
    return float(value)
