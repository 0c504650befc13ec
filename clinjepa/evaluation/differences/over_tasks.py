"""The mean over tasks of the difference between two methods, paired: one draw of patients serves every task.

A patient who is in several tasks is resampled in all of them together, so the interval is that of the mean. A draw in which some task has
one class alone is left out. Definition of the mean: Clin-JEPA (arXiv 2605.10840) reports the plain mean of AUROC over a track's tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from clinjepa.evaluation.comparisons import Measure, seed_differences, two_sided_p
from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.metrics import Ranking, interval_fault, patient_draws


class TaskScores(NamedTuple):
    """Scores of several methods on the N points of one task: labels, patients, and method -> scores [S, N] of S training seeds.

    Labels are 0 or 1; in a task with numbers, labels and scores are numbers in the label's unit.
    """

    label_N: np.ndarray
    subject_N: np.ndarray
    scores: Mapping[str, np.ndarray]


class MeanDifference(TypedDict):
    """A method's mean over tasks minus the reference's."""

    difference: Figure
    p_value: float | None
    """Two-sided, by inverting the interval; None without an interval."""
    num_tasks: int
    interval_reason: NotRequired[str]
    """Why there is no interval."""


def mean_differences(
    tasks: Mapping[str, TaskScores], reference: str, *, measure: Measure = "auroc", num_bootstrap: int = 1000, seed: int = 0
) -> dict[str, MeanDifference]:
    """{method: its mean over tasks minus the reference's}, over the tasks that both have.

    Args:
        tasks: Scores by task; within a task all methods have the same points.
        reference: The method that is subtracted.
        measure: What is compared.
        num_bootstrap: Number of resamplings of patients, shared by all tasks and methods.
        seed: Seed of the resamplings.

    Raises:
        EvaluationError: A score is NaN or infinite, or a label is neither 0 nor 1.
    """
    usable = {name: task for name, task in tasks.items() if reference in task.scores and len(np.unique(task.label_N)) == 2}
    if not usable:
        return {}
    patients_P = np.unique(np.concatenate([task.subject_N for task in usable.values()]))
    counts_RP = np.concatenate([np.ones((1, len(patients_P))), patient_draws(len(patients_P), num_bootstrap, seed)])
    drawn = {name: _drawn(task, measure, counts_RP, patients_P) for name, task in usable.items()}
    faults = {name: interval_fault(task.label_N, np.searchsorted(patients_P, task.subject_N)) for name, task in usable.items()}
    found: dict[str, MeanDifference] = {}
    for method in dict.fromkeys(name for task in usable.values() for name in task.scores if name != reference):
        common = [name for name in usable if method in drawn[name]]
        difference_R = np.mean([drawn[name][method].mean(0) - drawn[name][reference].mean(0) for name in common], axis=0)
        fault = next((f"{name}: {faults[name]}" for name in common if faults[name]), None)
        num_patients = len(np.unique(np.concatenate([usable[name].subject_N for name in common])))
        num_seeds = min(len(drawn[name][method]) for name in common)
        found[method] = {
            "difference": figure(difference_R[0], None if fault else difference_R[1:], num_patients, num_seeds),
            "p_value": None if fault else two_sided_p(difference_R[1:]),
            "num_tasks": len(common),
        }
        by_seed = _by_seed([(drawn[name][method][:, 0], drawn[name][reference][:, 0]) for name in common])
        if len(by_seed) > 1:
            found[method]["difference"]["seeds"] = by_seed
        if fault:
            found[method]["interval_reason"] = fault
    return found


def _drawn(task: TaskScores, measure: Measure, counts_RP: np.ndarray, patients_P: np.ndarray) -> dict[str, np.ndarray]:
    """Method -> the measure of every seed in the estimate and in every draw [S, 1 + R]."""
    index_N = np.searchsorted(patients_P, task.subject_N)
    found = {}
    for name, of_SN in task.scores.items():
        by_seed = [Ranking(task.label_N, scores_N).over_draws(measure, counts_RP, index_N) for scores_N in np.atleast_2d(of_SN)]
        found[name] = np.stack(by_seed)
    return found


def _by_seed(tasks: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """The mean over tasks of each seed's difference, from (the method's, the reference's) values by seed of every task.

    Empty where the tasks have other numbers of seeds.
    """
    differences = [seed_differences(*pair) for pair in tasks]
    same = len({len(each) for each in differences}) == 1
    return [float(value) for value in np.mean(differences, axis=0)] if same else []
