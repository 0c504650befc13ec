"""Events placed into the hours of their stay: one row per event and hour that the event touches.

One row per stay and hour is made from these in `aggregates.py`.
Input: a source's `events`. Read by the texts (`text.py`) and the hourly aggregates (`aggregates.py`), and through these by the labels.
Hour h is [intime + h, intime + h + 1 h), so an event exactly on a boundary belongs to the later hour.
Source: Clin-JEPA (arXiv 2605.10840), section on data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable
from clinjepa.errors import SourceError
from clinjepa.sources.schema import MEDICATION

HOUR_US = 3_600_000_000
GRID_ROLES = ("state", "action", "label_only")


def at_store_time(events: pa.Table) -> pa.Table:
    """EVENTS_SCHEMA with the time of each point event moved to the time its value was stored, if that is known and later.

    Intervals keep their time.
    """
    frame = pl.DataFrame(events.select(["time", "end_time", "store_time"]))
    later = pl.col("end_time").is_null() & (pl.col("store_time") > pl.col("time")).fill_null(False)
    time = frame.select(pl.when(later).then("store_time").otherwise("time").alias("time")).to_arrow()["time"]
    place = events.schema.get_field_index("time")
    return events.set_column(place, events.schema.field(place), time.cast(events.schema.field(place).type))


def place_events(events: pa.Table, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row per event and hour that the event touches, clipped to the stay's hours and to ICU discharge.

    The rows of an hour do not depend on anything after that hour, given the rate in force.

    Args:
        events: EVENTS_SCHEMA.
        stays: stay_id, intime, outtime, num_hours (hours that the cohort keeps).
        variables: the variable dictionary.

    Returns:
        (placed, counts). placed is sorted by stay, hour, variable (in clinical order, `medication` last), time and row, with the columns
        stay_id, hour int32, variable (an enumeration in that order), value float64?, text?, unit?, start_us int64 (microseconds
        after intime), row, overlap_hours float64? (null for a point event). The value of an interval of a `sum` variable (an amount) is
        the share that falls into the hour, at a constant rate; a rate is repeated in each hour. counts: rows left out, by rule.

    Raises:
        SourceError: an event has a variable that the dictionary lacks.
    """
    names = [*sorted(variables, key=lambda name: variables[name].order), MEDICATION]
    kinds = np.array([MEDICATION if name == MEDICATION else variables[name].kind for name in names])
    is_amount = np.array([name != MEDICATION and variables[name].aggregation == "sum" for name in names])
    clock = _StayClock.of(stays)
    rows = _EventRows.of(events, clock, names)
    kept, counts = _kept_rows(rows, clock, kinds)
    from_us = np.maximum(rows.start_us, 0)
    # A point event gets a length of 1 µs, so that it touches exactly one hour.
    to_us = np.where(rows.is_interval, np.minimum(rows.end_us, clock.length_us[rows.at]), rows.start_us + 1)
    which, hour = _touched_hours(rows, clock, np.flatnonzero(kept & (to_us > from_us)), from_us, to_us)

    interval = rows.is_interval[which]
    hour_us = hour * HOUR_US
    overlap_us = np.minimum(to_us[which], hour_us + HOUR_US) - np.maximum(from_us[which], hour_us)
    shares = interval & is_amount[rows.code[which]]
    length_us = np.where(shares, rows.end_us[which] - rows.start_us[which], 1)
    value = rows.value[which]
    placed = pl.DataFrame(
        {
            "stay_id": clock.stay_id[rows.at[which]],
            "hour": hour.astype(np.int32),
            "variable": pl.Series(rows.code[which]).cat.to(pl.Enum(names)),
            "value": pl.Series(np.where(shares, value * (overlap_us / length_us), value)).fill_nan(None),
            "text": rows.table["text"].gather(which),
            "unit": rows.table["unit"].gather(which),
            "start_us": rows.start_us[which],
            "row": rows.row[which],
            "overlap_hours": pl.Series(np.where(interval, overlap_us / HOUR_US, np.nan)).fill_nan(None),
        }
    )
    return placed, counts


