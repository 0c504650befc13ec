"""Events on the hour grid of their stay: which hours each one touches.

Stands between a source's `events` and the texts (`text.py`), the hourly aggregates (`aggregates.py`) and with them the labels.
Hour h is [intime + h, intime + h + 1 h), so an event exactly on a boundary belongs to the later hour.
Source: Clin-JEPA (arXiv 2605.10840), section on data.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable
from clinjepa.errors import SourceError
from clinjepa.sources.schema import MEDICATION

HOUR_US = 3_600_000_000
GRID_ROLES = ("state", "action", "label_only")


def at_store_time(events: pa.Table) -> pa.Table:
    """EVENTS_SCHEMA with events without a duration moved to when their value was stored, where that is known and later."""
    frame = pl.DataFrame(pl.DataFrame(events.select(["time", "end_time", "store_time"])))
    later = pl.col("end_time").is_null() & (pl.col("store_time") > pl.col("time")).fill_null(False)
    time = frame.select(pl.when(later).then("store_time").otherwise("time").alias("time")).to_arrow()["time"]
    place = events.schema.get_field_index("time")
    return events.set_column(place, events.schema.field(place), time.cast(events.schema.field(place).type))


def place_events(events: pa.Table, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row per event and hour that it touches, clipped to the stay's hours and to ICU out.

    events: EVENTS_SCHEMA; stays: stay_id, intime, outtime, num_hours (hours that are kept). Returns (placed, counts) where placed,
    sorted by stay, hour, variable (in clinical order, `medication` last), time and row, has stay_id, hour int32, variable (an
    enumeration in that order), value float64?, text?, unit?, start_us int64 (microseconds after intime), row, overlap_hours
    float64? (null for a point event). The value of an interval of a `sum` variable (an amount) is the share that falls in the hour,
    at a constant rate; a rate is repeated. counts: rows left out by rule. Nothing of an hour's rows depends on what happens after
    that hour, given the rate in force.
    """
    names = [*sorted(variables, key=lambda name: variables[name].order), MEDICATION]
    kinds = np.array([MEDICATION if name == MEDICATION else variables[name].kind for name in names])
    is_amount = np.array([name != MEDICATION and variables[name].aggregation == "sum" for name in names])
    stays = stays.sort("stay_id")
    ids, intime = stays["stay_id"].to_numpy(), _microseconds(stays["intime"])
    num_hours = stays["num_hours"].cast(pl.Int64).to_numpy()
    stay_us = np.minimum(num_hours * HOUR_US, _microseconds(stays["outtime"]) - intime)

    table = pl.DataFrame(events.select(["stay_id", "time", "end_time", "value", "text", "unit", "row"]))
    code = _codes(events["variable"], names)
    at, known = find_stays(ids, table["stay_id"].to_numpy())
    table, code, at = (table, code, at) if known.all() else (table.filter(known), code[known], at[known])
    start_us = _microseconds(table["time"]) - intime[at]
    has_end = table["end_time"].is_not_null().to_numpy()
    end_us = np.where(has_end, _microseconds(table["end_time"].fill_null(table["time"])) - intime[at], start_us)
    value, row = table["value"].cast(pl.Float64).to_numpy(), table["row"].to_numpy()
    value = np.where(np.isfinite(value), value, np.nan)
    is_interval = has_end & (end_us > start_us)

    counts: dict[str, int] = {}
    silent = np.isnan(value) & (np.isin(kinds, ["category", MEDICATION])[code] & table["text"].is_null().to_numpy())
    silent |= np.isnan(value) & np.isin(kinds, ["numeric", "rate"])[code]
    left = np.ones(len(code), dtype=bool)
    for rule, out in (
        ("without_value", silent),
        ("interval_ends_before_start", end_us < start_us),
        ("before_icu_admission", np.where(is_interval, end_us - 1, start_us) < 0),
        ("after_last_hour", start_us >= num_hours[at] * HOUR_US),
    ):
        counts[rule] = int((left & out).sum())
        left &= ~out
    from_us = np.maximum(start_us, 0)
    to_us = np.where(is_interval, np.minimum(end_us, stay_us[at]), start_us + 1)
    left &= to_us > from_us

    # From here on one entry per event and hour; `which` says which event it is.
    which = np.flatnonzero(left)
    which = which if _is_sorted(at[which], start_us[which], row[which]) else which[np.lexsort((row[which], start_us[which], at[which]))]
    first_hour = from_us[which] // HOUR_US
    num_touched = (to_us[which] - 1) // HOUR_US - first_hour + 1
    before = np.repeat(np.cumsum(num_touched) - num_touched, num_touched)
    hour = np.repeat(first_hour, num_touched) + np.arange(len(before)) - before
    which = np.repeat(which, num_touched)
    first_row = np.cumsum(num_hours) - num_hours
    order = _stable_order(first_row[at[which]] + hour, code[which])
    which, hour = which[order], hour[order]

    interval = is_interval[which]
    hour_us = hour * HOUR_US
    overlap_us = np.minimum(to_us[which], hour_us + HOUR_US) - np.maximum(from_us[which], hour_us)
    shares = interval & is_amount[code[which]]
    length_us = np.where(shares, end_us[which] - start_us[which], 1)
    placed = pl.DataFrame(
        {
            "stay_id": ids[at[which]],
            "hour": hour.astype(np.int32),
            "variable": pl.Series(code[which]).cat.to(pl.Enum(names)),
            "value": pl.Series(np.where(shares, value[which] * (overlap_us / length_us), value[which])).fill_nan(None),
            "text": table["text"].gather(which),
            "unit": table["unit"].gather(which),
            "start_us": start_us[which],
            "row": row[which],
            "overlap_hours": pl.Series(np.where(interval, overlap_us / HOUR_US, np.nan)).fill_nan(None),
        }
    )
    return placed, {rule: count for rule, count in counts.items() if count}


