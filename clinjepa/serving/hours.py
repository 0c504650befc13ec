"""A request as the hours of its stay: the texts that an ingest of the same rows would write, and the measured values."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import dataclass

import numpy as np
import polars as pl

from clinjepa.clinical import Variable, load_variables
from clinjepa.config.schema import CohortConfig, TextConfig
from clinjepa.errors import counted
from clinjepa.serving.requests import Event, RequestError, ScoreRequest, Stay, num_complete_hours
from clinjepa.sources.readings.cleaning import complete_stays, convert_values, drop_implausible_ages, finish, raw_events
from clinjepa.sources.schema import MEDICATION, STAYS_TYPES, SourceTables
from clinjepa.trajectory.hours.cohort import cohort_rules
from clinjepa.trajectory.hours.grid import at_store_time, place_events
from clinjepa.trajectory.hours.history import history_hours
from clinjepa.trajectory.hours.ingest import texts_and_grid

STAY_ID = 1
"""A request has one stay; its own ids are not asked for."""
_WEIGHT_ROW = -1
"""Row of the weight of `stay`, which is no event."""
_UNFINISHED = "in_unfinished_hour"
_LOST = ("unknown_variable", "unknown_unit", "out_of_range", "non_numeric", "no_weight", "missing_code", "zero_reading")
"""Rules that drop a row for its variable, unit or value."""
_TIME = pl.Datetime("us")
_ROW_TYPES = pl.Schema(
    {
        "time": _TIME,
        "end_time": _TIME,
        "store_time": _TIME,
        "variable": pl.String(),
        "value": pl.Float64(),
        "text": pl.String(),
        "unit": pl.String(),
    }
)


@dataclass(frozen=True)
class StayHours:
    """The T complete hours of a stay: one static text, T state and T action texts, and measured values by name [T]."""

    static_text: str
    state_texts: list[str]
    action_texts: list[str]
    measured: dict[str, np.ndarray]
    """float32, NaN where not measured."""
    dropped: dict[str, int]
    """Rows that no text has, by rule, as `rule` or `rule:variable`."""
    notes: list[str]

    def __len__(self) -> int:
        return len(self.state_texts)


@dataclass(frozen=True)
class TextRules:
    """How the run's ingest made its texts."""

    text: TextConfig
    cohort: CohortConfig
    event_time: str


def stay_hours(asked: ScoreRequest, rules: TextRules, measured: list[str]) -> StayHours:
    """The hours of a request with `stay` and `events`.

    Args:
        asked: The request.
        rules: Those of the run.
        measured: Numeric variables whose hourly values are wanted.

    Raises:
        RequestError: There is no complete hour, or no row of those sent can be used.
    """
    assert asked.stay is not None and asked.events is not None
    num_complete_hours(asked.stay.intime, asked.now)
    counts: Counter[str] = Counter()
    raw = _raw(_known_variables(asked.events, counts))
    weighed = pl.concat([raw, _admission_weight(asked.stay, raw)])
    events = convert_values(weighed, counts, rules.event_time).filter(pl.col("row") != _WEIGHT_ROW)
    stays = drop_implausible_ages(_stays(asked.stay, asked.now), counts)
    return hours_of_tables(finish(stays, events, counts), asked.now, rules, measured, len(asked.events))


