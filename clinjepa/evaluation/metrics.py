"""AUROC and AUPRC, exact with ties, and the bootstrap over patients that every interval uses.

Intervals resample patients with all their stays and hours (percentile 95 %), because the rows of one patient are not independent.
Definitions: docs/contracts.md, section 9.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

import numpy as np

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.figures import MIN_INTERVAL_PATIENTS, Figure, figure

_CHUNK_CELLS = 4_000_000
"""Bootstrap draws times rows held in memory at once (32 MB of float64)."""


class Discrimination(TypedDict):
    """AUROC and AUPRC of one set of scores."""

    auroc: Figure
    auprc: Figure
    interval_reason: NotRequired[str]
    """Why the figures have no interval."""


def patient_draws(num_patients: int, num_draws: int, seed: int) -> np.ndarray:
    """counts_RP: how often each patient is drawn in each of `num_draws` resamplings with replacement (float64)."""
    rng = np.random.default_rng([seed, 0xB007])
    return rng.multinomial(num_patients, np.full(num_patients, 1.0 / num_patients), size=num_draws).astype(np.float64)


def patient_index(subject_ids_N: np.ndarray) -> tuple[np.ndarray, int]:
    """Rows numbered by patient: (index_N in 0…P−1, P)."""
    unique, index_N = np.unique(subject_ids_N, return_inverse=True)
    return index_N, len(unique)


def sums_by_patient(values_N: np.ndarray, index_N: np.ndarray, num_patients: int) -> np.ndarray:
    """Sum of `values_N` per patient: [P]."""
    return np.bincount(index_N, weights=values_N.astype(np.float64), minlength=num_patients)


def ratio_draws(numerator_P: np.ndarray, denominator_P: np.ndarray, counts_RP: np.ndarray) -> np.ndarray:
    """Bootstrap draws of sum(numerator) / sum(denominator); a mean is the ratio of a sum to a count. NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((counts_RP @ numerator_P) / (counts_RP @ denominator_P))


def auroc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ½ P(equal). NaN without both classes."""
    return float(Ranking(labels_N, scores_N).auroc(np.ones((1, len(labels_N))))[0])


def auprc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Average precision: over distinct scores, from the highest, the recall gained times the precision there. NaN without positives."""
    return float(Ranking(labels_N, scores_N).auprc(np.ones((1, len(labels_N))))[0])


def discrimination(labels_N: np.ndarray, scores_N: np.ndarray, subject_ids_N: np.ndarray, num_bootstrap: int, seed: int) -> Discrimination:
    """AUROC and AUPRC with patient-level 95 % intervals, or with an `interval_reason` where resampling patients can give none.

    Args:
        labels_N: Labels, 0 or 1; both must be present.
        scores_N: Finite scores; only their order counts.
        subject_ids_N: Patient of each row; patients are resampled.
        num_bootstrap: Number of resamplings.
        seed: Seed of the resamplings.

    Raises:
        EvaluationError: A score is NaN or infinite, a label is neither 0 nor 1, or a class is missing.
    """
    index_N, num_patients = patient_index(subject_ids_N)
    ranking = Ranking(labels_N, scores_N)
    if len(np.unique(labels_N)) < 2:
        raise EvaluationError(f"all {len(labels_N)} labels are of one class; AUROC and AUPRC need both")
    value = auroc(labels_N, scores_N)
    found: Discrimination = {
        "auroc": figure(value, None, num_patients),
        "auprc": figure(auprc(labels_N, scores_N), None, num_patients),
    }
    reason = interval_fault(labels_N, index_N)
    if reason is None and value in (0.0, 1.0):
        reason = "the classes are separated without an error: every resampling repeats the value, so an interval would have no width"
    if reason is not None:
        return {**found, "interval_reason": reason}
    counts_RP = patient_draws(num_patients, num_bootstrap, seed)
    return {
        "auroc": figure(value, ranking.over_draws("auroc", counts_RP, index_N), num_patients),
        "auprc": figure(found["auprc"]["value"], ranking.over_draws("auprc", counts_RP, index_N), num_patients),
    }


