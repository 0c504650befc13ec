"""Counts over the hour grid."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import num_stays_with


def test_a_stay_counts_where_something_is_given_and_it_is_of_the_split(tmp_path: Path) -> None:
    """A rate of 0 gives nothing, a word gives something, a variable that no part has is in no stay."""
    ingest = Folder(tmp_path)
    ingest.write_table("stays.parquet", pa.table({"stay_id": [1, 2, 3, 4], "split": ["train"] * 3 + ["tuning"], "part": list("ppqq")}))
    rates = pa.array([0.0, None, 0.1, 0.2, 0.0, 0.3], pa.float32())
    words = pa.array([None, "CPAP", None, None, None, "BiPAP"])
    hours = {"hour": pa.array([0, 1] * 3, pa.int32()), "dopamine": rates, "ventilation_mode": words}
    ingest.write_table("grid/p.parquet", pa.table({"stay_id": [1, 1, 2, 2, 4, 4], **hours}))
    ingest.write_table("grid/q.parquet", pa.table({"stay_id": [3, 4], "hour": [0, 0], "dopamine": [0.5, 0.5]}))
    found = num_stays_with(ingest, "train", ["dopamine", "ventilation_mode", "esmolol"])
    assert found == {"dopamine": 2, "ventilation_mode": 1, "esmolol": 0}
    assert num_stays_with(ingest, "held_out", ["dopamine"]) == {"dopamine": 0}
