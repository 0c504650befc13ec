"""Measured numbers of the hours as training reads them: those of the state texts, normalised by the training split.

Read from the hour grid of an ingest artifact. A variable's values are clipped at two percentiles of the training hours, as in the
round-trip check, so that one extreme laboratory value decides neither the scale nor a loss. What was not measured has no value.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from functools import cached_property
from typing import NamedTuple, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import grid_variables, parts_of, read_grid

CLIPPED_PERCENTILES = (1.0, 99.0)
STATISTICS_STAYS = 4096
"""Training stays that the statistics are taken from, at least: of larger data whole parts are left out, at even distances."""
CACHED_BYTES = 1 << 30
"""Measured values that a reader keeps, six bytes each. All of MIMIC-IV has fewer."""


def value_names() -> list[str]:
    """The variables, in the dictionary's order: the numbers in state texts. Their number V is the same for every source."""
    return [variable.name for variable in grid_variables("state", kinds=("numeric", "rate"))]


def grid_digest(ingest: Folder) -> str:
    """Digest of the ingest artifact's parts by content, from the digests that it records."""
    return hashlib.sha256(json.dumps(ingest.read_json("data_card.json")["parts"], sort_keys=True).encode()).hexdigest()


class ValueStatistics(NamedTuple):
    """Per variable, float32 [V]: of a variable that training hours lack, or in which it never changes, `rate_V` is 0."""

    low_V: np.ndarray
    high_V: np.ndarray
    """Values are clipped to [low, high], in the variable's unit."""
    mean_V: np.ndarray
    std_V: np.ndarray
    """Of clipped values."""
    rate_V: np.ndarray
    """Share of the training hours with a value."""


class VariableStatistics(TypedDict):
    """One variable in `hour_values.json`, in its unit; `rate` is a share of the training hours."""

    low: float
    high: float
    mean: float
    std: float
    rate: float


class WindowValues(NamedTuple):
    """Of T hours: values_TV float32 in standard deviations from the mean, 0 where not measured; measured_TV bool."""

    values_TV: np.ndarray
    measured_TV: np.ndarray


class _Part(NamedTuple):
    """Measured values of one part: those of row r are starts_R[r] … starts_R[r + 1] − 1."""

    first_row: dict[int, int]
    stay_R: np.ndarray
    starts_R: np.ndarray
    column_N: np.ndarray
    value_N: np.ndarray

    @property
    def num_bytes(self) -> int:
        return self.stay_R.nbytes + self.starts_R.nbytes + self.column_N.nbytes + self.value_N.nbytes


