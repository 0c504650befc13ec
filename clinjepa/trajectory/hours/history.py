"""Hourly values before ICU admission, for labels only: `history/<part>.parquet` of the ingest artifact.

A baseline creatinine, and antibiotics and cultures from the ward, decide labels (KDIGO, Sepsis-3); they are in no text and on no grid
row. How far back an event counts is its variable's `lookback_hours` (`clinjepa/clinical/variables.yaml`).
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl
import pyarrow as pa

from clinjepa.clinical import Variable
from clinjepa.trajectory.hours.aggregates import hourly_values
from clinjepa.trajectory.hours.grid import GRID_ROLES, place_events

HISTORY_SCHEMA = pa.schema([("stay_id", pa.int64()), ("hour", pa.int32()), ("variable", pa.string()), ("value", pa.float32())])


def history_hours(events: pa.Table, stays: pl.DataFrame, variables: Mapping[str, Variable]) -> pl.DataFrame:
    """Hourly aggregates of numeric, indicator and rate variables before ICU admission (HISTORY_SCHEMA), by each variable's hourly rule.

    Hour -1 is the hour that ends at ICU admission. Of an interval that continues into the stay, the part before admission counts here
    and the rest on the grid.

    Args:
        events: EVENTS_SCHEMA.
        stays: stay_id, intime.
        variables: the variable dictionary.
    """
    kept = {name: one for name, one in variables.items() if one.kind != "category" and one.role in GRID_ROLES and one.lookback_hours}
    depth = max((one.lookback_hours for one in kept.values()), default=0)
    intime = stays.select("stay_id", pl.col("intime").cast(pl.Datetime("us")))
    table = pl.DataFrame(events).with_columns(pl.col("variable").cast(pl.String))
    early = table.join(intime, on="stay_id").filter(pl.col("time") < pl.col("intime"))
    early = early.filter(pl.col("variable").is_in(list(kept))).drop("intime")
    if not early.height:
        return pl.DataFrame(HISTORY_SCHEMA.empty_table())
    before = intime.with_columns(
        (pl.col("intime") - pl.duration(hours=depth)).alias("intime"),
        pl.col("intime").alias("outtime"),
        pl.lit(depth, pl.Int32).alias("num_hours"),
    )
    placed, _ = place_events(early.to_arrow(compat_level=pl.CompatLevel.oldest()), before, kept)
    lookback = pl.col("variable").replace_strict({name: one.lookback_hours for name, one in kept.items()}, return_dtype=pl.Int32)
    long = hourly_values(placed, kept).with_columns(
        (pl.col("hour") - depth).cast(pl.Int32).alias("hour"), pl.col("variable").cast(pl.String)
    )
    return long.filter(pl.col("hour") >= -lookback).select(HISTORY_SCHEMA.names).sort("stay_id", "hour", "variable")
