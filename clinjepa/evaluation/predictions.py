"""The scores behind every cell of a risk table, kept so that a curve, a calibration or a paired test can be made again.

One row is one prediction point under one method and one input column. Columns that `meds-evaluation` has, have its names and types, so that
rows of one cell are its input (docs/report.md has an example). Patients' ids are those of the ingest: keep the file where the data may be
kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.errors import StoreError
from clinjepa.evaluation.comparisons import Difference, holm, paired_differences
from clinjepa.evaluation.differences.over_tasks import MeanDifference, TaskScores, mean_differences
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.trajectory.hours.grid import HOUR_US

PREDICTIONS = "predictions.parquet"
_CELL = [("task", pa.string()), ("method", pa.string()), ("column", pa.string())]
_VALUES = [
    ("boolean_value", pa.bool_()),
    ("float_value", pa.float32()),
    ("predicted_boolean_value", pa.bool_()),
    ("predicted_boolean_probability", pa.float32()),
]
SCORES_SCHEMA = pa.schema(
    [*_CELL, ("stay_id", pa.int64()), ("subject_id", pa.int64()), ("hour", pa.int32()), *_VALUES, ("score", pa.float64())]
)
"""Kept scores before the time of their prediction is added (`with_times`)."""
PREDICTIONS_SCHEMA = pa.schema([*list(SCORES_SCHEMA)[:5], ("prediction_time", pa.timestamp("us")), *list(SCORES_SCHEMA)[5:]])
"""`predictions.parquet`. boolean_value, float_value: the label of a task with 0/1 labels or with numbers; the other is null,
and both are where the label is not known.
predicted_boolean_probability: of a positive label; null where a method's score is no log-odds. predicted_boolean_value: whether it is at
least 0.5. score: what the figures are computed from: higher means likelier positive; of a task with numbers, the predicted number."""
MEDS_COLUMNS = ("subject_id", "prediction_time", "boolean_value", "predicted_boolean_value", "predicted_boolean_probability")
"""The columns of `meds-evaluation` for binary tasks, in its order."""
_Name = TypeVar("_Name")
Meaning = Literal["log_odds", "order", "number"]
"""What a score is: log-odds of a positive label, a number that only orders points, or the predicted number of a regression task."""


class KeptPredictions:
    """Collects scores and makes the table of SCORES_SCHEMA."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(self, task: str, method: str, column: str, scored: Points, scores_N: np.ndarray, meaning: Meaning = "log_odds") -> None:
        """Add the scores [N] of the scored points of one cell. A label that is NaN is not known and becomes null."""
        num, scores_N = len(scored), scores_N.astype(np.float64)
        names = [pa.array([name] * num, pa.string()) for name in (task, method, column)]
        is_number = meaning == "number"
        unknown_N = np.isnan(scored.label_N)
        truth = pa.nulls(num, pa.bool_()) if is_number else pa.array(scored.label_N > 0.5, mask=unknown_N)
        number = pa.array(scored.label_N, pa.float32(), mask=unknown_N) if is_number else pa.nulls(num, pa.float32())
        probability = pa.array(_sigmoid(scores_N)) if meaning == "log_odds" else pa.nulls(num, pa.float32())
        values = [truth, number, pc.greater_equal(probability, 0.5), probability]
        self._tables.append(pa.table([*names, scored.stay_N, scored.subject_N, scored.hour_N, *values, scores_N], schema=SCORES_SCHEMA))

    def table(self) -> pa.Table:
        """All rows in the order in which they were added."""
        return pa.concat_tables(self._tables) if self._tables else SCORES_SCHEMA.empty_table()


def with_times(scores: pa.Table, stays: pa.Table) -> pa.Table:
    """The table of PREDICTIONS_SCHEMA. A point of hour h is predicted at the end of that hour, intime + (h + 1) h.

    Args:
        scores: a table of SCORES_SCHEMA.
        stays: stays with stay_id and intime.
    """
    intime = pc.take(stays["intime"].cast(pa.timestamp("us")), pc.index_in(scores["stay_id"], stays["stay_id"]))
    hours_us = pc.multiply(pc.cast(pc.add(scores["hour"], 1), pa.int64()), HOUR_US).cast(pa.duration("us"))
    return scores.add_column(scores.schema.get_field_index("hour"), "prediction_time", pc.add(intime, hours_us)).cast(PREDICTIONS_SCHEMA)


