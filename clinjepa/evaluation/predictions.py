"""The scores behind every cell of a risk table, kept so that a curve, a calibration or a paired test can be made again by anyone.

One row is one prediction point under one method and one input column. Patients' ids are those of the ingest: keep the file where the data
may be kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.errors import StoreError
from clinjepa.evaluation.comparisons import Difference, holm, paired_differences
from clinjepa.evaluation.downstream.prediction_points import Points

PREDICTIONS = "predictions.parquet"
PREDICTIONS_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("method", pa.string()),
        ("column", pa.string()),
        ("stay_id", pa.int64()),
        ("subject_id", pa.int64()),
        ("hour", pa.int32()),
        ("label", pa.int8()),
        ("score", pa.float64()),
    ]
)


class KeptPredictions:
    """Collects scores and makes the table of PREDICTIONS_SCHEMA."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, task: str, method: str, column: str, scored: Points, scores_N: np.ndarray) -> None:
        """The scores [N] of the scored points of one cell."""
        names = [pa.array([name] * len(scored), pa.string()) for name in (task, method, column)]
        points = [scored.stay_N, scored.subject_N, scored.hour_N, scored.label_N.astype(np.int8), scores_N.astype(np.float64)]
        self._tables.append(pa.table([*names, *points], schema=PREDICTIONS_SCHEMA))

    def table(self) -> pa.Table:
        """All rows in the order in which they were added."""
        return pa.concat_tables(self._tables) if self._tables else PREDICTIONS_SCHEMA.empty_table()


def cell_predictions(table: pa.Table, method: str, column: str) -> pa.Table:
    """The rows of one method and one input column."""
    return table.filter(pc.and_(pc.equal(table["method"], method), pc.equal(table["column"], column)))


def compare_predictions(
    methods: Mapping[str, Sequence[pa.Table]], reference: str, num_bootstrap: int, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """{task: {method: its AUROC minus the reference's}} with Holm's p-values over all of them.

    Args:
        methods: {method: the `cell_predictions` of each of its training seeds}. With several seeds the mean over the seeds is compared.
        reference: The method that is subtracted; tasks that it has no predictions of are left out.
        num_bootstrap: Number of resamplings of patients, shared by all methods of a task.
        seed: Seed of the resamplings.

    Raises:
        StoreError: Two methods of a task scored different points.
    """
    found: dict[str, dict[str, Difference]] = {}
    for task in dict.fromkeys(methods[reference][0]["task"].to_pylist()):
        points, scores = _task_scores(methods, reference, task)
        differences = paired_differences(
            points["label"].to_numpy(), scores, reference, points["subject_id"].to_numpy(), num_bootstrap=num_bootstrap, seed=seed
        )
        if differences:
            found[task] = differences
    family = holm({f"{task}\n{name}": one["p_value"] for task, of_task in found.items() for name, one in of_task.items()})
    for task, of_task in found.items():
        for name, one in of_task.items():
            one["p_holm"] = family[f"{task}\n{name}"]
    return found


def _task_scores(methods: Mapping[str, Sequence[pa.Table]], reference: str, task: str) -> tuple[pa.Table, dict[str, np.ndarray]]:
    """The points of a task and the scores [S, N] of every method that has them."""
    points: pa.Table | None = None
    scores: dict[str, np.ndarray] = {}
    for name in (reference, *(name for name in methods if name != reference)):
        rows = [
            table.filter(pc.equal(table["task"], task)).sort_by([("stay_id", "ascending"), ("hour", "ascending")])
            for table in methods[name]
        ]
        if not all(table.num_rows for table in rows):
            continue
        keys = [table.select(["stay_id", "subject_id", "hour", "label"]).combine_chunks() for table in rows]
        points = keys[0] if points is None else points
        if not all(key.equals(points) for key in keys):
            raise StoreError(f"{task}: {name} and {reference} scored different prediction points; run the evaluations again")
        scores[name] = np.stack([table["score"].to_numpy() for table in rows])
    assert points is not None
    return points, scores