def hours_of_tables(tables: SourceTables, now: datetime.datetime, rules: TextRules, measured: list[str], num_rows: int) -> StayHours:
    """The hours of one stay in a source's schema. num_rows: rows that were sent; all else as in `stay_hours`."""
    intime = tables.stays["intime"][0].as_py()
    num_hours = num_complete_hours(intime, now)
    variables, dropped = load_variables(), dict(tables.counts)
    events = tables.events if rules.event_time == "measured" else at_store_time(tables.events)
    stays = pl.DataFrame(tables.stays).with_columns(pl.lit(num_hours, pl.Int32).alias("num_hours"))
    placed, left_out = place_events(events, stays, variables)
    for rule, number in left_out.items():
        name = _UNFINISHED if rule == "after_last_hour" else rule
        dropped[name] = dropped.get(name, 0) + number
    if num_rows and not events.num_rows and all(rule.partition(":")[0] in _LOST for rule in dropped):
        told = ", ".join(f"{rule} {number}" for rule, number in sorted(dropped.items()))
        raise RequestError("events", f"none of {counted(num_rows, 'row')} can be used ({told})")
    has_scores = rules.text.exclusions == "all_but_scores"
    history = history_hours(events if has_scores else events.slice(0, 0), stays, variables)  # only the scores read it
    texts, grid = texts_and_grid(placed, stays, history, variables, rules.text)
    row = texts.row(0, named=True)
    values = {name: grid[name].fill_null(np.nan).to_numpy().astype(np.float32) for name in measured if _is_number(variables.get(name))}
    notes = _notes(stays, num_hours, rules.cohort)
    return StayHours(row["static_text"], row["state_texts"], row["action_texts"], values, dict(sorted(dropped.items())), notes)


def _is_number(variable: Variable | None) -> bool:
    return variable is not None and variable.kind != "category"


def _known_variables(events: list[Event], counts: Counter[str]) -> list[Event]:
    """Events of variables of the dictionary; the others are counted, without their names."""
    known = {name for name, variable in load_variables().items() if variable.of is None} | {MEDICATION}
    kept = [event for event in events if event.variable in known]
    if len(kept) < len(events):
        counts["unknown_variable"] += len(events) - len(kept)
    return kept


def _raw(events: list[Event]) -> pl.DataFrame:
    columns = {name: pl.Series(name, [getattr(event, name) for event in events], dtype) for name, dtype in _ROW_TYPES.items()}
    frame = pl.DataFrame(columns).with_row_index("row")
    return raw_events(frame.with_columns(pl.lit(STAY_ID, pl.Int64).alias("stay_id"), pl.col("row").cast(pl.Int64)))


def _admission_weight(stay: Stay, raw: pl.DataFrame) -> pl.DataFrame:
    """`stay.weight_kg` as a raw event, for rates that are converted by weight: known from its time on, without one before all of `raw`."""
    weight = load_variables()["weight"]
    assert weight.minimum is not None and weight.maximum is not None
    if stay.weight_kg is None or not weight.minimum <= stay.weight_kg <= weight.maximum:
        return raw.clear()
    since = stay.weight_time or min([stay.intime, *raw["time"].drop_nulls().to_list()])
    row = {"stay_id": STAY_ID, "time": since, "variable": "weight", "value": stay.weight_kg, "unit": weight.unit, "row": _WEIGHT_ROW}
    return raw_events(pl.DataFrame({name: pl.Series([value]) for name, value in row.items()}))


def _stays(stay: Stay, now: datetime.datetime) -> pl.DataFrame:
    known = stay.model_dump() | {"stay_id": STAY_ID, "subject_id": STAY_ID, "outtime": now, "stay_number_in_admission": 1}
    return complete_stays(pl.DataFrame({name: pl.Series([known.get(name)], dtype=dtype) for name, dtype in STAYS_TYPES.items()}))


def _notes(stays: pl.DataFrame, num_hours: int, cohort: CohortConfig) -> list[str]:
    """Where the stay is none of those that the run was trained on."""
    rules, found = cohort_rules(cohort), []
    age = stays["age_years"].item()
    if rules.min_age_years is not None and (age is None or age < rules.min_age_years):
        found.append(f"the run was trained on patients of at least {rules.min_age_years:g} years; this age is lower or unknown")
    if rules.max_stay_hours is not None and num_hours > rules.max_stay_hours:
        found.append(f"the run was trained on the first {rules.max_stay_hours:g} h of stays; this one is longer")
    if num_hours < rules.min_stay_hours:
        found.append(f"the run was trained on stays of at least {rules.min_stay_hours:g} h; these are the first {num_hours}")
    return found
