"""Start rows and end rows of infusions and procedures, joined to intervals.

MEDS has one row for the start and one for the end. Rows of an infusion share an order id. Rows of a procedure do not: they are joined
in order of time. Where some rows are missing, each start is joined to the next end before the next start.
"""

from __future__ import annotations

from collections import Counter

import polars as pl


def pair_intervals(starts: pl.DataFrame, ends: pl.DataFrame, keys: list[str], counts: Counter[str]) -> pl.DataFrame:
    """`starts` with `end`, `amount` and `amount_unit` of their end rows, null where there is none.

    Args:
        starts: `keys`, time, row and any other columns.
        ends: `keys`, time, row, amount, amount_unit.
        keys: Columns that the rows of an interval share; null matches null.
        counts: Receives `start_without_end` (kept, as a point in time) and `end_without_start` (dropped).
    """
    starts = starts.sort("time", "row").with_columns(
        pl.int_range(pl.len()).over(keys).alias("place"), pl.len().over(keys).alias("num_starts")
    )
    ends = ends.sort("time", "row").with_columns(pl.int_range(pl.len()).over(keys).alias("place"), pl.len().over(keys).alias("num_ends"))
    sizes = ends.select(*keys, "num_ends").unique()
    starts = starts.join(sizes, on=keys, how="left", nulls_equal=True)
    even = starts.filter(pl.col("num_starts") == pl.col("num_ends"))
    uneven = starts.filter(pl.col("num_starts").ne_missing(pl.col("num_ends")))
    given = ends.select(*keys, "place", pl.col("time").alias("end"), "amount", "amount_unit")
    paired = even.join(given, on=[*keys, "place"], how="left", nulls_equal=True)
    if uneven.height:
        guessed = uneven.with_columns(
            pl.col("time").shift(-1).over(keys).alias("next_start"), pl.concat_str(keys, separator="/", ignore_nulls=True).alias("key")
        ).sort("time")
        candidates = ends.select(
            pl.concat_str(keys, separator="/", ignore_nulls=True).alias("key"), "time", pl.col("time").alias("end"), "amount", "amount_unit"
        ).sort("time")
        guessed = guessed.join_asof(candidates, on="time", by="key", strategy="forward", check_sortedness=False)
        fits = pl.col("next_start").is_null() | (pl.col("end") <= pl.col("next_start"))
        guessed = guessed.with_columns(pl.when(fits).then(pl.col(name)).alias(name) for name in ("end", "amount", "amount_unit"))
        paired = pl.concat([paired, guessed.select(paired.columns)])
    open_ended = paired["end"].null_count()
    if open_ended:
        counts["start_without_end"] += open_ended
    unused = ends.height - (paired.height - open_ended)
    if unused > 0:
        counts["end_without_start"] += unused
    return paired.drop("place", "num_starts", "num_ends").sort("row")