def interval_fault(labels_N: np.ndarray, index_N: np.ndarray) -> str | None:
    """Why resampling patients can give no interval: a class has rows of too few patients; else None.

    Args:
        labels_N: Labels, 0 or 1.
        index_N: Number of each row's patient.
    """
    for kind, of_class_N in (("a positive", labels_N == 1), ("a negative", labels_N == 0)):
        number = len(np.unique(index_N[of_class_N]))
        if number < MIN_INTERVAL_PATIENTS:
            return f"{number} patient with {kind} label: an interval over patients needs {MIN_INTERVAL_PATIENTS}"
    return None


def finite_scores(values: np.ndarray, name: str) -> np.ndarray:
    """`values` as an array. Raises EvaluationError, with the number but no value, when one of them is NaN or infinite."""
    values = np.asarray(values)
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise EvaluationError(
            f"{name} is NaN or infinite ({bad} of {values.size}): the encoder, the predictor or the probe diverged; "
            "look at the training losses, lower the learning rate and train again"
        )
    return values


class Ranking:
    """Rows sorted by score once, with tied scores as groups: each bootstrap draw is then a cumulative sum."""

    def __init__(self, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
        if len(labels_N) == 0 or len(labels_N) != len(scores_N):
            raise ValueError(f"labels and scores must be equally many and not none, got {len(labels_N)} and {len(scores_N)}")
        scores_N = finite_scores(scores_N, "a score")
        if not np.isin(labels_N, (0, 1)).all():
            raise EvaluationError("a label is neither 0 nor 1: only labelled prediction points can be scored")
        self.order_N = np.argsort(scores_N, kind="stable")
        sorted_N = np.asarray(scores_N)[self.order_N]
        self.starts_G = np.concatenate([[0], np.flatnonzero(sorted_N[1:] != sorted_N[:-1]) + 1])
        self.positive_N = (np.asarray(labels_N)[self.order_N] == 1).astype(np.float64)

    def groups(self, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of positives and of negatives per distinct score, lowest first: two [R, G]."""
        sorted_RN = weights_RN[:, self.order_N]
        positive_RG = np.add.reduceat(sorted_RN * self.positive_N, self.starts_G, axis=1)
        return positive_RG, np.add.reduceat(sorted_RN, self.starts_G, axis=1) - positive_RG

    def over_draws(self, measure: Literal["auroc", "auprc"], counts_RP: np.ndarray, index_N: np.ndarray) -> np.ndarray:
        """The measure in each resampling [R]; NaN where a class is missing in it.

        Args:
            measure: `auroc` or `auprc`.
            counts_RP: How often each patient is drawn in each resampling.
            index_N: Patient of each row.
        """
        rows = max(1, _CHUNK_CELLS // max(len(index_N), 1))
        of = {"auroc": self.auroc, "auprc": self.auprc}[measure]
        return np.concatenate([of(counts_RP[start : start + rows][:, index_N]) for start in range(0, len(counts_RP), rows)])

    def auroc(self, weights_RN: np.ndarray) -> np.ndarray:
        positive_RG, negative_RG = self.groups(weights_RN)
        below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((positive_RG * (below_RG + 0.5 * negative_RG)).sum(1) / (positive_RG.sum(1) * negative_RG.sum(1)))

    def auprc(self, weights_RN: np.ndarray) -> np.ndarray:
        positive_RG, negative_RG = (group[:, ::-1] for group in self.groups(weights_RN))
        true_RG = np.cumsum(positive_RG, axis=1)
        all_RG = true_RG + np.cumsum(negative_RG, axis=1)
        precision_RG = np.divide(true_RG, all_RG, out=np.zeros_like(true_RG), where=all_RG > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((positive_RG * precision_RG).sum(1) / positive_RG.sum(1))