@dataclass(frozen=True)
class _StayClock:
    """Stays sorted by id, as arrays; times in microseconds."""

    stay_id: np.ndarray
    intime_us: np.ndarray
    num_hours: np.ndarray
    length_us: np.ndarray
    """From ICU admission to the end of the last kept hour or to ICU discharge, whichever is earlier."""

    @classmethod
    def of(cls, stays: pl.DataFrame) -> _StayClock:
        stays = stays.sort("stay_id")
        intime_us = _microseconds(stays["intime"])
        num_hours = stays["num_hours"].cast(pl.Int64).to_numpy()
        length_us = np.minimum(num_hours * HOUR_US, _microseconds(stays["outtime"]) - intime_us)
        return cls(stays["stay_id"].to_numpy(), intime_us, num_hours, length_us)


@dataclass(frozen=True)
class _EventRows:
    """Events of the clock's stays, as arrays; times in microseconds after ICU admission."""

    table: pl.DataFrame
    code: np.ndarray
    """Position of the variable in the clinical order."""

    at: np.ndarray
    """Position of the stay in the clock."""

    start_us: np.ndarray
    end_us: np.ndarray
    value: np.ndarray
    row: np.ndarray
    is_interval: np.ndarray

    @classmethod
    def of(cls, events: pa.Table, clock: _StayClock, names: list[str]) -> _EventRows:
        table = pl.DataFrame(events.select(["stay_id", "time", "end_time", "value", "text", "unit", "row"]))
        code = _codes(events["variable"], names)
        at, known = find_stays(clock.stay_id, table["stay_id"].to_numpy())
        table, code, at = (table, code, at) if known.all() else (table.filter(known), code[known], at[known])
        start_us = _microseconds(table["time"]) - clock.intime_us[at]
        has_end = table["end_time"].is_not_null().to_numpy()
        end_us = np.where(has_end, _microseconds(table["end_time"].fill_null(table["time"])) - clock.intime_us[at], start_us)
        value = table["value"].cast(pl.Float64).to_numpy()
        value = np.where(np.isfinite(value), value, np.nan)
        return cls(table, code, at, start_us, end_us, value, table["row"].to_numpy(), has_end & (end_us > start_us))


def _kept_rows(rows: _EventRows, clock: _StayClock, kinds: np.ndarray) -> tuple[np.ndarray, dict[str, int]]:
    """(kept, counts).

    kept: bool per event: it has a value, and at least part of it lies in the stay's hours. counts: rows left out, by the first rule
    that applies.
    """
    # A category or medication may have text in place of a number; a number, rate or indicator may not.
    empty = np.isnan(rows.value) & (np.isin(kinds, ["category", MEDICATION])[rows.code] & rows.table["text"].is_null().to_numpy())
    empty |= np.isnan(rows.value) & np.isin(kinds, ["numeric", "rate", "indicator"])[rows.code]
    counts: dict[str, int] = {}
    kept = np.ones(len(rows.code), dtype=bool)
    for rule, out in (
        ("without_value", empty),
        ("interval_ends_before_start", rows.end_us < rows.start_us),
        # An interval that ends at admission touches no hour of the stay.
        ("before_icu_admission", np.where(rows.is_interval, rows.end_us - 1, rows.start_us) < 0),
        ("after_last_hour", rows.start_us >= clock.num_hours[rows.at] * HOUR_US),
    ):
        counts[rule] = int((kept & out).sum())
        kept &= ~out
    return kept, {rule: count for rule, count in counts.items() if count}


