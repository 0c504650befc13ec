"""Values of the hour grid at the hours of a window: what is forecast, and what was known before.

What is not measured in an hour is NaN: it is no target, it is never scored, and it is never filled in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.evaluation.drift_windows import Windows
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import GridPart, grid_variables, parts_of, read_grid

MIN_TRAIN_HOURS = 200
"""A variable that is measured in fewer hours of the training stays is not forecast."""


@dataclass(frozen=True)
class Measurements:
    """Hourly values of some stays, rows by (stay, hour): values_RV float32 with NaN where not measured, stay_R, first_row {stay: row}."""

    names: list[str]
    values_RV: np.ndarray
    stay_R: np.ndarray
    first_row: dict[int, int]

    def rows(self, stay_W: np.ndarray, hour_W: np.ndarray) -> np.ndarray:
        """Row numbers of (stay, hour)."""
        return np.asarray(np.array([self.first_row[int(stay)] for stay in stay_W], dtype=np.int64) + hour_W)

    def column(self, name: str) -> np.ndarray:
        """Values [R] of a variable; NaN for one that is not here."""
        if name not in self.names:
            return np.full(len(self.values_RV), np.nan, dtype=np.float32)
        return np.asarray(self.values_RV[:, self.names.index(name)])

    def last_known(self, known_RX: np.ndarray) -> np.ndarray:
        """Row [R, X] of the latest hour up to each row of the same stay in which `known_RX` is true; −1 where there is none."""
        rows_R1 = np.arange(len(known_RX))[:, None]
        first_R1 = np.array([self.first_row[int(stay)] for stay in self.stay_R], dtype=np.int64)[:, None]
        last_RX = np.maximum.accumulate(np.where(known_RX, rows_R1, -1), axis=0)
        return np.where(last_RX >= first_R1, last_RX, -1)


@dataclass(frozen=True)
class WindowValues:
    """Of W windows: target_WSV, values of the hours at the wanted steps; of the history alone: last_WV, the last measured value since
    admission; hours_since_WV, the hours since it was measured (inf where it never was); share_WV, the share of the window's given hours in
    which the variable was measured."""

    target_WSV: np.ndarray
    last_WV: np.ndarray
    hours_since_WV: np.ndarray
    share_WV: np.ndarray


def draw_stays(stays: pa.Table, most: int, seed: int) -> pa.Table:
    """`most` stays drawn without replacement, sorted by stay_id; all where there are no more."""
    if stays.num_rows <= most:
        return stays
    return stays.take(np.sort(np.random.default_rng([seed, 0xF0C]).choice(stays.num_rows, most, replace=False)))


def read_measurements(ingest: Folder, stays: pa.Table, chosen: np.ndarray, most: int, also: Iterable[str] = ()) -> Measurements:
    """The most often measured variables of the hour grid, in the hours of some stays.

    Args:
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`. Variables are counted in the hours of its training stays.
        chosen: Stays whose hours are kept.
        most: Number of variables, those that are measured in most hours first; all have MIN_TRAIN_HOURS hours.
        also: Variables that are kept beside them where they have as many hours.
    """
    candidates = [variable.name for variable in grid_variables("state", kinds=("numeric", "rate"))]
    train = stays.filter(pc.equal(stays["split"], "train"))["stay_id"].to_numpy()
    counts, kept, stay_ids = np.zeros(len(candidates), dtype=np.int64), [], []
    for part in parts_of(stays):
        grid = read_grid(ingest, part, candidates)
        values_RC, stay_R = _matrix(grid, candidates)
        counts += np.isfinite(values_RC[np.isin(stay_R, train)]).sum(0)
        wanted_R = np.isin(stay_R, chosen)
        kept.append(values_RC[wanted_R])
        stay_ids.append(stay_R[wanted_R])
    values_RC, stay_R = np.concatenate(kept), np.concatenate(stay_ids)
    enough = [place for place in np.argsort(-counts, kind="stable") if counts[place] >= MIN_TRAIN_HOURS]
    extra = set(also)
    columns = sorted([*enough[:most], *(place for place in enough[most:] if candidates[place] in extra)])
    return _measurements([candidates[place] for place in columns], values_RC[:, columns], stay_R)


def read_named(ingest: Folder, stays: pa.Table, chosen: np.ndarray, names: Sequence[str]) -> Measurements:
    """Given variables of the hour grid in the hours of some stays; a variable that the data do not have is NaN.

    Args:
        ingest: Ingest artifact; of its hour grid the parts of these stays are read.
        stays: The ingest's `stays.parquet`.
        chosen: Stays whose hours are kept.
        names: The V variables, in their order.
    """
    kept, stay_ids = [np.zeros((0, len(names)), dtype=np.float32)], [np.zeros(0, dtype=np.int64)]
    for part, own in parts_of(stays).items():
        if np.isin(own, chosen).any():
            values_RV, stay_R = _matrix(read_grid(ingest, part, list(names)), names)
            wanted_R = np.isin(stay_R, chosen)
            kept.append(values_RV[wanted_R])
            stay_ids.append(stay_R[wanted_R])
    return _measurements(list(names), np.concatenate(kept), np.concatenate(stay_ids))


def window_values(measurements: Measurements, windows: Windows, steps_S: np.ndarray) -> WindowValues:
    """The values at the steps (1 is the first hour after the history; NaN beyond a window's reach) and those known before."""
    values_RV = measurements.values_RV
    first_W = measurements.rows(windows.stay_W, np.zeros(len(windows), dtype=np.int64))
    end_W = first_W + windows.start_W + windows.context
    inside_WS = steps_S <= windows.reach_W[:, None]
    rows_WS = np.where(inside_WS, end_W[:, None] + steps_S - 1, 0)
    target_WSV = np.where(inside_WS[:, :, None], values_RV[rows_WS], np.nan).astype(np.float32)
    known_RV = np.isfinite(values_RV)
    last_WV = measurements.last_known(known_RV)[end_W - 1]
    ever_WV = last_WV >= 0
    carried_WV = np.where(ever_WV, np.take_along_axis(values_RV, np.maximum(last_WV, 0), axis=0), np.nan)
    seen_RV = np.concatenate([np.zeros((1, known_RV.shape[1]), dtype=np.int64), np.cumsum(known_RV, axis=0)])
    share_WV = (seen_RV[end_W] - seen_RV[end_W - windows.context]) / windows.context
    return WindowValues(target_WSV, carried_WV, np.where(ever_WV, end_W[:, None] - 1 - last_WV, np.inf), share_WV)


def _measurements(names: list[str], values_RV: np.ndarray, stay_R: np.ndarray) -> Measurements:
    unique, first_S = np.unique(stay_R, return_index=True)  # the rows of a stay lie together, in one part
    return Measurements(names, values_RV, stay_R, dict(zip(unique.tolist(), first_S.tolist(), strict=True)))


def _matrix(grid: GridPart, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Values [R, V] of a part, and the stay of each row."""
    missing_R = np.full(len(grid.hour_R), np.nan, dtype=np.float32)
    values_RV = np.stack([grid.values.get(name, missing_R) for name in names], axis=1)
    stay_ids, first_S = np.array(list(grid.first_row), dtype=np.int64), np.array(list(grid.first_row.values()), dtype=np.int64)
    return values_RV, np.repeat(stay_ids, np.diff(np.append(first_S, len(grid.hour_R))))