def hour_frame(stays: pl.DataFrame) -> pl.DataFrame:
    """stay_id, hour int32: every hour of every stay, in order."""
    frame = stays.sort("stay_id").select("stay_id", pl.int_ranges(0, pl.col("num_hours").cast(pl.Int64), dtype=pl.Int32).alias("hour"))
    return (
        frame.explode("hour", empty_as_null=False, keep_nulls=False)
        if frame.height
        else frame.with_columns(pl.lit(0, pl.Int32).alias("hour"))
    )


def grid_columns(variables: Mapping[str, Variable]) -> dict[str, str]:
    """Grid column -> kind, in the dictionary's order; the same for every part and source."""
    return {name: variable.kind for name, variable in variables.items() if variable.role in GRID_ROLES}


def coverage(placed: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Per variable: num_events (an interval counts once per hour that it touches), num_hours and num_stays that have it."""
    names = placed["variable"].dtype.categories.to_list()
    codes, starts = placed["variable"].to_physical().to_numpy(), run_starts(placed)
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
    """Where in rows of `place_events` another stay, hour or variable begins."""
    columns = placed["stay_id"].to_numpy(), placed["hour"].to_numpy(), placed["variable"].to_physical().to_numpy()
    changes = np.ones(placed.height, dtype=bool)
    changes[1:] = False
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changes)


def find_stays(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions of `wanted` in the sorted `ids`, whether they are there); a stay that is not there has position 0."""
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
    """Order by (slot, code) that keeps equal ones as they stand: a radix sort, which numpy has for 16 bits."""
    order = np.argsort(code.astype(np.uint16), kind="stable")
    shift = 0
    while not shift or (len(slot) and slot.max() >> shift):
        order = order[np.argsort(((slot >> shift) & 0xFFFF).astype(np.uint16)[order], kind="stable")]
        shift += 16
    return order


def _is_sorted(*columns: np.ndarray) -> bool:
    """Whether rows are in the lexicographic order of the columns."""
    undecided = np.ones(max(len(columns[0]) - 1, 0), dtype=bool)
    for column in columns:
        step = np.diff(column)
        if (undecided & (step < 0)).any():
            return False
        undecided &= step == 0
    return True


def _microseconds(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Datetime("us")).cast(pl.Int64).to_numpy()
