"""What the latent adds, and how many patients' labels an input needs.

For every task with 0/1 labels, every share of the training patients and every estimator: figures of the hand-made features, of the
latents, and of both, at the prediction points of the risk tasks; then the paired differences from the features. Tuning and scored split
are whole at every share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.evaluation.added_value.fits import INPUTS, SEED, Estimator, fitted_scores, task_points
from clinjepa.evaluation.added_value.inputs import PointInputs, point_inputs
from clinjepa.evaluation.added_value.patients import drawn_patients, nested_subsets
from clinjepa.evaluation.added_value.result import AddedValueResult, InputDifference, ShareResult, TaskResult
from clinjepa.evaluation.comparisons import holm, paired_differences
from clinjepa.evaluation.downstream.prediction_points import Points, null_cell, prediction_points, score_cell, union, why_not
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.evaluation.settings import AddedValueSettings
from clinjepa.evaluation.space import Latents
from clinjepa.storage import Folder

MIN_CLASS_PATIENTS = 2
"""Fewest patients with a positive label, and with a negative one, of a share that a model is fitted on."""


@dataclass(frozen=True)
class AddedValueData:
    """What is read: the encoder's latents, the ingest artifact, its `stays.parquet`, and labels with stay_id, task, hour, label."""

    latents: Latents
    ingest: Folder
    stays: pa.Table
    labels: pa.Table


def evaluate_added_value(
    data: AddedValueData, tasks: Sequence[Task], settings: AddedValueSettings, num_threads: int = 1
) -> tuple[AddedValueResult, pa.Table]:
    """The result, and the predictions behind it (`clinjepa.evaluation.predictions`; the column is `input@share`).

    A task that the risk tasks cannot estimate, and a share with fewer than 2 patients of a class, have figures of None and a `reason`.

    Args:
        data: Latents, grid, stays and labels.
        tasks: Tasks to evaluate; those without 0/1 labels are left out.
        settings: Prediction points, shares, estimators and bootstrap.
        num_threads: Threads of a fit; the result does not depend on it.

    Raises:
        EvaluationError: A score is NaN or infinite.
        StoreError: The latents lack a stay.
    """
    return _Evaluation(data, tasks, settings, num_threads).run()


def column_name(name: str, share: float) -> str:
    """The column of an input at a share in the kept predictions: `both@0.1`."""
    return f"{name}@{share:g}"


