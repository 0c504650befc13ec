"""The prediction points of a task and the cells of its table. All methods of a row share points and patients.

A point is (stay, hour h): the prediction is made at intime + (h + 1) h from hours 0…h only. Hourly tasks are predicted every
`hourly_stride` hours from `min_history_hours` on; tasks of the whole stay once, at the hour of their label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import Task
from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.metrics import discrimination


class Cell(TypedDict):
    """One cell of a task's table: figures of one method and input, with the labels that they rest on."""

    auroc: Figure | None
    auprc: Figure | None
    reason: NotRequired[str]
    """Why the figures are None."""
    interval_reason: NotRequired[str]
    """Why the figures have no interval."""
    cut: NotRequired[str]
    """What of the inputs was cut to hours that training could reach."""
    num_positive: int
    num_total: int
    num_positive_patients: int


class PointSettings(Protocol):
    """Where hourly tasks are predicted (`evaluation.downstream`)."""

    @property
    def min_history_hours(self) -> int: ...
    @property
    def hourly_stride(self) -> int: ...


MethodTable = dict[str, Cell]
"""{input column: cell} of one method."""
TaskTables = dict[str, dict[str, MethodTable]]
"""{task: {method: {input column: cell}}}, the result of an evaluation."""


@dataclass(frozen=True)
class Points:
    """Prediction points, sorted by (stay, hour): stay_N int64, hour_N int32, label_N, subject_N, split_N. A label is 0 or 1,
    or a number where the task is a regression; NaN where it is not known."""

    stay_N: np.ndarray
    hour_N: np.ndarray
    label_N: np.ndarray
    subject_N: np.ndarray
    split_N: np.ndarray

    def __len__(self) -> int:
        return len(self.stay_N)

    def where(self, mask_N: np.ndarray) -> Points:
        return Points(self.stay_N[mask_N], self.hour_N[mask_N], self.label_N[mask_N], self.subject_N[mask_N], self.split_N[mask_N])

    def of(self, split: str) -> Points:
        """The points of one split."""
        return self.where(self.split_N == split)

    @property
    def num_positive(self) -> int:
        return int((self.label_N > 0.5).sum())

    @property
    def num_positive_patients(self) -> int:
        return len(np.unique(self.subject_N[self.label_N > 0.5]))

    @property
    def num_negative_patients(self) -> int:
        return len(np.unique(self.subject_N[self.label_N <= 0.5]))


def prediction_points(labels: pa.Table, stays: pa.Table, task: Task, settings: PointSettings) -> Points:
    """The points of a task, with patient and split.

    Args:
        labels: Label table with stay_id, task, hour, label.
        stays: Stays with stay_id, subject_id, split, num_hours. Labels of other stays, and beyond a stay's end, are left out.
        task: The task whose labels are taken.
        settings: First hour and stride of hourly tasks.
    """
    rows = labels.filter(pc.equal(labels["task"].cast(pa.string()), task.name)).select(["stay_id", "hour", "label"])
    joined = rows.join(stays.select(["stay_id", "subject_id", "split", "num_hours"]), "stay_id", join_type="inner")
    joined = joined.sort_by([("stay_id", "ascending"), ("hour", "ascending")])
    hour_N = joined["hour"].to_numpy().astype(np.int32)
    kept_N = hour_N < joined["num_hours"].to_numpy()
    if task.is_hourly:
        kept_N &= on_stride(hour_N, settings)
    return Points(
        joined["stay_id"].to_numpy(),
        hour_N,
        joined["label"].to_numpy().astype(np.float64),
        joined["subject_id"].to_numpy(),
        np.asarray(joined["split"].to_pylist(), dtype=object),
    ).where(kept_N)


def on_stride(hour_N: np.ndarray, settings: PointSettings) -> np.ndarray:
    """Hours at which hourly tasks are predicted."""
    first = settings.min_history_hours - 1
    return np.asarray((hour_N >= first) & ((hour_N - first) % settings.hourly_stride == 0))


def union(several: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, list[tuple[Points, np.ndarray]]]:
    """The distinct (stay, hour) of several tasks, sorted: stay_N, hour_N, and for each task its points with their rows in these arrays."""
    pairs_N2 = np.unique(np.concatenate([np.stack([one.stay_N, one.hour_N.astype(np.int64)], axis=1) for one in several]), axis=0)
    place = {pair: row for row, pair in enumerate(map(tuple, pairs_N2.tolist()))}
    rows = [(one, np.array([place[pair] for pair in zip(one.stay_N.tolist(), one.hour_N.tolist(), strict=True)])) for one in several]
    return pairs_N2[:, 0], pairs_N2[:, 1], rows


def why_not(points: Points, split: str, min_positives: int) -> str | None:
    """Why a task cannot be estimated, or None: too few patients of a class in train or `split`, or no points in tuning."""
    for name in ("train", split):
        if (reason := too_few_of_a_class(points, name, min_positives)) is not None:
            return reason
    if not len(points.of("tuning")):
        return "no prediction points in tuning to choose a model on"
    return None


def too_few_of_a_class(points: Points, split: str, min_positives: int) -> str | None:
    """Which class has too few patients in a split, as a sentence; None where both have enough."""
    part = points.of(split)
    for kind, number in (("a positive", part.num_positive_patients), ("a negative", part.num_negative_patients)):
        if number < min_positives:
            return f"{number} patients with {kind} label in {split}; at least {min_positives} are needed"
    return None


def score_cell(scored: Points, scores_N: np.ndarray, num_bootstrap: int, seed: int) -> Cell:
    """A cell with AUROC and AUPRC of `scores_N` at the scored points and their patient-level intervals.

    Args:
        scored: Points with labels of both classes.
        scores_N: One score per point; higher means more likely positive.
        num_bootstrap: Number of resamplings of the patients.
        seed: Seed of the resamplings.
    """
    found = discrimination(scored.label_N, scores_N, scored.subject_N, num_bootstrap, seed)
    cell: Cell = {
        "auroc": found["auroc"],
        "auprc": found["auprc"],
        "num_positive": scored.num_positive,
        "num_total": len(scored),
        "num_positive_patients": scored.num_positive_patients,
    }
    if "interval_reason" in found:
        cell["interval_reason"] = found["interval_reason"]
    return cell


def null_cell(scored: Points, reason: str) -> Cell:
    """A cell that cannot be estimated: its figures are None, the counts are those of the scored points."""
    return {
        "auroc": None,
        "auprc": None,
        "reason": reason,
        "num_positive": scored.num_positive,
        "num_total": len(scored),
        "num_positive_patients": scored.num_positive_patients,
    }
