"""The hour grid as sequences, for models that read a stay hour by hour.

Per variable and hour: the value carried forward, standardised by the training stays (0 before the first reading), whether it was read in
this hour, and the hours since the last reading. What a treatment lacks is 0. Each level of a category that training stays have is an
indicator. Statics and the hour stand beside them. Row h of a stay holds hours 0…h only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.evaluation.downstream.tabular_features import GRID_KINDS, last_observed, seen_in_training, static_features
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import GridPart, grid_variables, parts_of, read_grid

_CUT = 5.0
"""Standard deviations at which a value is cut."""
_LONGEST_SINCE = 48.0
"""Hours after which a reading is as old as one of any age."""


@dataclass(frozen=True)
class HourSequences:
    """R rows (stay, hour), stays one after another.

    value_RV float32, seen_RV bool, since_RV float32 (hours since the last reading over 48, at most 1; 1 before the first) of V variables;
    other_RO float32: statics, whether each is known, and the hour. first_row and num_hours by stay.
    """

    value_RV: np.ndarray
    seen_RV: np.ndarray
    since_RV: np.ndarray
    other_RO: np.ndarray
    first_row: dict[int, int]
    num_hours: dict[int, int]

    def rows(self, stay_N: np.ndarray, hour_N: np.ndarray) -> np.ndarray:
        """Row of each (stay, hour) [N]."""
        return np.asarray(np.array([self.first_row[int(stay)] for stay in stay_N], dtype=np.int64) + hour_N)


def hour_sequences(ingest: Folder, stays: pa.Table) -> HourSequences:
    """The hours of all stays of `stays` (the ingest's `stays.parquet`, or some of its rows)."""
    parts = parts_of(stays)
    numeric = [variable.name for variable in grid_variables("state", "action", kinds=GRID_KINDS)]
    treatments = {variable.name for variable in grid_variables("action", kinds=GRID_KINDS)}
    categories = [variable.name for variable in grid_variables("state", "action", kinds=("category",))]
    in_train = dict(zip(stays["stay_id"].to_pylist(), (split == "train" for split in stays["split"].to_pylist()), strict=True))
    present, levels = seen_in_training(ingest, parts, numeric, categories, in_train)
    given_V = np.array([name in treatments for name in present] + [False] * sum(map(len, levels.values())))
    values, seen, since, hours, first_row = [], [], [], [], {}
    begin = 0
    for part, stay_ids in parts.items():
        grid = read_grid(ingest, part, [*present, *levels])
        rows_R, first = _rows_of(grid, stay_ids)
        carried_RV, seen_RV, since_RV = _carried(grid, present, levels, given_V)
        values.append(carried_RV[rows_R])
        seen.append(seen_RV[rows_R])
        since.append(since_RV[rows_R])
        hours.append(grid.hour_R[rows_R])
        first_row.update({stay: begin + row for stay, row in first.items()})
        begin += len(rows_R)
    hour_R = np.concatenate(hours)
    starts = np.array([*first_row.values(), begin])
    num_hours = dict(zip(first_row, np.diff(starts).tolist(), strict=True))
    train_R = np.repeat([in_train[stay] for stay in first_row], list(num_hours.values()))
    value_RV, seen_RV = np.concatenate(values), np.concatenate(seen)
    stay_R = np.repeat(np.array(list(first_row), dtype=np.int64), list(num_hours.values()))
    return HourSequences(
        _standardised(value_RV, seen_RV | given_V, train_R),
        seen_RV,
        np.concatenate(since),
        _others(stays, stay_R, hour_R, train_R, in_train),
        first_row,
        num_hours,
    )


def _rows_of(grid: GridPart, stay_ids: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """Rows of some stays of a part, and the place of each stay's first row among them."""
    ends = np.append(list(grid.first_row.values())[1:], len(grid.hour_R)).astype(np.int64)
    length = dict(zip(grid.first_row, ends - np.array(list(grid.first_row.values()), dtype=np.int64), strict=True))
    wanted = set(stay_ids.tolist())
    rows, first, begin = [np.zeros(0, np.int64)], {}, 0
    for stay in (stay for stay in grid.first_row if stay in wanted):
        rows.append(grid.first_row[stay] + np.arange(length[stay]))
        first[stay] = begin
        begin += int(length[stay])
    return np.concatenate(rows), first


def _carried(
    grid: GridPart, present: list[str], levels: dict[str, dict[str, int]], given_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(values carried forward with NaN before the first, read in this hour, hours since), each [R, V]."""
    columns = [grid.values.get(name, np.full(len(grid.hour_R), np.nan, np.float32)) for name in present]
    for name, codes in levels.items():
        words_R = grid.values.get(name, np.full(len(grid.hour_R), None, dtype=object))
        known_R = np.array([word is not None for word in words_R], dtype=bool)
        columns += [np.where(known_R, words_R == level, np.nan).astype(np.float32) for level in codes]
    raw_RV = np.stack(columns, axis=1)
    seen_RV = np.isfinite(raw_RV)
    last_RV = last_observed(seen_RV, grid.hour_R)
    carried_RV = np.where(last_RV >= 0, np.take_along_axis(raw_RV, np.maximum(last_RV, 0), axis=0), np.nan)
    carried_RV = np.where(given_V, np.nan_to_num(raw_RV), carried_RV).astype(np.float32)
    since_RV = np.where(last_RV >= 0, np.arange(len(raw_RV))[:, None] - last_RV, _LONGEST_SINCE)
    return carried_RV, seen_RV, (np.minimum(since_RV, _LONGEST_SINCE) / _LONGEST_SINCE).astype(np.float32)


def _standardised(value_RV: np.ndarray, counts_RV: np.ndarray, train_R: np.ndarray) -> np.ndarray:
    """By mean and sd of the training rows in which the value was read (for treatments: of all); NaN becomes 0. In place."""
    for column in range(value_RV.shape[1]):
        own = value_RV[train_R & counts_RV[:, column], column]
        mean, sd = (own.mean(dtype=np.float64), own.std(dtype=np.float64)) if len(own) else (0.0, 0.0)
        value_RV[:, column] = (value_RV[:, column] - mean) / (sd if sd > 1e-6 * max(abs(mean), 1e-6) else 1.0)
    np.nan_to_num(value_RV, copy=False)
    return np.asarray(np.clip(value_RV, -_CUT, _CUT, out=value_RV))


def _others(stays: pa.Table, stay_R: np.ndarray, hour_R: np.ndarray, train_R: np.ndarray, in_train: dict[int, bool]) -> np.ndarray:
    """Statics, standardised with 0 for unknown; whether each is known; the hour over 48."""
    static_RS, _ = static_features(stays, stay_R, hour_R, in_train)
    known_RS = np.isfinite(static_RS)
    standard_RS = _standardised(static_RS.astype(np.float32), known_RS, train_R)
    return np.concatenate([standard_RS, known_RS, (hour_R[:, None] + 1) / _LONGEST_SINCE], axis=1).astype(np.float32)
