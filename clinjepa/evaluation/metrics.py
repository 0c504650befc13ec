"""Discrimination figures and their intervals: exact with ties, bootstrapped over patients.

A *figure* is {"value", "ci95": [lo, hi] | null, "num_patients", "num_seeds"}; what cannot be estimated is null, and the
dictionary that holds it has a `reason`. Intervals resample patients with all their stays and hours (1,000 draws,
percentile 95 %), because the rows of one patient are not independent; definitions follow docs/contracts.md section 9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

Figure = dict[str, Any]
_CHUNK_CELLS = 4_000_000
"""Draws times rows held at once while bootstrapping (32 MB of float64)."""


def figure(value: float, draws_R: np.ndarray | None, num_patients: int, num_seeds: int = 1) -> Figure:
    """One figure with the percentile 95 % interval of its bootstrap draws; draws that are not finite are left out.

    The interval is null when fewer than half of the draws could be computed (too few patients of one class).
    """
    interval = None
    if draws_R is not None:
        finite_R = draws_R[np.isfinite(draws_R)]
        if finite_R.size * 2 >= max(draws_R.size, 1) and finite_R.size > 1:
            interval = [float(bound) for bound in np.percentile(finite_R, [2.5, 97.5])]
    return {"value": float(value), "ci95": interval, "num_patients": int(num_patients), "num_seeds": int(num_seeds)}


def unknown(names: Sequence[str], reason: str) -> dict[str, Any]:
    """The named figures as nulls beside the reason why they cannot be estimated."""
    return {**dict.fromkeys(names), "reason": reason}


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
        return (counts_RP @ numerator_P) / (counts_RP @ denominator_P)


def auroc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Area under the ROC curve: P(score of a positive > score of a negative) + ½ P(equal). NaN without both classes."""
    return float(_Ranking(labels_N, scores_N).auroc(np.ones((1, len(labels_N))))[0])


def auprc(labels_N: np.ndarray, scores_N: np.ndarray) -> float:
    """Average precision: over distinct scores, from the highest, the recall gained times the precision there. NaN without positives."""
    return float(_Ranking(labels_N, scores_N).auprc(np.ones((1, len(labels_N))))[0])


def discrimination(
    labels_N: np.ndarray, scores_N: np.ndarray, subject_ids_N: np.ndarray, num_bootstrap: int, seed: int
) -> dict[str, Figure]:
    """AUROC and AUPRC with patient-level intervals; the caller has made sure that both classes are there."""
    index_N, num_patients = patient_index(subject_ids_N)
    ranking = _Ranking(labels_N, scores_N)
    counts_RP = patient_draws(num_patients, num_bootstrap, seed)
    rows = max(1, _CHUNK_CELLS // max(len(labels_N), 1))
    roc_parts, pr_parts = [], []
    for start in range(0, num_bootstrap, rows):
        weights_RN = counts_RP[start : start + rows][:, index_N]
        roc_parts.append(ranking.auroc(weights_RN))
        pr_parts.append(ranking.auprc(weights_RN))
    return {
        "auroc": figure(auroc(labels_N, scores_N), np.concatenate(roc_parts), num_patients),
        "auprc": figure(auprc(labels_N, scores_N), np.concatenate(pr_parts), num_patients),
    }


def combine_seeds(results: Sequence[Any]) -> Any:
    """One result from the equal-shaped results of several training seeds.

    Figures become the mean over the seeds that have them. The seeds are scored on the same patients, so the patients'
    part of the interval is the mean of theirs; the seeds' part, t(0.975) · sd / √seeds, is added in quadrature.
    Other numbers that differ become their mean; of other values the first is kept.
    """
    present = [result for result in results if result is not None]
    if not present:
        return None
    first = present[0]
    if _is_figure(first):
        return _combine_figures([result for result in present if _is_figure(result)])
    if isinstance(first, Mapping):
        names = list(dict.fromkeys(name for result in present if isinstance(result, Mapping) for name in result))
        combined = {name: combine_seeds([result.get(name) for result in present if isinstance(result, Mapping)]) for name in names}
        if "reason" in combined and all(value is not None for value in combined.values()):
            del combined["reason"]
        return combined
    if isinstance(first, int | float) and not isinstance(first, bool) and any(result != first for result in present):
        return float(np.mean(present))
    return first


class _Ranking:
    """Rows sorted by score once, tied scores as groups, so that every bootstrap draw is a cumulative sum."""

    def __init__(self, labels_N: np.ndarray, scores_N: np.ndarray) -> None:
        if len(labels_N) == 0 or len(labels_N) != len(scores_N):
            raise ValueError(f"labels and scores must be equally many and not none, got {len(labels_N)} and {len(scores_N)}")
        self.order_N = np.argsort(scores_N, kind="stable")
        sorted_N = np.asarray(scores_N)[self.order_N]
        self.starts_G = np.concatenate([[0], np.flatnonzero(sorted_N[1:] != sorted_N[:-1]) + 1])
        self.positive_N = (np.asarray(labels_N)[self.order_N] > 0.5).astype(np.float64)

    def groups(self, weights_RN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weight of positives and of negatives per distinct score, lowest first: two [R, G]."""
        sorted_RN = weights_RN[:, self.order_N]
        positive_RG = np.add.reduceat(sorted_RN * self.positive_N, self.starts_G, axis=1)
        return positive_RG, np.add.reduceat(sorted_RN, self.starts_G, axis=1) - positive_RG

    def auroc(self, weights_RN: np.ndarray) -> np.ndarray:
        positive_RG, negative_RG = self.groups(weights_RN)
        below_RG = np.cumsum(negative_RG, axis=1) - negative_RG
        with np.errstate(divide="ignore", invalid="ignore"):
            return (positive_RG * (below_RG + 0.5 * negative_RG)).sum(1) / (positive_RG.sum(1) * negative_RG.sum(1))

    def auprc(self, weights_RN: np.ndarray) -> np.ndarray:
        positive_RG, negative_RG = (group[:, ::-1] for group in self.groups(weights_RN))
        true_RG = np.cumsum(positive_RG, axis=1)
        all_RG = true_RG + np.cumsum(negative_RG, axis=1)
        precision_RG = np.divide(true_RG, all_RG, out=np.zeros_like(true_RG), where=all_RG > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (positive_RG * precision_RG).sum(1) / positive_RG.sum(1)


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "ci95", "num_patients", "num_seeds"} <= set(value)


def _combine_figures(figures: Sequence[Figure]) -> Figure:
    values = np.array([one["value"] for one in figures])
    mean, num_seeds = float(values.mean()), sum(one["num_seeds"] for one in figures)
    intervals = [(one["value"] - one["ci95"][0], one["ci95"][1] - one["value"]) for one in figures if one["ci95"] is not None]
    interval = None
    if len(intervals) == len(figures):
        below, above = np.mean(intervals, axis=0)
        spread = 0.0
        if len(figures) > 1:
            spread = float(scipy_stats.t.ppf(0.975, len(figures) - 1) * values.std(ddof=1) / np.sqrt(len(figures)))
        interval = [mean - float(np.hypot(below, spread)), mean + float(np.hypot(above, spread))]
    return {"value": mean, "ci95": interval, "num_patients": min(one["num_patients"] for one in figures), "num_seeds": num_seeds}
