"""An ingest artifact of a small hour grid with planted values, for tests of features and baselines."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from clinjepa.evaluation.downstream.tabular_features import tabular_features
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.history import HISTORY_SCHEMA
from clinjepa.trajectory.labels.rules import FLAG_COLUMNS, TIME_COLUMNS

NUM_HOURS = 30
ADMITTED = datetime.datetime(2150, 3, 1, 10, 0)
SPLITS = ["train", "train", "train", "tuning", "held_out", "held_out"]


class Ingest:
    """An ingest artifact of two parts with heart rate, MAP, norepinephrine and a category; values may be changed before writing."""

    def __init__(self, root: Path, num_stays: int, with_score: bool = False) -> None:
        """with_score: also platelets and creatinine, so that the grid gives a SOFA score."""
        self.folder = Folder(root)
        rng = np.random.default_rng(0)
        shape = (num_stays, NUM_HOURS)
        self.values = {
            "heart_rate": np.where(rng.random(shape) < 0.8, rng.normal(90, 10, shape), np.nan),
            "map": np.where(rng.random(shape) < 0.8, rng.normal(75, 10, shape), np.nan),
            "norepinephrine": np.where(rng.random(shape) < 0.1, 0.1, np.nan),
        }
        if with_score:
            self.values["platelets"] = np.where(rng.random(shape) < 0.2, rng.normal(150, 60, shape), np.nan)
            self.values["creatinine"] = np.where(rng.random(shape) < 0.2, rng.lognormal(0, 0.7, shape), np.nan)
        self.stays = pa.table(
            {
                "stay_id": pa.array(range(num_stays), pa.int64()),
                "subject_id": pa.array([500 + i for i in range(num_stays)], pa.int64()),
                "split": [SPLITS[i % 6] for i in range(num_stays)],
                "part": [f"p{i % 2}" for i in range(num_stays)],
                "num_hours": pa.array([NUM_HOURS] * num_stays, pa.int32()),
                "age_years": pa.array([60.0] * num_stays, pa.float32()),
                "height_cm": pa.array([None] * num_stays, pa.float32()),
                "weight_kg": pa.array([80.0] * num_stays, pa.float32()),
                "intime": pa.array([ADMITTED] * num_stays, pa.timestamp("us")),
                "height_time": pa.array([None] * num_stays, pa.timestamp("us")),
                "weight_time": pa.array([ADMITTED + datetime.timedelta(hours=5)] + [None] * (num_stays - 1), pa.timestamp("us")),
                "sex": ["male"] * num_stays,
                "admission_type": pa.array([None] * num_stays, pa.string()),
                "care_unit": ["A" if i % 2 else "B" for i in range(num_stays)],
                **{name: pa.array([None] * num_stays, pa.bool_()) for name in FLAG_COLUMNS},
                **{name: pa.array([None] * num_stays, pa.timestamp("us")) for name in TIME_COLUMNS if name != "intime"},
            }
        )

    def write(self) -> Folder:
        for part in (0, 1):
            stay_ids = [i for i in range(self.stays.num_rows) if i % 2 == part]
            columns = {name: pa.array(values[stay_ids].ravel(), pa.float32(), from_pandas=True) for name, values in self.values.items()}
            keys = {
                "stay_id": pa.array(np.repeat(stay_ids, NUM_HOURS), pa.int64()),
                "hour": pa.array(np.tile(np.arange(NUM_HOURS), len(stay_ids)), pa.int32()),
            }
            self.folder.write_table(f"grid/p{part}.parquet", pa.table({**keys, **columns}))
            self.folder.write_table(f"history/p{part}.parquet", HISTORY_SCHEMA.empty_table())
        return self.folder

    def features(self, stay_id: int, hour: int) -> dict[str, float]:
        table = tabular_features(self.write(), self.stays, np.array([stay_id]), np.array([hour]))
        return dict(zip(table.names, table.x_NF[0].tolist(), strict=True))


def label_table(rows: list[tuple[int, int, float]], task: str) -> pa.Table:
    """Labels (stay, hour, label) of one task."""
    columns = [pa.array([row[i] for row in rows], kind) for i, kind in enumerate((pa.int64(), pa.int32(), pa.float32()))]
    names = pa.array([task] * len(rows)).cast(pa.string())
    return pa.table({"stay_id": columns[0], "task": names, "hour": columns[1], "label": columns[2]})
