"""AUROC and AUPRC, exact with ties, log-loss, and the bootstrap over patients that every interval uses.

Intervals resample patients with all their stays and hours (percentile 95 %), because the rows of one patient are not independent.
Definitions: docs/contracts.md, section 9.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

import numpy as np
import scipy.sparse

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.figures import MIN_INTERVAL_PATIENTS, Figure, figure
from clinjepa.evaluation.finite import finite_scores as finite_scores

_CHUNK_CELLS = 4_000_000
"""Bootstrap draws times distinct scores held in memory at once (32 MB of float64)."""


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
    return float(Ranking(labels_N, scores_N).over_draws("auroc", np.ones((1, 1)), np.zeros(len(labels_N), dtype=np.int64))[0])


def auprc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Average precision: over distinct scores, from the highest, the recall gained times the precision there. NaN without positives."""
    return float(Ranking(labels_N, scores_N).over_draws("auprc", np.ones((1, 1)), np.zeros(len(labels_N), dtype=np.int64))[0])


def log_loss(labels_N: np.ndarray, log_odds_N: np.ndarray) -> float:
    """Mean negative log-likelihood of labels, 0 or 1, in nats."""
    with np.errstate(invalid="ignore"):  # NaN of a diverged model is never the best loss
        return float(np.mean(np.logaddexp(0.0, log_odds_N) - labels_N * log_odds_N))


def squared_error(labels_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """Mean squared difference of labels and predictions, in the label's unit squared."""
    with np.errstate(invalid="ignore", over="ignore"):  # of a diverged model, which is never the best
        return float(np.mean((predicted_N - labels_N) ** 2))


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


class Ranking:
    """AUROC and AUPRC of labelled scores in many draws of patients, exact with ties.

    Only the order of negatives against the K distinct scores of positives matters. A draw needs the weight of positives at these levels and
    that of negatives between them: sparse sums over the drawn patients, without sorting.
    """

    def __init__(self, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
        if len(labels_N) == 0 or len(labels_N) != len(scores_N):
            raise ValueError(f"labels and scores must be equally many and not none, got {len(labels_N)} and {len(scores_N)}")
        scores_N = finite_scores(scores_N, "a score")
        if not np.isin(labels_N, (0, 1)).all():
            raise EvaluationError("a label is neither 0 nor 1: only labelled prediction points can be scored")
        self.positive_N = np.asarray(labels_N) == 1
        levels_K, self._level_n = np.unique(scores_N[self.positive_N], return_inverse=True)
        self.num_levels = len(levels_K)
        self._places_n = {side: np.searchsorted(levels_K, scores_N[~self.positive_N], side=side) for side in ("left", "right")}

    def over_draws(self, measure: Literal["auroc", "auprc"], counts_RP: np.ndarray, index_N: np.ndarray) -> np.ndarray:
        """The measure in each resampling [R]; NaN where a class that it needs is missing in it.

        Args:
            measure: `auroc` or `auprc`.
            counts_RP: How often each patient is drawn in each resampling.
            index_N: Patient of each row.
        """
        present, index_N = np.unique(index_N, return_inverse=True)
        counts_PR = np.ascontiguousarray(counts_RP.T[present])
        of_positives_KP = _sums(self._level_n, index_N[self.positive_N], (self.num_levels, len(present)))
        sides = ("left", "right") if measure == "auroc" else ("right",)
        between_KP = sum(_sums(self._places_n[side], index_N[~self.positive_N], (self.num_levels + 1, len(present))) for side in sides)
        of = {"auroc": _auroc, "auprc": _auprc}[measure]
        at_once = max(1, _CHUNK_CELLS // (self.num_levels + 1))
        parts = (counts_PR[:, begin : begin + at_once] for begin in range(0, counts_PR.shape[1], at_once))
        return np.concatenate([of(of_positives_KP @ part_PR, between_KP @ part_PR) for part_PR in parts])


def _sums(place_n: np.ndarray, patient_n: np.ndarray, shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Number of rows of each patient at each place, as a sparse matrix."""
    return scipy.sparse.csr_array((np.ones(len(place_n)), (place_n, patient_n)), shape=shape)


def _auroc(positive_KR: np.ndarray, between_KR: np.ndarray) -> np.ndarray:
    """AUROC [R]. between_KR [K + 1, R]: twice the weight of negatives between the levels of positives, with ties half on each side."""
    below_KR = np.cumsum(between_KR, axis=0) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((positive_KR * below_KR[:-1]).sum(0) / (positive_KR.sum(0) * below_KR[-1]))


def _auprc(positive_KR: np.ndarray, between_KR: np.ndarray) -> np.ndarray:
    """Average precision [R]. between_KR [K + 1, R]: weight of negatives between the levels of positives, ties above the level."""
    true_KR = np.cumsum(positive_KR[::-1], axis=0)[::-1]
    all_KR = true_KR + np.cumsum(between_KR[:0:-1], axis=0)[::-1]
    precision_KR = np.divide(true_KR, all_KR, out=np.zeros_like(true_KR), where=all_KR > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((positive_KR * precision_KR).sum(0) / positive_KR.sum(0))
