"""How frequent labels are: counts of each part by task and split, and their sums over all parts (`prevalence.json`).

For tasks with the switches-only rule also under both rules for a carried event (`Task.carried_event`), since the share of positive labels
differs between them. Counts are over all patients of a split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NotRequired, TypedDict, cast, get_args

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.clinical import CarriedEvent, Task
from clinjepa.trajectory.hours.split import SPLITS
from clinjepa.trajectory.labels.derived.state import DerivedState
from clinjepa.trajectory.labels.rules import hourly_labels

CarriedCounts = dict[str, dict[str, tuple[int, int]]]
"""Rule for a carried event -> split -> (number of labels, number of positive ones)."""


class LabelCounts(TypedDict):
    """Labels of one task in one split of one part. `sum`: of the labels' values."""

    num_labels: int
    num_positive: int
    num_patients: int
    num_positive_patients: int
    sum: float


class Prevalence(TypedDict):
    """Labels of one task in one split: share of positive labels of a classification, mean of a regression; None without labels."""

    num_labels: int
    num_patients: int
    num_positive: NotRequired[int]
    num_positive_patients: NotRequired[int]
    share_positive: NotRequired[float | None]
    mean: NotRequired[float | None]


class RulePrevalence(TypedDict):
    """Labels of one task in one split under one rule for a carried event."""

    num_labels: int
    num_positive: int
    share_positive: float | None


def count_labels(labels: pa.Table, stays: pl.DataFrame, tasks: list[Task]) -> dict[str, dict[str, LabelCounts]]:
    """task -> split -> counts of one part. Parts are patient-disjoint, so numbers of patients may be summed over parts."""
    names, lengths = task_runs(labels["task"])
    order = pl.Series("task", np.repeat(np.arange(len(names)), lengths))
    per_stay = (
        pl.DataFrame(labels.select(["stay_id", "label"]))
        .with_columns(order)
        .group_by("task", "stay_id")
        .agg(pl.len().alias("labels"), (pl.col("label") > 0.5).sum().alias("positive"), pl.col("label").cast(pl.Float64).sum().alias("sum"))
    )
    per_stay = per_stay.with_columns(pl.col("task").replace_strict(dict(enumerate(names)), return_dtype=pl.String)).sort("task", "stay_id")
    per_stay = per_stay.join(stays.select("stay_id", "subject_id", "split"), on="stay_id", how="left")
    counts = per_stay.group_by("task", "split").agg(
        pl.col("labels").sum().alias("num_labels"),
        pl.col("positive").sum().alias("num_positive"),
        pl.col("subject_id").n_unique().alias("num_patients"),
        pl.col("subject_id").filter(pl.col("positive") > 0).n_unique().alias("num_positive_patients"),
        pl.col("sum").sum(),
    )
    found = {(row.pop("task"), row.pop("split")): cast(LabelCounts, row) for row in counts.to_dicts()}
    return {task.name: {split: found[task.name, split] for split in SPLITS if (task.name, split) in found} for task in tasks}


def add_prevalence(parts: Sequence[dict[str, dict[str, LabelCounts]]], tasks: list[Task]) -> dict[str, dict[str, Prevalence]]:
    """task -> split -> number of labels and patients over all parts, and the share of positive labels or the mean label."""
    result: dict[str, dict[str, Prevalence]] = {}
    for task in tasks:
        result[task.name] = {}
        for split in SPLITS:
            counts = [part[task.name] for part in parts]
            result[task.name][split] = _sum_counts([one[split] for one in counts if split in one], task.is_classification)
    return result


def _sum_counts(rows: list[LabelCounts], is_classification: bool) -> Prevalence:
    num_labels, num_patients = sum(row["num_labels"] for row in rows), sum(row["num_patients"] for row in rows)
    mean = sum(row["sum"] for row in rows) / num_labels if num_labels else None
    if not is_classification:
        return {"num_labels": num_labels, "num_patients": num_patients, "mean": mean}
    return {
        "num_labels": num_labels,
        "num_positive": sum(row["num_positive"] for row in rows),
        "num_patients": num_patients,
        "num_positive_patients": sum(row["num_positive_patients"] for row in rows),
        "share_positive": mean,
    }


def carried_counts(task: Task, state: DerivedState, stays: pl.DataFrame) -> CarriedCounts:
    """Labels of a task with the switches-only rule under each rule for a carried event. stays: stay_id, split."""
    rows = state.rows
    number = {split: place for place, split in enumerate(SPLITS)}
    ordered = stays.sort("stay_id")
    splits = ordered["split"].replace_strict(number, default=len(SPLITS), return_dtype=pl.Int64).to_numpy()
    split_R = splits[np.searchsorted(ordered["stay_id"].to_numpy(), rows.stay_id_R)] if len(rows) else np.zeros(0, np.int64)
    counts: CarriedCounts = {}
    for rule in get_args(CarriedEvent):
        labels = hourly_labels(replace(task, carried_event=rule), state)
        known, positive = (np.bincount(split_R[mask], minlength=len(SPLITS)) for mask in (~np.isnan(labels), labels == 1))
        counts[rule] = {split: (int(known[place]), int(positive[place])) for split, place in number.items()}
    return counts


def add_carried(parts: Sequence[dict[str, CarriedCounts]], tasks: list[Task]) -> dict[str, dict[str, dict[str, RulePrevalence]]]:
    """task -> rule for a carried event -> split -> counts over all parts; only tasks with the switches-only rule."""
    found: dict[str, dict[str, dict[str, RulePrevalence]]] = {}
    for task in tasks:
        if not task.switches_only:
            continue
        found[task.name] = {
            rule: {split: _under_rule(parts, task.name, rule, split) for split in SPLITS} for rule in get_args(CarriedEvent)
        }
    return found


def _under_rule(parts: Sequence[dict[str, CarriedCounts]], task: str, rule: str, split: str) -> RulePrevalence:
    num_labels, num_positive = (sum(part[task][rule][split][place] for part in parts) for place in (0, 1))
    return {"num_labels": num_labels, "num_positive": num_positive, "share_positive": num_positive / num_labels if num_labels else None}


def task_runs(tasks: pa.ChunkedArray) -> tuple[list[str], list[int]]:
    """(tasks in row order, number of labels of each) of a part's task column."""
    if not len(tasks):
        return [], []
    runs = pc.run_end_encode(tasks.combine_chunks())
    return runs.values.to_pylist(), np.diff(runs.run_ends.to_numpy(), prepend=0).tolist()