def _touched_hours(
    rows: _EventRows, clock: _StayClock, which: np.ndarray, from_us: np.ndarray, to_us: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(event, hour): one entry per hour that each event of `which` touches in [from_us, to_us), in the order of `place_events`."""
    at, start_us, row = rows.at[which], rows.start_us[which], rows.row[which]
    which = which if _is_sorted(at, start_us, row) else which[np.lexsort((row, start_us, at))]
    # Expand each event to its hours: first_hour, first_hour + 1, …; then sort by (stay, hour, variable).
    first_hour = from_us[which] // HOUR_US
    num_touched = (to_us[which] - 1) // HOUR_US - first_hour + 1
    before = np.repeat(np.cumsum(num_touched) - num_touched, num_touched)
    hour = np.repeat(first_hour, num_touched) + np.arange(len(before)) - before
    which = np.repeat(which, num_touched)
    first_row = np.cumsum(clock.num_hours) - clock.num_hours
    order = _stable_order(first_row[rows.at[which]] + hour, rows.code[which])
    return which[order], hour[order]


def hour_frame(stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, hour int32: every hour of every stay, sorted."""
    frame = stays.sort("stay_id").select("stay_id", pl.int_ranges(0, pl.col("num_hours").cast(pl.Int64), dtype=pl.Int32).alias("hour"))
    return (
        frame.explode("hour", empty_as_null=False, keep_nulls=False)
        if frame.height
        else frame.with_columns(pl.lit(0, pl.Int32).alias("hour"))
    )


def grid_columns(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Grid column -> kind of its variable, in the dictionary's order; the same for every part and source."""
    return {name: variable.kind for name, variable in variables.items() if variable.role in GRID_ROLES}


def variable_names(placed: pl.DataFrame) -> list[str]:
    """Name of each code of the column `variable`, in clinical order, `medication` last."""
    names: list[str] = cast(pl.Enum, placed["variable"].dtype).categories.to_list()
    return names


def coverage(placed: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Variable -> num_events (an interval counts once per hour that it touches), num_hours and num_stays with a value."""
    names = variable_names(placed)
    codes, starts = placed["variable"].to_physical().to_numpy(), run_starts(placed)
    # Numbers stays from 1, or from 0 if the first id is 0; an unused row 0 adds nothing to the sum.
    stay = np.cumsum(np.diff(placed["stay_id"].to_numpy()[starts], prepend=0) != 0)
    has = np.zeros((stay[-1] + 1 if len(stay) else 0, len(names)), dtype=bool)
    has[stay, codes[starts]] = True
    counted = {
        "num_events": np.bincount(codes, minlength=len(names)).tolist(),
        "num_hours": np.bincount(codes[starts], minlength=len(names)).tolist(),
        "num_stays": has.sum(axis=0).tolist(),
    }
    table = {name: {what: counts[code] for what, counts in counted.items()} for code, name in enumerate(names)}
    return {name: table[name] for name in sorted(table) if table[name]["num_events"]}


def run_starts(placed: pl.DataFrame) -> np.ndarray:
    """Positions in rows of `place_events` at which a new stay, hour or variable begins."""
    columns = placed["stay_id"].to_numpy(), placed["hour"].to_numpy(), placed["variable"].to_physical().to_numpy()
    changes = np.ones(placed.height, dtype=bool)
    changes[1:] = False
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def find_stays(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(position of each of `wanted` in the sorted `ids`, whether it is there); a stay that is not there gets position 0."""
    at = np.minimum(np.searchsorted(ids, wanted), max(len(ids) - 1, 0))
    known = ids[at] == wanted if len(ids) else np.zeros(len(wanted), dtype=bool)
    return np.where(known, at, 0), known


def _codes(variable: pa.ChunkedArray, names: list[str]) -> np.ndarray:
    """Position of each row's variable in `names`."""
    position = {name: code for code, name in enumerate(names)}
    dtype = np.uint8 if len(names) <= 0xFF else np.uint16
    parts = [np.zeros(0, np.int64)]
    for chunk in variable.chunks:
        chunk = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        known = np.array([position.get(name, -1) for name in chunk.dictionary.to_pylist()], np.int64)
        parts.append(known[chunk.indices.to_numpy()] if len(chunk) else parts[0])
    codes = np.concatenate(parts)
    if len(codes) and codes.min() < 0:
        raise SourceError(f"events: {(codes < 0).sum()} rows are of variables that are not in variables.yaml")
    return codes.astype(dtype)


def _stable_order(slot: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Stable order by (slot, code), by 16-bit digits: numpy sorts 16-bit integers by radix."""
    order = np.argsort(code.astype(np.uint16), kind="stable")
    shift = 0
    while not shift or (len(slot) and slot.max() >> shift):
        order = order[np.argsort(((slot >> shift) & 0xFFFF).astype(np.uint16)[order], kind="stable")]
        shift += 16
    return order


def _is_sorted(*columns: np.ndarray) -> bool:
    """Whether the rows are in lexicographic order of the columns."""
    undecided = np.ones(max(len(columns[0]) - 1, 0), dtype=bool)
    for column in columns:
        step = np.diff(column)
        if (undecided & (step < 0)).any():
            return False
        undecided &= step == 0
    return True


def _microseconds(column: pl.Series) -> np.ndarray:
    """A time column as int64 microseconds since 1970."""
    return column.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
