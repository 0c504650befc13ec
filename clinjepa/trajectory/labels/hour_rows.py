"""Rows of (stay, hour) as arrays, and windows over them: what derived states and labels are computed with.

The rows of a stay are consecutive hours, from the first hour of its history (below 0) to its last one. A window never leaves
its stay, and its value depends on its own hours only, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import polars as pl

Columns = Mapping[str, np.ndarray]
NEVER = 2**62
"""The row of what does not come again in its stay: later than any window."""


class HourRows:
    """stay_id_R int64, hour_R int32 and, of every stay, its constants; R rows sorted by stay and hour."""

    def __init__(self, stay_id_R: np.ndarray, hour_R: np.ndarray, columns: Columns | None = None, constants: Columns | None = None) -> None:
        """columns: float64 per row, NaN where unknown, or object (str or None) for categories; constants: the same of the stay."""
        self.stay_id_R, self.hour_R = stay_id_R, hour_R
        self.columns, self.constants = dict(columns or {}), dict(constants or {})
        num_rows = len(stay_id_R)
        starts = np.flatnonzero(np.concatenate([[True], stay_id_R[1:] != stay_id_R[:-1]])) if num_rows else np.zeros(0, np.int64)
        lengths = np.diff(np.append(starts, num_rows))
        self.row_R = np.arange(num_rows)
        self.first_R = np.repeat(starts, lengths)
        """Row of the stay's first hour."""
        self.last_R = np.repeat(starts + lengths - 1, lengths)

    def __len__(self) -> int:
        return len(self.stay_id_R)

    def column(self, name: str) -> np.ndarray:
        """A grid column as float64, NaN where it was not observed or the source does not give it."""
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def words(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A category column: the rows in which it was charted, and its words there."""
        found = self.columns.get(name)
        if found is None:
            return np.zeros(0, np.int64), []
        charted = np.flatnonzero(np.not_equal(found, None))
        return charted, found[charted].tolist()

    def given(self, name: str) -> np.ndarray:
        """A treatment's rate, amount or indicator, 0 where none is recorded."""
        return np.nan_to_num(self.column(name), nan=0.0)

    def shifted(self, values_R: np.ndarray, hours: int, fill: float = np.nan) -> np.ndarray:
        """The value `hours` ago (ahead, when negative), `fill` outside the stay."""
        source = self.row_R - hours
        inside = (source >= self.first_R) & (source <= self.last_R)
        return np.where(inside, values_R[np.clip(source, 0, max(len(self) - 1, 0))] if len(self) else values_R, fill)

    def trailing_max(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Largest known value of the last `hours` hours, this one included; NaN when none is known."""
        return self._doubled(values_R, hours, np.fmax)

    def trailing_min(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Smallest known value of the last `hours` hours, this one included; NaN when none is known."""
        return self._doubled(values_R, hours, np.fmin)

    def trailing_sum(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Sum of the known values of the last `hours` hours, this one included; 0 when none is known."""
        total, offset = np.zeros(len(self)), 0
        block, width = np.nan_to_num(values_R, nan=0.0), 1
        while width <= hours:
            if hours & width:
                total = total + self.shifted(block, offset, 0.0)
                offset += width
            block = block + self.shifted(block, width, 0.0)
            width *= 2
        return total

    def trailing_count(self, mask_R: np.ndarray, hours: int) -> np.ndarray:
        """In how many of the last `hours` hours, this one included, the mask holds."""
        return self.trailing_sum(mask_R.astype(np.float64), hours)

    def last_known(self, values_R: np.ndarray, hours: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(value, age in hours) of the latest known value up to this hour, not older than `hours`; NaN where there is none."""
        at = np.maximum.accumulate(np.where(np.isnan(values_R), -1, self.row_R)) if len(self) else self.row_R
        age = self.row_R - at
        there = (at >= self.first_R) & ((age <= hours) if hours is not None else True)
        value = values_R[np.maximum(at, 0)] if len(self) else values_R
        return np.where(there, value, np.nan), np.where(there, age, np.nan)

    def previous_known(self, values_R: np.ndarray) -> np.ndarray:
        """Row of the latest known value before this hour, -1 where there is none."""
        at = np.maximum.accumulate(np.where(np.isnan(values_R), -1, self.row_R)) if len(self) else self.row_R
        before = self.shifted(at.astype(np.float64), 1, -1.0).astype(np.int64)
        return np.where(before >= self.first_R, before, -1)

    def next_true(self, mask_R: np.ndarray) -> np.ndarray:
        """Row of the first hour of the stay, from this one on, in which the mask holds; NEVER where there is none."""
        if not len(self):
            return self.row_R
        ahead = np.minimum.accumulate(np.where(mask_R, self.row_R, len(self))[::-1])[::-1]
        return np.where(ahead <= self.last_R, ahead, NEVER)

    def ever(self, mask_R: np.ndarray) -> np.ndarray:
        """True from the first hour of the stay in which the mask holds."""
        if not len(self):
            return mask_R.astype(bool)
        at = np.maximum.accumulate(np.where(mask_R, self.row_R, -1))
        return at >= self.first_R

    def _doubled(self, values_R: np.ndarray, hours: int, pick: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        block, width = values_R.astype(np.float64), 1
        while 2 * width <= hours:
            block = pick(block, self.shifted(block, width))
            width *= 2
        return pick(block, self.shifted(block, hours - width)) if hours > width else block


def hour_rows(grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame, names: Iterable[str], constants: Iterable[str]) -> HourRows:
    """Rows of a part's stays, history first.

    grid: stay_id, hour ≥ 0 and columns; history: stay_id, hour < 0, variable, value (long); stays: stay_id and the `constants` columns.
    names: the columns that are wanted; what neither table has is unknown everywhere.
    """
    wanted = [name for name in dict.fromkeys(names) if name in grid.columns]
    early = history.filter(pl.col("variable").is_in(wanted))
    spans = grid.group_by("stay_id").agg(pl.col("hour").max().alias("end"))
    spans = spans.join(early.group_by("stay_id").agg(pl.col("hour").min().alias("start")), on="stay_id", how="left").sort("stay_id")
    frame = spans.select("stay_id", pl.int_ranges(pl.col("start").fill_null(0), pl.col("end") + 1, dtype=pl.Int32).alias("hour"))
    frame = frame.explode("hour") if frame.height else frame.with_columns(pl.lit(0, pl.Int32).alias("hour"))
    keys = ["stay_id", "hour"]
    frame = frame.join(grid.select(*keys, *wanted), on=keys, how="left")
    if early.height:
        wide = early.pivot(on="variable", index=keys, values="value")
        frame = frame.join(wide, on=keys, how="left", suffix="_before")
        both = [name for name in wide.columns if name not in keys]
        frame = frame.with_columns(pl.coalesce(name, f"{name}_before").alias(name) for name in both)
    frame = frame.sort(keys)
    columns = {name: _array(frame[name]) for name in wanted}
    per_row = frame.select("stay_id").join(stays, on="stay_id", how="left", maintain_order="left")
    fixed = {name: _array(per_row[name]) for name in constants}
    return HourRows(frame["stay_id"].to_numpy(), frame["hour"].to_numpy(), columns, fixed)


def _array(column: pl.Series) -> np.ndarray:
    if column.dtype == pl.String:
        return np.array(column.to_list(), dtype=object)
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