class _Evaluation:
    def __init__(self, data: AddedValueData, tasks: Sequence[Task], settings: AddedValueSettings, num_threads: int) -> None:
        self.data, self.settings, self.num_threads = data, settings, num_threads
        self.split = settings.split
        self.tasks = [task for task in tasks if task.is_classification]
        self.points = {task.name: prediction_points(data.labels, data.stays, task, settings) for task in self.tasks}
        self.reasons = {name: why_not(points, self.split, settings.min_positives) for name, points in self.points.items()}
        self.drawn = drawn_patients(data.stays, settings.max_train_patients, SEED)
        self.subsets = nested_subsets(self.drawn, settings.shares)
        self.estimators = tuple(dict.fromkeys(settings.estimators))
        self.kept = KeptPredictions()

    def run(self) -> tuple[AddedValueResult, pa.Table]:
        """All tasks."""
        inputs, rows = self._inputs()
        tasks = {task.name: self._task(task, inputs, rows.get(task.name)) for task in self.tasks}
        self._adjust(tasks)
        return {"num_train_patients": len(self.drawn), "tasks": tasks}, self.kept.table()

    def _inputs(self) -> tuple[PointInputs | None, dict[str, tuple[Points, np.ndarray]]]:
        """Inputs at the points of the tasks that can be estimated; task -> its points with their rows. None where there is no such task."""
        names = [name for name, reason in self.reasons.items() if reason is None]
        if not names:
            return None, {}
        largest = self.subsets[max(self.subsets)]
        used = [self._used(self.points[name], largest) for name in names]
        stay_P, hour_P, found = union(used)
        inputs = point_inputs(self.data.ingest, self.data.stays, self.data.latents, stay_P, hour_P)
        return inputs, dict(zip(names, found, strict=True))

    def _used(self, points: Points, patients: np.ndarray) -> Points:
        """Points that some model is fitted on, chosen on or scored on."""
        learnt_N = (points.split_N == "train") & np.isin(points.subject_N, patients)
        return points.where(learnt_N | np.isin(points.split_N, ["tuning", self.split]))

    def _task(self, task: Task, inputs: PointInputs | None, own: tuple[Points, np.ndarray] | None) -> TaskResult:
        scored = self.points[task.name].of(self.split)
        shares: dict[str, ShareResult] = {}
        for share, patients in self.subsets.items():
            learnt = self._learnt(task.name, patients)
            reason = self.reasons[task.name] or _too_few(learnt, share)
            if reason is None and inputs is not None and own is not None:
                scores = self._scores(task, inputs, own, patients)
                shares[f"{share:g}"] = self._share(task.name, scored, learnt, scores, share)
            else:
                shares[f"{share:g}"] = self._null_share(scored, learnt, reason or "")
        return {
            "num_total": len(scored),
            "num_positive": scored.num_positive,
            "num_patients": len(np.unique(scored.subject_N)),
            "num_positive_patients": scored.num_positive_patients,
            "shares": shares,
        }

    def _learnt(self, task: str, patients: np.ndarray) -> Points:
        train = self.points[task].of("train")
        return train.where(np.isin(train.subject_N, patients))

    def _scores(
        self, task: Task, inputs: PointInputs, own: tuple[Points, np.ndarray], patients: np.ndarray
    ) -> dict[Estimator, dict[str, np.ndarray]]:
        one = task_points(task, *own, patients, self.split)
        return {
            estimator: {name: fitted_scores(estimator, one, inputs.table(name), self.num_threads) for name in INPUTS[estimator]}
            for estimator in self.estimators
        }

    def _share(
        self, task: str, scored: Points, learnt: Points, scores: dict[Estimator, dict[str, np.ndarray]], share: float
    ) -> ShareResult:
        found = _counts(learnt)
        num_bootstrap = self.settings.num_bootstrap
        for estimator, by_input in scores.items():
            for name, scores_N in by_input.items():
                self.kept.add(task, estimator, column_name(name, share), scored, scores_N)
                found["methods"].setdefault(estimator, {})[name] = score_cell(scored, scores_N, num_bootstrap, SEED)
            found["differences"][estimator] = _differences(scored, by_input, num_bootstrap)
        return found

    def _null_share(self, scored: Points, learnt: Points, reason: str) -> ShareResult:
        found = _counts(learnt)
        for estimator in self.estimators:
            found["methods"][estimator] = {name: null_cell(scored, reason) for name in INPUTS[estimator]}
            found["differences"][estimator] = {
                name: {"auroc": None, "auprc": None, "p_auroc": None, "p_holm": None, "reason": reason}
                for name in INPUTS[estimator]
                if name != "features"
            }
        return found

    def _adjust(self, tasks: dict[str, TaskResult]) -> None:
        """Holm's adjustment over the tasks, of each share, estimator and input by itself."""
        for share in self.subsets:
            for estimator in self.estimators:
                for name in INPUTS[estimator][1:]:
                    cells = {task: found["shares"][f"{share:g}"]["differences"][estimator][name] for task, found in tasks.items()}
                    adjusted = holm({task: cell["p_auroc"] for task, cell in cells.items()})
                    for task, cell in cells.items():
                        cell["p_holm"] = adjusted[task]


def _counts(learnt: Points) -> ShareResult:
    return {
        "num_train_patients": len(np.unique(learnt.subject_N)),
        "num_train_positive_patients": learnt.num_positive_patients,
        "num_train_points": len(learnt),
        "methods": {},
        "differences": {},
    }


def _too_few(learnt: Points, share: float) -> str | None:
    """Why nothing can be learnt from a share of the training patients; None where it can."""
    for kind, number in (("a positive", learnt.num_positive_patients), ("a negative", learnt.num_negative_patients)):
        if number < MIN_CLASS_PATIENTS:
            return f"{number} patients with {kind} label in {100 * share:g} % of the training patients; {MIN_CLASS_PATIENTS} are needed"
    return None


def _differences(scored: Points, scores: dict[str, np.ndarray], num_bootstrap: int) -> dict[str, InputDifference]:
    compared = partial(paired_differences, scored.label_N, scores, "features", scored.subject_N, num_bootstrap=num_bootstrap, seed=SEED)
    auroc, auprc = compared(measure="auroc"), compared(measure="auprc")
    found: dict[str, InputDifference] = {}
    for name, cell in auroc.items():
        found[name] = {
            "auroc": cell["difference"],
            "auprc": auprc[name]["difference"],
            "p_auroc": cell["p_value"],
            "p_holm": None,
        }
        if "interval_reason" in cell:
            found[name]["interval_reason"] = cell["interval_reason"]
    return found
