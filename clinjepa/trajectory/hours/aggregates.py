"""Hourly aggregates: one value per (stay, hour, variable), by the variable's rule in `clinjepa/clinical/variables.yaml`.

Input: rows of `grid.place_events`. Read by labels and tabular features; texts are made from the rows themselves. The rows are sorted, so
the rows of one variable in one hour are consecutive (a run), and a rule is a reduction over runs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl

from clinjepa.clinical import Variable
from clinjepa.errors import ConfigError
from clinjepa.trajectory.hours.grid import HOUR_US, find_stays, grid_columns, hour_frame, run_starts, variable_names

_NUMERIC_RULES = ("median", "mean", "min", "max", "sum", "last", "first", "any", "time_weighted_mean", "starts")
_CATEGORY_RULES = ("last", "first", "words", "last_words")
WORD_SEPARATOR = "\n"
"""Between the words of an hour in a column of the rule `words` or `last_words`."""


def aggregate_hours(placed: pl.DataFrame, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> pl.DataFrame:
    """stay_id, hour and one column per grid variable: float32, or string for categories; null = not observed.

    Args:
        placed: rows of `grid.place_events`.
        stays: stay_id, num_hours.
        variables: the variable dictionary.

    Raises:
        ConfigError: a variable has an unknown hourly rule.
    """
    columns = grid_columns(variables)
    frame = hour_frame(stays)
    stays = stays.sort("stay_id")
    starts = run_starts(placed)
    slot, known = _slots(placed, starts, stays)
    code = placed["variable"].to_physical().to_numpy()[starts]
    values = _run_values(placed, starts, variables)[known]
    ends = np.append(starts[1:], placed.height)[known]
    starts, code = starts[known], code[known]
    order = np.argsort(code, kind="stable")
    names = variable_names(placed)
    bounds = np.searchsorted(code[order], np.arange(len(names) + 1))
    runs_of = {name: order[bounds[i] : bounds[i + 1]] for i, name in enumerate(names)}
    filled = []
    for name, kind in columns.items():
        runs = runs_of[name]
        if variables[name].of is not None:
            filled.append(_second_column(placed, stays, variables[name], frame.height))
        elif kind == "category":
            words = _words(placed, starts[runs] if _rule(variables[name]) == "first" else ends[runs] - 1)
            row = np.full(frame.height, len(runs))
            row[slot[runs]] = np.arange(len(runs))
            filled.append(words.gather(row).alias(name))
        else:
            column = np.full(frame.height, np.nan, np.float32)
            column[slot[runs]] = values[runs]
            filled.append(pl.Series(name, column))
    return frame.with_columns(filled).with_columns(pl.col(pl.Float32).fill_nan(None))


def hourly_values(placed: pl.DataFrame, variables: Mapping[str, Variable]) -> pl.DataFrame:
    """stay_id, hour, variable, value float32: hourly values of all variables that are not categories."""
    kept = [name for name, variable in variables.items() if variable.kind != "category"]
    tables = [_long(placed, variables).filter(pl.col("variable").is_in(kept))]
    for variable in variables.values():
        if variable.of is not None and variable.kind != "category":
            own = _long(*_readings(placed, variable))
            tables.append(own.with_columns(pl.lit(variable.name).cast(placed["variable"].dtype).alias("variable")))
    return pl.concat(tables)


def _long(placed: pl.DataFrame, variables: Mapping[str, Variable]) -> pl.DataFrame:
    """stay_id, hour, variable, value float32 of each run."""
    starts = run_starts(placed)
    runs = placed.select("stay_id", "hour", "variable")[starts]
    return runs.with_columns(pl.Series("value", _run_values(placed, starts, variables)).fill_nan(None).cast(pl.Float32))


def _second_column(placed: pl.DataFrame, stays: pl.DataFrame, variable: Variable, num_rows: int) -> pl.Series:
    """The column of a variable `of` another, over all hours of `stays` (sorted by stay_id)."""
    own, rule = _readings(placed, variable)
    starts = run_starts(own)
    slot, known = _slots(own, starts, stays)
    if variable.kind == "category":
        words = pl.Series(_hours_words(own, starts, variable), dtype=pl.String).filter(pl.Series(known)).extend_constant(None, 1)
        row = np.full(num_rows, len(slot))
        row[slot] = np.arange(len(slot))
        return words.gather(row).alias(variable.name)
    column = np.full(num_rows, np.nan, np.float32)
    column[slot] = _run_values(own, starts, rule)[known]
    return pl.Series(variable.name, column)


def _readings(placed: pl.DataFrame, variable: Variable) -> tuple[pl.DataFrame, dict[str, Variable]]:
    """(rows of the variable whose readings `variable` takes, its rule for them)."""
    base = variable.of or variable.name
    return placed.filter(pl.col("variable") == base), {base: variable}


def _slots(placed: pl.DataFrame, starts: np.ndarray, stays: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """(row in the frame of all hours of each run of a known hour, whether each run's hour is known). stays: sorted by stay_id."""
    num_hours = stays["num_hours"].cast(pl.Int64).to_numpy()
    hour = placed["hour"].to_numpy()[starts].astype(np.int64)
    at, known = find_stays(stays["stay_id"].to_numpy(), placed["stay_id"].to_numpy()[starts])
    known &= hour < num_hours[at] if len(num_hours) else False
    return (np.cumsum(num_hours) - num_hours)[at[known]] + hour[known], known


def _run_values(placed: pl.DataFrame, starts: np.ndarray, variables: Mapping[str, Variable]) -> np.ndarray:
    """The value of each run by its variable's rule; NaN for no value and for categories.

    An indicator is on where a value is above 0; a missing value never says so. `time_weighted_mean` is sum(rate * overlap) / 1 h; where
    no interval touches the hour, rates without an end time count with their mean.
    """
    if not len(starts):
        return np.zeros(0)
    names = variable_names(placed)
    rules = {name: _rule(variables[name]) for name in names if name in variables and variables[name].kind != "category"}
    code = placed["variable"].to_physical().to_numpy()[starts]
    value = placed["value"].to_numpy()
    filled = np.nan_to_num(value)
    found = np.full(len(starts), np.nan)
    for rule in sorted(set(rules.values())):
        runs = np.array([rules.get(name) == rule for name in names])[code]
        if not runs.any():
            continue
        match rule:
            case "first":
                found[runs] = value[starts[runs]]
            case "last":
                found[runs] = value[np.append(starts[1:], len(value))[runs] - 1]
            case "min":
                found[runs] = np.fmin.reduceat(value, starts)[runs]
            case "max":
                found[runs] = np.fmax.reduceat(value, starts)[runs]
            case "sum":
                found[runs] = np.add.reduceat(filled, starts)[runs]
            case "mean":
                found[runs] = _mean(value, filled, starts)[runs]
            case "median":
                found[runs] = _median(value, starts, runs)
            case "any":
                on = np.logical_or.reduceat(value > 0, starts)
                found[runs] = np.where(np.logical_or.reduceat(~np.isnan(value), starts), on, np.nan)[runs]
            case "starts":
                is_start = placed["start_us"].to_numpy() // HOUR_US == placed["hour"].to_numpy()
                found[runs] = np.add.reduceat(is_start.astype(np.int64), starts)[runs]
            case "time_weighted_mean":
                overlap = placed["overlap_hours"].to_numpy()
                runs_on = np.logical_or.reduceat(~np.isnan(overlap), starts)
                weighted = np.add.reduceat(np.nan_to_num(value * overlap), starts)
                found[runs] = np.where(runs_on, weighted, _mean(value, filled, starts))[runs]
    return found


def _mean(value: np.ndarray, filled: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Mean of each run, missing values left out. filled: `value` with 0 for missing."""
    counts = np.add.reduceat((~np.isnan(value)).astype(np.int64), starts)
    return np.where(counts > 0, np.add.reduceat(filled, starts) / np.maximum(counts, 1), np.nan)


def _median(value: np.ndarray, starts: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Median of each chosen run, missing values left out. runs: bool per run."""
    sizes = np.diff(np.append(starts, len(value)))
    found = value[starts].copy()
    several = runs & (sizes > 1)
    which = np.repeat(np.arange(len(starts)), sizes)
    rows = np.flatnonzero(several[which])
    rows = rows[np.lexsort((value[rows], which[rows]))]  # NaN sorts last in its run
    counts = np.add.reduceat((~np.isnan(value)).astype(np.int64), starts)[several]
    first = np.cumsum(sizes[several]) - sizes[several]
    ordered = value[rows]
    low, high = (ordered[first + np.maximum(position, 0)] for position in ((counts - 1) // 2, counts // 2))
    found[several] = low + 0.5 * (high - low) if len(rows) else found[several]
    return np.asarray(found[runs])


def _words(placed: pl.DataFrame, rows: np.ndarray) -> pl.Series:
    """The words of rows of a category, with a null at the end for hours without one."""
    words = placed.select("text", "value")[rows].select(pl.coalesce("text", pl.col("value").cast(pl.String)))
    return words["text"].extend_constant(None, 1)


def _hours_words(own: pl.DataFrame, starts: np.ndarray, variable: Variable) -> list[str | None]:
    """The different words of each run of a category, sorted; with the rule `last_words` those of its latest time only."""
    if not len(starts):
        return []
    ends, words = np.append(starts[1:], own.height), _words(own, np.arange(own.height)).to_list()
    if _rule(variable) == "last_words":
        time = own["start_us"].to_numpy()
        starts = np.array([start + np.argmax(time[start:end] == time[end - 1]) for start, end in zip(starts, ends, strict=True)], np.int64)
    different = [sorted({word for word in words[start:end] if word is not None}) for start, end in zip(starts, ends, strict=True)]
    return [WORD_SEPARATOR.join(found) or None for found in different]


def _rule(variable: Variable) -> str:
    allowed = _CATEGORY_RULES if variable.kind == "category" else _NUMERIC_RULES
    if variable.aggregation not in allowed:
        raise ConfigError(
            f"variable {variable.name}: hourly rule {variable.aggregation!r} is not one of {', '.join(allowed)}; "
            "change it in clinical/variables.yaml"
        )
    return variable.aggregation
