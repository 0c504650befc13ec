"""The ingest artifact's hourly grid as arrays, for training, baselines and the round trip. Format: docs/contracts.md, section 3."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import Variable, load_variables
from clinjepa.errors import StoreError
from clinjepa.storage import Folder


@dataclass(frozen=True)
class GridPart:
    """One part of the grid, rows by (stay, hour). values: column -> [R], float32 with NaN or object with None where not observed."""

    values: dict[str, np.ndarray]
    first_row: dict[int, int]
    hour_R: np.ndarray

    def rows(self, stay_N: np.ndarray, hour_N: np.ndarray) -> np.ndarray:
        """Row numbers of (stay, hour) points [N]."""
        return np.asarray(np.array([self.first_row[int(stay_id)] for stay_id in stay_N], dtype=np.int64) + hour_N)


def grid_variables(*roles: str, kinds: Sequence[str]) -> list[Variable]:
    """Variables of the dictionary that are in texts in one of these roles, in dictionary order; label-only ones only when asked for."""
    return [variable for variable in load_variables().values() if variable.role in roles and variable.kind in kinds]


def read_grid(ingest: Folder, part: str, columns: Sequence[str]) -> GridPart:
    """Read some columns of `grid/<part>.parquet`; columns that the part does not have are left out.

    Raises StoreError when a stay's hours are not 0…T−1.
    """
    table = ingest.read_table(f"grid/{part}.parquet")
    table = table.select(["stay_id", "hour", *(name for name in columns if name in table.column_names)])
    table = table.sort_by([("stay_id", "ascending"), ("hour", "ascending")])
    stay_R, hour_R = table["stay_id"].to_numpy(), table["hour"].to_numpy().astype(np.int64)
    unique, first_S = np.unique(stay_R, return_index=True)
    if len(stay_R) and not np.array_equal(hour_R, np.arange(len(stay_R)) - np.repeat(first_S, np.diff(np.append(first_S, len(stay_R))))):
        raise StoreError(f"{ingest.address}/grid/{part}.parquet: the hours of a stay are not 0, 1, 2 …; run ingest again")
    values = {}
    for name in table.column_names[2:]:
        column = table[name]
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            values[name] = pc.fill_null(column.cast(pa.float32()), np.nan).to_numpy()
        else:
            values[name] = np.array(column.to_pylist(), dtype=object)
    return GridPart(values, dict(zip(unique.tolist(), first_S.tolist(), strict=True)), hour_R)


def parts_of(stays: pa.Table) -> dict[str, np.ndarray]:
    """The stays of each ingest part: {part: stay ids}, sorted by part. stays: ingest `stays.parquet`."""
    names = np.asarray(stays["part"].to_pylist(), dtype=object)
    stay_S = stays["stay_id"].to_numpy()
    return {part: stay_S[names == part] for part in sorted(set(names.tolist()))}


def num_stays_with(ingest: Folder, split: str, names: Sequence[str]) -> dict[str, int]:
    """Stays of a split that have each variable in some hour; a number counts where it is not 0: nothing is given then.

    Args:
        ingest: Ingest artifact; of its hour grid these columns alone are read.
        split: The split.
        names: Variables of the dictionary; one that the grid does not have is in no stay.
    """
    stays = ingest.read_table("stays.parquet", columns=["stay_id", "split", "part"])
    own = stays.filter(pc.equal(stays["split"], split))
    found = dict.fromkeys(names, 0)
    for part, stay_ids in parts_of(own).items():
        table = ingest.read_table(f"grid/{part}.parquet", columns=["stay_id", *found])
        inside_R = np.isin(table["stay_id"].to_numpy(), stay_ids)
        for name in set(found) & set(table.column_names):
            column = table[name]
            if not pa.types.is_floating(column.type) and not pa.types.is_integer(column.type):
                has_R = column.is_valid().to_numpy()
            else:
                has_R = pc.fill_null(pc.not_equal(column.cast(pa.float64()), 0.0), False).to_numpy()
            found[name] += len(np.unique(table["stay_id"].to_numpy()[inside_R & has_R]))
    return found