def of_a_run(tables: Iterable[tuple[str | None, int | None, pa.Table]]) -> pa.Table:
    """The predictions of a whole run as one table, with the training seed (null for baselines) after the method.

    Args:
        tables: (recipe, seed, table of PREDICTIONS_SCHEMA). A recipe's methods are called as in the report: `<recipe> · <probe>`.
    """
    found = []
    for recipe, seed, table in tables:
        method = table["method"] if recipe is None else pc.binary_join_element_wise(recipe, table["method"], " · ")
        named = table.set_column(table.schema.get_field_index("method"), "method", method)
        found.append(named.add_column(2, "seed", pa.array([seed] * table.num_rows, pa.int64())))
    return pa.concat_tables(found)


def _sigmoid(log_odds_N: np.ndarray) -> np.ndarray:
    """Probability, without overflow."""
    probability_N: np.ndarray = np.exp(-np.logaddexp(0.0, -log_odds_N)).astype(np.float32)
    return probability_N


def cell_predictions(table: pa.Table, method: str, column: str) -> pa.Table:
    """The rows of one method and one input column."""
    return table.filter(pc.and_(pc.equal(table["method"], method), pc.equal(table["column"], column)))


def compare_predictions(
    methods: Mapping[str, Sequence[pa.Table]], reference: str, num_bootstrap: int, seed: int = 0
) -> dict[str, dict[str, Difference]]:
    """{task: {method: its AUROC minus the reference's}} with Holm's p-values over all of them.

    Args:
        methods: {method: the `cell_predictions` of each of its training seeds}. With several seeds the mean over the seeds is compared.
        reference: The method that is subtracted; tasks that it has no predictions of, and those with numbers, are left out.
        num_bootstrap: Number of resamplings of patients, shared by all methods of a task.
        seed: Seed of the resamplings.

    Raises:
        StoreError: Two methods of a task scored different points.
    """
    found: dict[str, dict[str, Difference]] = {}
    for task in tasks_with(methods[reference][0], "boolean_value"):
        points, scores = task_scores(methods, reference, task)
        label_N = points["boolean_value"].to_numpy(zero_copy_only=False).astype(np.float64)
        subject_N = points["subject_id"].to_numpy()
        differences = paired_differences(label_N, scores, reference, subject_N, num_bootstrap=num_bootstrap, seed=seed)
        if differences:
            found[task] = differences
    family = holm({f"{task}\n{name}": one["p_value"] for task, of_task in found.items() for name, one in of_task.items()})
    for task, of_task in found.items():
        for name, one in of_task.items():
            one["p_holm"] = family[f"{task}\n{name}"]
    return found


def tasks_with(table: pa.Table, label: Literal["boolean_value", "float_value"]) -> list[str]:
    """Names of the tasks whose labels are 0 or 1 (`boolean_value`) or numbers (`float_value`), in the order of a table's rows."""
    names: list[str] = pc.unique(table.filter(pc.is_valid(table[label]))["task"]).to_pylist()
    return names


def task_scores(methods: Mapping[_Name, Sequence[pa.Table]], reference: _Name, task: str) -> tuple[pa.Table, dict[_Name, np.ndarray]]:
    """The points of a task (stay_id, subject_id, hour and both columns of labels; sorted by stay and hour) and the scores [S, N] of every
    method that has them. The arguments are those of `compare_predictions`.

    Raises:
        StoreError: Two methods scored different points.
    """
    points: pa.Table | None = None
    scores: dict[_Name, np.ndarray] = {}
    for name in (reference, *(name for name in methods if name != reference)):
        rows = [
            table.filter(pc.equal(table["task"], task)).sort_by([("stay_id", "ascending"), ("hour", "ascending")])
            for table in methods[name]
        ]
        if not all(table.num_rows for table in rows):
            continue
        keys = [table.select(["stay_id", "subject_id", "hour", "boolean_value", "float_value"]).combine_chunks() for table in rows]
        points = keys[0] if points is None else points
        if not all(key.equals(points) for key in keys):
            raise StoreError(f"{task}: {name} and {reference} scored different prediction points; run the evaluations again")
        scores[name] = np.stack([table["score"].to_numpy() for table in rows])
    assert points is not None
    return points, scores


def mean_over_tasks(
    methods: Mapping[str, Sequence[pa.Table]], reference: str, num_bootstrap: int, seed: int = 0
) -> dict[str, MeanDifference]:
    """{method: its mean AUROC over tasks minus the reference's}; the arguments are those of `compare_predictions`.

    Raises:
        StoreError: Two methods of a task scored different points.
    """
    tasks: dict[str, TaskScores] = {}
    for task in tasks_with(methods[reference][0], "boolean_value"):
        points, scores = task_scores(methods, reference, task)
        label_N = points["boolean_value"].to_numpy(zero_copy_only=False).astype(np.float64)
        tasks[task] = TaskScores(label_N, points["subject_id"].to_numpy(), scores)
    return mean_differences(tasks, reference, num_bootstrap=num_bootstrap, seed=seed)