class HourValues:
    """Reads windows of one ingest artifact; files are opened at first use, and parts read are kept up to CACHED_BYTES."""

    def __init__(self, ingest: Folder) -> None:
        self._ingest = ingest
        self.names = value_names()
        self._parts: OrderedDict[str, _Part] = OrderedDict()

    def window(self, stay_id: int, start_hour: int, num_hours: int) -> WindowValues:
        """The values of a window. Raises StoreError when the artifact lacks the stay."""
        statistics, part = self.statistics, self._part(self._part_of(stay_id))
        first = part.first_row[stay_id] + start_hour
        starts_T = part.starts_R[first : first + num_hours + 1]
        taken = slice(starts_T[0], starts_T[-1])
        row_N, column_N = np.repeat(np.arange(num_hours), np.diff(starts_T)), part.column_N[taken]
        known_N = statistics.rate_V[column_N] > 0
        row_N, column_N, value_N = row_N[known_N], column_N[known_N], part.value_N[taken][known_N]
        values_TV = np.zeros((num_hours, len(self.names)), dtype=np.float32)
        measured_TV = np.zeros(values_TV.shape, dtype=bool)
        clipped_N = np.clip(value_N, statistics.low_V[column_N], statistics.high_V[column_N])
        values_TV[row_N, column_N] = (clipped_N - statistics.mean_V[column_N]) / statistics.std_V[column_N]
        measured_TV[row_N, column_N] = True
        return WindowValues(values_TV, measured_TV)

    @cached_property
    def statistics(self) -> ValueStatistics:
        """Of the training stays; a function of the artifact alone."""
        columns, values, num_hours = [], [], 0
        for name, stay_ids in self._statistics_parts().items():
            part = self._part(name)
            training_R = np.isin(part.stay_R, stay_ids)
            training_N = np.repeat(training_R, np.diff(part.starts_R))
            columns.append(part.column_N[training_N])
            values.append(part.value_N[training_N])
            num_hours += int(training_R.sum())
        if not num_hours:
            raise StoreError(f"{self._ingest.address}: there is no training hour to take statistics of values from")
        return _statistics(np.concatenate(columns), np.concatenate(values), len(self.names), num_hours)

    def described(self) -> dict[str, VariableStatistics]:
        """The statistics by variable, of those that a loss may read."""
        found = self.statistics
        columns = np.flatnonzero(found.rate_V > 0).tolist()
        return {
            self.names[column]: {
                "low": float(found.low_V[column]),
                "high": float(found.high_V[column]),
                "mean": float(found.mean_V[column]),
                "std": float(found.std_V[column]),
                "rate": float(found.rate_V[column]),
            }
            for column in columns
        }

    @cached_property
    def _stays(self) -> pa.Table:
        return self._ingest.read_table("stays.parquet", columns=["stay_id", "split", "num_hours", "part"])

    @cached_property
    def _part_names(self) -> dict[int, str]:
        """The part of every stay."""
        return dict(zip(self._stays["stay_id"].to_pylist(), self._stays["part"].to_pylist(), strict=True))

    def _part_of(self, stay_id: int) -> str:
        if stay_id not in self._part_names:
            raise StoreError(f"{self._ingest.address} lacks a stay of the trajectory store: they are of different ingests; run again")
        return self._part_names[stay_id]

    def _statistics_parts(self) -> dict[str, np.ndarray]:
        """The training stays of the parts that the statistics are taken from."""
        of_part = parts_of(self._stays.filter(pc.equal(self._stays["split"], "train")))
        names, total = list(of_part), sum(map(len, of_part.values()))
        wanted = min(len(names), -(-len(names) * STATISTICS_STAYS // max(total, 1)))
        chosen = [names[index * len(names) // wanted] for index in range(wanted)]
        return {name: of_part[name] for name in chosen}

    def _part(self, name: str) -> _Part:
        if name in self._parts:
            self._parts.move_to_end(name)
            return self._parts[name]
        grid = read_grid(self._ingest, name, self.names)
        matrix_RV = np.full((len(grid.hour_R), len(self.names)), np.nan, dtype=np.float32)
        for column, variable in enumerate(self.names):
            if variable in grid.values:
                matrix_RV[:, column] = grid.values[variable]
        row_N, column_N = np.nonzero(np.isfinite(matrix_RV))
        starts_R = np.searchsorted(row_N, np.arange(len(matrix_RV) + 1))
        stays = np.array(list(grid.first_row), dtype=np.int64)
        stay_R = np.repeat(stays, np.diff([*grid.first_row.values(), len(matrix_RV)]))
        self._parts[name] = _Part(grid.first_row, stay_R, starts_R, column_N.astype(np.uint16), matrix_RV[row_N, column_N])
        while len(self._parts) > 1 and sum(part.num_bytes for part in self._parts.values()) > CACHED_BYTES:
            self._parts.popitem(last=False)
        return self._parts[name]


def _statistics(column_N: np.ndarray, value_N: np.ndarray, num_variables: int, num_hours: int) -> ValueStatistics:
    """Statistics of measured values [N] and the variables [N] that they are of, from `num_hours` hours."""
    order = np.argsort(column_N, kind="stable")
    borders = np.searchsorted(column_N[order], np.arange(num_variables + 1))
    table_5V = np.zeros((5, num_variables), dtype=np.float32)
    table_5V[3] = 1.0
    for column in range(num_variables):
        own_N = value_N[order[borders[column] : borders[column + 1]]].astype(np.float64)
        if not len(own_N):
            continue
        low, high = np.percentile(own_N, CLIPPED_PERCENTILES)
        clipped_N = np.clip(own_N, low, high)
        # A variable that hardly varies has no scale, and float32 values of it no meaning in its units.
        if clipped_N.std() > 1e-6 * max(abs(low), abs(high)):
            table_5V[:, column] = low, high, clipped_N.mean(), clipped_N.std(), len(own_N) / num_hours
    return ValueStatistics(*table_5V)
