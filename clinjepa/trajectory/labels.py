"""Labels of prediction tasks from the hourly grid and the stays.

A label at hour h is predicted at intime + (h+1) h from hours 0 ... h; its event lies in hours h+1 ... h+H and nowhere else.
Rule of event tasks: eth-mds/icu-features `eep_label`; the tasks themselves are data (`clinical/tasks/*.yaml`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pyarrow as pa

from clinjepa.clinical import Combination, Condition, Task
from clinjepa.storage import Folder
from clinjepa.trajectory import ingest as ingest_artifact
from clinjepa.trajectory.grid import HOUR_US
from clinjepa.trajectory.parts import read_card

LABELS_SCHEMA = pa.schema([("stay_id", pa.int64()), ("task", pa.string()), ("hour", pa.int32()), ("label", pa.float32())])

_COMPARE: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
}


def compute_labels(ingest: Folder, tasks: list[Task], stay_prediction_hour: int) -> pa.Table:
    """LABELS_SCHEMA, ordered by task (as given), stay_id, hour; hours without a label are left out.

    Event tasks have a row per labelled hour; stay tasks one, at hour `stay_prediction_hour` - 1, for stays that are still going on and
    alive at that time. A task whose required variables the source never gives has no rows. Thresholds are compared at the grid's
    precision (float32).
    """
    card = read_card(ingest, ingest_artifact.SCHEMA_VERSION, "run ingest again")
    events = [task for task in tasks if task.kind == "event" and all(name in card["coverage"] for name in task.requires)]
    tables: dict[str, list[pl.DataFrame]] = {task.name: [] for task in tasks}
    columns = sorted({name for task in events for name in task.variables})
    for part in card["parts"] if events else ():
        grid = pl.from_arrow(ingest.read_table(f"grid/{part}.parquet", columns=["stay_id", "hour", *columns])).sort("stay_id", "hour")
        stay_ids = grid["stay_id"].to_numpy()
        for task in events:
            values = eep_labels(hourly_state(task, grid), stay_ids, task.horizon_hours or 0, task.switches_only)
            labelled = grid.select(
                "stay_id", pl.lit(task.name).alias("task"), "hour", pl.Series("label", values, dtype=pl.Float32).fill_nan(None)
            )
            tables[task.name].append(labelled.drop_nulls("label"))
    stays = pl.from_arrow(ingest.read_table("stays.parquet"))
    for task in tasks:
        if task.kind == "stay":
            tables[task.name].append(_stay_labels(task, stays, stay_prediction_hour))
    ordered = [pl.concat(parts).sort("stay_id", "hour") for parts in tables.values() if parts]
    if not ordered:
        return LABELS_SCHEMA.empty_table()
    return pl.concat(ordered).select(LABELS_SCHEMA.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(LABELS_SCHEMA)


def hourly_state(task: Task, grid: pl.DataFrame) -> np.ndarray:
    """State of an event task per row of the grid: 1.0 in the event, 0.0 surely not, NaN unknown."""
    if task.state is None:
        raise ValueError(f"task {task.name} has no hourly state")
    return _evaluate(task.state, grid)


def eep_labels(state_R: np.ndarray, stay_id_R: np.ndarray, horizon_hours: int, switches_only: bool) -> np.ndarray:
    """Early-event labels per hour: 1, 0, or NaN where there is none.

    state_R: 1 event, 0 surely none, NaN unknown, one row per hour; stay_id_R: rows of a stay are consecutive and hourly. Missing
    where the hour itself is in the event; 1 where an event lies in the next `horizon_hours` hours; 0 where none does and one of them is
    surely none. With `switches_only` a 1 is missing too where the last known state up to the hour was an event.
    Source: eth-mds/icu-features, `eep_label`.
    """
    num_rows = len(state_R)
    if not num_rows:
        return np.zeros(0, dtype=np.float64)
    rows = np.arange(num_rows)
    starts = np.flatnonzero(np.concatenate([[True], stay_id_R[1:] != stay_id_R[:-1]]))
    ends = np.append(starts[1:], num_rows) - 1
    which = np.repeat(np.arange(len(starts)), ends - starts + 1)
    window_end = np.minimum(rows + horizon_hours, ends[which])

    def seen_ahead(value: float) -> np.ndarray:
        count = np.cumsum(state_R == value)
        return count[window_end] - count > 0

    labels = np.where(seen_ahead(1.0), 1.0, np.where(seen_ahead(0.0), 0.0, np.nan))
    labels[state_R == 1.0] = np.nan
    if switches_only:
        last_known = np.maximum.accumulate(np.where(np.isnan(state_R), -1, rows))
        was_event = (last_known >= starts[which]) & (state_R[np.maximum(last_known, 0)] == 1.0)
        labels[(labels == 1.0) & was_event] = np.nan
    return labels


def _stay_labels(task: Task, stays: pl.DataFrame, prediction_hour: int) -> pl.DataFrame:
    elapsed_us = prediction_hour * HOUR_US

    def after_intime(column: str) -> pl.Expr:
        return pl.col(column).cast(pl.Datetime("us")).cast(pl.Int64) - pl.col("intime").cast(pl.Datetime("us")).cast(pl.Int64)

    there = (pl.col("num_hours") >= prediction_hour) & (after_intime("outtime") >= elapsed_us)
    alive = (after_intime("death_time") > elapsed_us).fill_null(True)
    outcome = pl.col(task.outcome or "").cast(pl.Float32).alias("label")
    hour = pl.lit(prediction_hour - 1, pl.Int32).alias("hour")
    return stays.filter(there & alive).select("stay_id", pl.lit(task.name).alias("task"), hour, outcome).drop_nulls("label")


def _evaluate(node: Condition | Combination, grid: pl.DataFrame) -> np.ndarray:
    """Three-valued logic with NaN as unknown."""
    if isinstance(node, Condition):
        return _compare(node, grid)
    parts = np.stack([_evaluate(part, grid) for part in node.parts])
    some_true, some_false, unknown = (parts == 1).any(axis=0), (parts == 0).any(axis=0), np.isnan(parts).any(axis=0)
    if node.rule == "not":
        return 1.0 - parts[0]
    if node.rule == "all":
        return np.where(some_false, 0.0, np.where(unknown, np.nan, 1.0))
    if node.rule == "any":
        return np.where(some_true, 1.0, np.where(unknown, np.nan, 0.0))
    return np.where(unknown | (some_true & some_false), np.nan, np.where(some_true, 1.0, 0.0))


def _compare(condition: Condition, grid: pl.DataFrame) -> np.ndarray:
    values = np.stack([grid[name].cast(pl.Float32).to_numpy() for name in condition.variables])
    if condition.stat == "given":
        values = np.nan_to_num(values, nan=0.0)
    known = ~np.isnan(values)
    holds = _COMPARE[condition.op](values, np.float32(condition.value)) & known
    if condition.pick == "first":
        first = known.argmax(axis=0)[None]
        known, holds = np.take_along_axis(known, first, axis=0), np.take_along_axis(holds, first, axis=0)
    return np.where(holds.any(axis=0), 1.0, np.where(known.any(axis=0), 0.0, np.nan))
