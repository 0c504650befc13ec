"""A small hour grid beside random stays, and its values normalised one by one as a plain computation gives them."""

from __future__ import annotations

from functools import cache

import numpy as np
import pyarrow as pa

from clinjepa.storage import Folder
from clinjepa.trajectory.hour_values import value_names

GRID = {"heart_rate": "often measured", "map": "every third hour", "creatinine": "always 1", "lactate": "of no training stay"}


def grid_rows(stay: int, training: bool, heart_rates: list[float | None]) -> dict[str, list[float | int | None]]:
    """Columns of a stay's rows of the grid; heart_rates: by hour, None where not measured."""
    hours = range(len(heart_rates))
    return {
        "stay_id": [stay] * len(heart_rates),
        "hour": list(hours),
        "heart_rate": list(heart_rates),
        "map": [60.0 + (7 * stay + 3 * hour) % 31 if hour % 3 == 0 else None for hour in hours],
        "creatinine": [1.0] * len(heart_rates),
        "lactate": [None if training else 2.0 + hour for hour in hours],
    }


def write_grid(ingest: Folder, part: str, stays: list[dict[str, list[float | int | None]]]) -> None:
    """Write `grid/<part>.parquet` from the columns of its stays."""
    types = {"stay_id": pa.int64(), "hour": pa.int32()} | dict.fromkeys(GRID, pa.float32())
    columns = {name: pa.array([value for stay in stays for value in stay[name]], kind) for name, kind in types.items()}
    ingest.write_table(f"grid/{part}.parquet", pa.table(columns))


def normalised_values(ingest: str, stay: int, hour: int) -> tuple[dict[int, float], float]:
    """({column: value in training standard deviations} of the measured variables of an hour, mean number of them in a training hour)."""
    rows, statistics = _plain(ingest)
    found = {}
    for name, (low, high, mean, std, _) in statistics.items():
        value = rows[stay, hour][name]
        if value is not None:
            found[value_names().index(name)] = (min(max(value, low), high) - mean) / std
    return found, sum(rate for *_, rate in statistics.values())


@cache
def _plain(ingest: str) -> tuple[dict[tuple[int, int], dict[str, float | None]], dict[str, tuple[float, ...]]]:
    """({(stay, hour): row}, {variable: low, high, mean, std, rate}) of a whole artifact."""
    folder = Folder(ingest)
    splits = {row["stay_id"]: row["split"] for row in folder.read_table("stays.parquet").to_pylist()}
    tables = [folder.read_table(f"grid/{name}") for name in folder.names("grid")]
    rows = {(row["stay_id"], row["hour"]): row for table in tables for row in table.to_pylist()}
    training = [row for (stay, _), row in rows.items() if splits[stay] == "train"]
    statistics = {}
    for name in GRID:
        values = [row[name] for row in training if row[name] is not None]
        if len(set(values)) > 1:
            low, high = np.percentile(values, [1, 99])
            clipped = np.clip(values, low, high)
            statistics[name] = (low, high, clipped.mean(), clipped.std(), len(values) / len(training))
    return rows, statistics
