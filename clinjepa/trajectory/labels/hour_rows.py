"""Rows of (stay, hour) as arrays, and windows over them: the input of derived quantities and label rules.

The rows of a stay are consecutive hours, from the first hour of its history (below 0) to its last one. A window never extends beyond
its stay, and its value depends on the hours inside it only, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import polars as pl

Columns = Mapping[str, np.ndarray]
NEVER = 2**62
"""Row number that stands for "not again in this stay"; larger than any row."""


class HourRows:
    """R rows sorted by stay and hour: stay_id_R int64, hour_R int32, columns per row and constants per stay."""

    def __init__(self, stay_id_R: np.ndarray, hour_R: np.ndarray, columns: Columns | None = None, constants: Columns | None = None) -> None:
        """columns: [R] float64 with NaN for unknown, or object (str or None) for categories. constants: likewise, equal within a stay."""
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
        """A grid column as float64 [R]; NaN where it was not observed or the source does not have it."""
        found = self.columns.get(name)
        return np.full(len(self), np.nan) if found is None else found

    def words(self, name: str) -> tuple[np.ndarray, list[str]]:
        """A category column: (rows in which it was charted, its words in these rows)."""
        found = self.columns.get(name)
        if found is None:
            return np.zeros(0, np.int64), []
        charted = np.flatnonzero([word is not None for word in found])
        return charted, found[charted].tolist()

    def given(self, name: str) -> np.ndarray:
        """A treatment's rate, amount or indicator [R], 0 where none is recorded."""
        return np.asarray(np.nan_to_num(self.column(name), nan=0.0))

    def shifted(self, values_R: np.ndarray, hours: int, fill: float = np.nan) -> np.ndarray:
        """The value `hours` earlier (later where negative), `fill` outside the stay."""
        source = self.row_R - hours
        inside = (source >= self.first_R) & (source <= self.last_R)
        return np.where(inside, values_R[np.clip(source, 0, max(len(self) - 1, 0))] if len(self) else values_R, fill)

    def trailing_max(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Largest known value of the last `hours` hours, the current one included; NaN where none is known."""
        return self._doubled(values_R, hours, np.fmax)

    def trailing_min(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Smallest known value of the last `hours` hours, the current one included; NaN where none is known."""
        return self._doubled(values_R, hours, np.fmin)

    def trailing_sum(self, values_R: np.ndarray, hours: int) -> np.ndarray:
        """Sum of the known values of the last `hours` hours, the current one included; 0 where none is known."""
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
        """Number of the last `hours` hours, the current one included, in which the mask is true."""
        return self.trailing_sum(mask_R.astype(np.float64), hours)

    def last_known(self, values_R: np.ndarray, hours: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(value, age in hours) of the latest known value up to the current hour, at most `hours` old; NaN where there is none."""
        at = np.maximum.accumulate(np.where(np.isnan(values_R), -1, self.row_R)) if len(self) else self.row_R
        age = self.row_R - at
        there = (at >= self.first_R) & ((age <= hours) if hours is not None else True)
        value = values_R[np.maximum(at, 0)] if len(self) else values_R
        return np.where(there, value, np.nan), np.where(there, age, np.nan)

    def previous_known(self, values_R: np.ndarray) -> np.ndarray:
        """Row of the latest known value before the current hour, -1 where there is none."""
        at = np.maximum.accumulate(np.where(np.isnan(values_R), -1, self.row_R)) if len(self) else self.row_R
        before = self.shifted(at.astype(np.float64), 1, -1.0).astype(np.int64)
        return np.where(before >= self.first_R, before, -1)

    def next_true(self, mask_R: np.ndarray) -> np.ndarray:
        """Row of the first hour of the stay, from the current one on, in which the mask is true; NEVER where there is none."""
        if not len(self):
            return self.row_R
        ahead = np.minimum.accumulate(np.where(mask_R, self.row_R, len(self))[::-1])[::-1]
        return np.where(ahead <= self.last_R, ahead, NEVER)

    def ever(self, mask_R: np.ndarray) -> np.ndarray:
        """True from the first hour of the stay in which the mask is true."""
        if not len(self):
            return mask_R.astype(bool)
        at = np.maximum.accumulate(np.where(mask_R, self.row_R, -1))
        return at >= self.first_R

    def _doubled(self, values_R: np.ndarray, hours: int, pick: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """`pick` (associative, idempotent) over trailing windows, by windows of doubled length."""
        block, width = values_R.astype(np.float64), 1
        while 2 * width <= hours:
            block = pick(block, self.shifted(block, width))
            width *= 2
        return pick(block, self.shifted(block, hours - width)) if hours > width else block


def hour_rows(grid: pl.DataFrame, history: pl.DataFrame, stays: pl.DataFrame, names: Iterable[str], constants: Iterable[str]) -> HourRows:
    """The hour rows of a part's stays, each stay's history before its grid.

    Args:
        grid: stay_id, hour >= 0 and one column per variable.
        history: stay_id, hour < 0, variable, value (long form).
        stays: stay_id and the columns named in `constants`.
        names: variables wanted as columns; those in neither table are left out and read as unknown.
        constants: columns of `stays` to attach to every row.
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
