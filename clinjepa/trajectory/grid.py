"""Events on the hour grid of their stay: which hours each one touches, and one aggregate per (stay, hour, variable).

Stands between a source's `events` and both the texts (`text.py`, from the placed rows) and the labels (`labels.py`, from
the aggregates). Hour h is [intime + h, intime + h + 1 h), so an event exactly on a boundary belongs to the later hour.
Source: Clin-JEPA (arXiv 2605.10840), section on data; the hourly rules are each variable's own (`clinical/variables.yaml`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable
from clinjepa.errors import ConfigError
from clinjepa.sources.schema import MEDICATION

HOUR_US = 3_600_000_000
GRID_ROLES = ("state", "action", "label_only")
_NUMERIC_RULES = ("median", "mean", "min", "max", "sum", "last", "first", "any", "time_weighted_mean", "starts")
_CATEGORY_RULES = ("last", "first", "mode")


def place_events(events: pa.Table, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row per event and hour that it touches, clipped to the stay's hours and to ICU out.

    events: EVENTS_SCHEMA; stays: stay_id, intime, outtime, num_hours (hours that are kept). Returns (placed, counts) where placed,
    sorted by stay, hour, variable, time and row, has stay_id, hour int32, variable string, kind, value float64?, text?, unit?, start_us
    int64 (microseconds after intime), row, overlap_hours float64? (null for a point event). The value of an interval of a `sum`
    variable (an amount) is the share that falls in the hour, at a constant rate; a rate is repeated. counts: rows left out by rule.
    Nothing of an hour's rows depends on what happens after that hour, given the rate in force.
    """
    end_of_stay = pl.min_horizontal(pl.col("num_hours").cast(pl.Int64) * HOUR_US, _microseconds("outtime") - _microseconds("intime"))
    bounds = stays.select("stay_id", _microseconds("intime").alias("intime_us"), end_of_stay.alias("stay_us"), "num_hours")
    table = pl.DataFrame(events).with_columns(pl.col("variable").cast(pl.String)).join(bounds, on="stay_id", how="inner")
    counts: dict[str, int] = {}
    table = table.with_columns(
        (_microseconds("time") - pl.col("intime_us")).alias("start_us"),
        (_microseconds("end_time") - pl.col("intime_us")).alias("end_us"),
    ).drop("time", "end_time", "store_time", "intime_us")

    kinds = {name: variable.kind for name, variable in variables.items()} | {MEDICATION: MEDICATION}
    table = table.with_columns(
        pl.when(pl.col("value").is_finite()).then(pl.col("value")).alias("value"),
        pl.col("variable").replace_strict(kinds, return_dtype=pl.String).alias("kind"),
    )
    needs_value = pl.col("kind").is_in(["numeric", "rate"]) & pl.col("value").is_null()
    needs_text = pl.col("kind").is_in(["category", MEDICATION]) & pl.col("text").is_null() & pl.col("value").is_null()
    table, counts["without_value"] = _keep(table, ~(needs_value | needs_text))
    table, counts["interval_ends_before_start"] = _keep(table, pl.col("end_us").is_null() | (pl.col("end_us") >= pl.col("start_us")))

    is_interval = pl.col("end_us").is_not_null() & (pl.col("end_us") > pl.col("start_us"))
    last_us = pl.when(is_interval).then(pl.col("end_us") - 1).otherwise(pl.col("start_us"))
    table, counts["before_icu_admission"] = _keep(table, last_us >= 0)
    table, counts["after_last_hour"] = _keep(table, pl.col("start_us") < pl.col("num_hours").cast(pl.Int64) * HOUR_US)
    sums = [name for name, variable in variables.items() if variable.aggregation == "sum"]

    points = table.filter(~is_interval).with_columns(
        (pl.col("start_us") // HOUR_US).cast(pl.Int32).alias("hour"), pl.lit(None, pl.Float64).alias("overlap_hours")
    )
    clipped_start = pl.max_horizontal(pl.col("start_us"), pl.lit(0, pl.Int64))
    clipped_end = pl.min_horizontal(pl.col("end_us"), pl.col("stay_us"))
    spans = table.filter(is_interval).with_columns(clipped_start.alias("from_us"), clipped_end.alias("to_us"))
    spans = spans.filter(pl.col("to_us") > pl.col("from_us"))
    spans = spans.with_columns(
        pl.int_ranges(pl.col("from_us") // HOUR_US, (pl.col("to_us") - 1) // HOUR_US + 1, dtype=pl.Int64).alias("hour")
    )
    spans = (
        spans.explode("hour", empty_as_null=False, keep_nulls=False)
        if spans.height
        else spans.with_columns(pl.lit(0, pl.Int64).alias("hour"))
    )
    overlap_us = pl.min_horizontal(pl.col("to_us"), (pl.col("hour") + 1) * HOUR_US) - pl.max_horizontal(
        pl.col("from_us"), pl.col("hour") * HOUR_US
    )
    share = overlap_us / (pl.col("end_us") - pl.col("start_us"))
    spans = spans.with_columns(
        (overlap_us / HOUR_US).alias("overlap_hours"),
        pl.when(pl.col("variable").is_in(sums)).then(pl.col("value") * share).otherwise(pl.col("value")).alias("value"),
        pl.col("hour").cast(pl.Int32),
    )
    columns = ["stay_id", "hour", "variable", "kind", "value", "text", "unit", "start_us", "row", "overlap_hours"]
    placed = pl.concat([points.select(columns), spans.select(columns)]).sort("stay_id", "hour", "variable", "start_us", "row")
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


def aggregate_hours(placed: pl.DataFrame, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> pl.DataFrame:
    """stay_id, hour and one column per grid variable: float32, or string for categories; null = not observed.

    Each column follows its variable's hourly rule. `time_weighted_mean` is sum(rate * overlap) / 1 h; rows of a rate without an end
    count with their mean where no interval touches the hour. Raises ConfigError for a rule that is not known.
    """
    columns = grid_columns(variables)
    rules: dict[str, list[str]] = {}
    for name, kind in columns.items():
        rule = variables[name].aggregation
        allowed = _CATEGORY_RULES if kind == "category" else _NUMERIC_RULES
        if rule not in allowed:
            raise ConfigError(
                f"variable {name}: hourly rule {rule!r} is not one of {', '.join(allowed)}; change it in clinical/variables.yaml"
            )
        rules.setdefault(f"category_{rule}" if kind == "category" else rule, []).append(name)
    keys = ["stay_id", "hour", "variable"]
    numeric, category = [], []
    for rule, names in rules.items():
        rows = placed.filter(pl.col("variable").is_in(names))
        if rule.startswith("category_"):
            shown = pl.coalesce(pl.col("text"), pl.col("value").cast(pl.String))
            order = {"last": shown.last(), "first": shown.first(), "mode": shown.mode().sort().first()}
            category.append(rows.group_by(keys).agg(order[rule.removeprefix("category_")].alias("value")))
        else:
            numeric.append(rows.group_by(keys).agg(numeric_rule(rule).cast(pl.Float32).alias("value")))
    frame = hour_frame(stays)
    for parts in (numeric, category):
        if parts:
            long = pl.concat(parts)
            if long.height:
                frame = frame.join(long.pivot(on="variable", index=["stay_id", "hour"], values="value"), on=["stay_id", "hour"], how="left")
    dtypes = {name: pl.String if kind == "category" else pl.Float32 for name, kind in columns.items()}
    absent = [pl.lit(None, dtype).alias(name) for name, dtype in dtypes.items() if name not in frame.columns]
    return frame.with_columns(absent).select("stay_id", "hour", *columns).sort("stay_id", "hour")


def coverage(placed: pl.DataFrame) -> dict[str, dict[str, int]]:
    """Per variable: num_events (an interval counts once per hour that it touches), num_hours and num_stays that have it."""
    per_hour = placed.group_by("variable", "stay_id", "hour").len()
    table = per_hour.group_by("variable").agg(
        pl.col("len").sum().alias("num_events"), pl.len().alias("num_hours"), pl.col("stay_id").n_unique().alias("num_stays")
    )
    return {row.pop("variable"): row for row in table.sort("variable").to_dicts()}


def numeric_rule(rule: str) -> pl.Expr:
    """The aggregate of one hour's placed rows of a variable, by the name of its hourly rule."""
    value = pl.col("value")
    if rule == "any":
        return (value.is_null() | (value > 0)).any()
    if rule == "starts":
        return (pl.col("start_us") // HOUR_US == pl.col("hour")).sum()
    if rule == "time_weighted_mean":
        has_interval = pl.col("overlap_hours").is_not_null().any()
        return pl.when(has_interval).then((value * pl.col("overlap_hours")).sum()).otherwise(value.mean())
    return {
        "median": value.median(),
        "mean": value.mean(),
        "min": value.min(),
        "max": value.max(),
        "sum": value.sum(),
        "last": value.last(),
        "first": value.first(),
    }[rule]


def _microseconds(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Datetime("us")).cast(pl.Int64)


def _keep(table: pl.DataFrame, condition: pl.Expr) -> tuple[pl.DataFrame, int]:
    kept = table.filter(condition)
    return kept, table.height - kept.height
