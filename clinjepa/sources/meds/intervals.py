"""Start rows and end rows of infusions and procedures, joined to intervals.

MEDS has one row for the start and one for the end. Rows of an infusion share an order id. Rows of a procedure do not: they are joined
in order of time. Infusions without an order id are those of `overlaps`. Where some rows are missing, each start is joined to the next end
that is not after the next start and that no earlier start has.
"""

from __future__ import annotations

from collections import Counter, deque
from datetime import datetime

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
    given = ends.select(*keys, "place", pl.col("time").alias("end"), "amount", "amount_unit")
    joined = starts.join(given, on=[*keys, "place"], how="left", nulls_equal=True)
    # Of several, an end before its start shows that rows are missing. One start and one end are an interval whose times are wrong.
    in_order = (pl.col("num_starts") == 1) | (pl.col("end") >= pl.col("time"))
    fits = (pl.col("num_starts").eq_missing(pl.col("num_ends")) & in_order).fill_null(False).all().over(keys)
    joined = joined.with_columns(fits.alias("fits"))
    paired = joined.filter("fits").drop("fits")
    uneven = joined.filter(~pl.col("fits")).select(starts.columns)
    if uneven.height:
        taken = uneven.with_columns(pl.Series("end_index", _next_ends(uneven, ends, keys), pl.Int64))
        given = ends.select(pl.col("time").alias("end"), "amount", "amount_unit").with_row_index("end_index")
        guessed = taken.join(given.with_columns(pl.col("end_index").cast(pl.Int64)), on="end_index", how="left")
        paired = pl.concat([paired, guessed.select(paired.columns)])
    open_ended = paired["end"].null_count()
    if open_ended:
        counts["start_without_end"] += open_ended
    unused = ends.height - (paired.height - open_ended)
    if unused > 0:
        counts["end_without_start"] += unused
    return paired.drop("place", "num_starts", "num_ends").sort("row")


def _next_ends(starts: pl.DataFrame, ends: pl.DataFrame, keys: list[str]) -> list[int | None]:
    """For each of `starts` the place in `ends` of its end row: the next one not after the next start. Each end is given once.

    Both tables are sorted by time. So an end at the time of a start belongs to the start before it, if that has none yet.
    """
    ends_of: dict[tuple[object, ...], deque[tuple[datetime, int]]] = {}
    for place, (*key, time) in enumerate(ends.select(*keys, "time").iter_rows()):
        ends_of.setdefault(tuple(key), deque()).append((time, place))
    chosen: list[int | None] = []
    following = starts.select(*keys, "time", pl.col("time").shift(-1).over(keys).alias("next_start"))
    for *key, time, next_start in following.iter_rows():
        left = ends_of.get(tuple(key), deque())
        while left and left[0][0] < time:
            left.popleft()
        chosen.append(left.popleft()[1] if left and (next_start is None or left[0][0] <= next_start) else None)
    return chosen
