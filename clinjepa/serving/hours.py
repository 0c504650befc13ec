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
from clinjepa.sources.mimic_iv.row_meaning import SERIES_OF_WEIGHT, take_statics
from clinjepa.sources.readings.cleaning import complete_stays, convert_values, drop_implausible_ages, finish, raw_events
from clinjepa.sources.schema import MEDICATION, STAYS_TYPES, SourceTables
from clinjepa.trajectory.hours.cohort import cohort_rules
from clinjepa.trajectory.hours.grid import at_store_time, place_events
from clinjepa.trajectory.hours.history import history_hours
from clinjepa.trajectory.hours.ingest import texts_and_grid

STAY_ID = 1
"""A request has one stay; its own ids are not asked for."""
_OF_STAY = (-1, -2)
"""Rows of weight and height of `stay`, which are no events that were sent."""
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
        "order_id": pl.Int64(),
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
    zero_amounts: bool = False
    """Whether a treatment of which nothing was given is written: only MEDS with a map of codes does so."""


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
    sent = _raw(_known_variables(asked.events, counts))
    events = convert_values(pl.concat([sent, _charted_statics(asked.stay, sent)]), counts, rules.event_time)
    stays = drop_implausible_ages(_stays(asked.stay, asked.now), counts)
    stays, events = _with_statics(stays, events if rules.zero_amounts else _given(events, counts), counts, rules.event_time)
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
    frame = pl.DataFrame(columns).rename({"order_id": "order"}).with_row_index("row")
    return raw_events(frame.with_columns(pl.lit(STAY_ID, pl.Int64).alias("stay_id"), pl.col("row").cast(pl.Int64)))


def _charted_statics(stay: Stay, sent: pl.DataFrame) -> pl.DataFrame:
    """Height and weight of `stay` as raw events at their times, or before all that was sent, so that they are read as the ingest's are."""
    begun = min([stay.intime, *sent["time"].drop_nulls().to_list()]) - datetime.timedelta(seconds=1)
    charted = (("weight", stay.weight_kg, stay.weight_time), ("height", stay.height_cm, stay.height_time))
    rows = [
        {"stay_id": STAY_ID, "time": time or begun, "variable": name, "value": value, "unit": load_variables()[name].unit, "row": row}
        for row, (name, value, time) in zip(_OF_STAY, charted, strict=True)
        if value is not None
    ]
    return raw_events(pl.DataFrame(rows, schema_overrides={"time": _TIME})) if rows else sent.clear()


def _given(events: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
    """`events` without amounts of 0 or less, as the sources leave them out (`zero_amount`); a setting of 0, such as PEEP, is one."""
    amounts = [name for name, variable in load_variables().items() if variable.role == "action" and variable.aggregation == "sum"]
    nothing = (pl.col("variable").is_in(pl.Series([*amounts, MEDICATION]).implode()) & (pl.col("value") <= 0)).fill_null(False)
    if number := events.select(nothing.sum()).item():
        counts["zero_amount"] += number
    return events.filter(~nothing)


def _with_statics(stays: pl.DataFrame, events: pl.DataFrame, counts: Counter[str], event_time: str) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(stays with height and weight, events), as of `take_statics`: heights and the first weight are no events.

    counts: receives `static:height` and `static:weight`, the rows that were sent of these.
    """
    # Without items the first weight of all would be taken; an admission weight counts before the series.
    of_series = (pl.col("variable") == SERIES_OF_WEIGHT) & (events["variable"] == "weight").any()
    stays, kept = take_statics(events.filter(~of_series), stays, Counter(), event_time)
    kept = pl.concat([kept, events.filter(of_series)])
    taken = events.filter(pl.col("variable").is_in(["height", "weight"]) & (pl.col("row") >= 0)).join(kept, on="row", how="anti")
    for name, number in taken.group_by("variable").len().iter_rows():
        counts[f"static:{name}"] += number
    return stays, kept


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
