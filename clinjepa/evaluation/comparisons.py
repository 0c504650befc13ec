"""Differences between methods that scored the same prediction points: paired intervals, p-values over a family, equivalence.

All methods share the draws of the bootstrap over patients, so a difference has the interval of the difference and not that of two
independent figures: equal scores give exactly 0 [0, 0]. Sources: percentile bootstrap over clusters (Davison and Hinkley, 1997); Holm's
step-down adjustment (Scandinavian Journal of Statistics 6, 1979); non-inferiority and equivalence by the confidence interval (Schuirmann,
Journal of Pharmacokinetics and Biopharmaceutics 15, 1987; here with 95 % intervals, which is stricter than two tests at 5 %).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NotRequired, TypedDict

import numpy as np

from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.metrics import Ranking, interval_fault, patient_draws, patient_index

MARGIN = 0.005
"""A difference in AUROC or AUPRC that is smaller than this is of no importance."""

Measure = Literal["auroc", "auprc"]
NotBelow = Literal["not_below", "below", "cannot_tell"]
Equivalent = Literal["equivalent", "different", "cannot_tell"]


class Difference(TypedDict):
    """A method's figure minus the reference's, over the same points and patients."""

    difference: Figure
    p_value: float | None
    """Two-sided: of the hypothesis that the difference is 0, by inverting the interval. None without an interval."""
    p_holm: NotRequired[float | None]
    """The p-value adjusted over its family of tests (`holm`)."""
    single_seeds: list[float]
    """The difference of each training seed, as `seed_differences` pairs them; their spread is not in the interval."""
    num_positive: int
    num_total: int
    num_positive_patients: int
    interval_reason: NotRequired[str]
    """Why there is no interval."""


def paired_differences(
    labels_N: np.ndarray,
    scores: Mapping[str, np.ndarray],
    reference: str,
    subject_ids_N: np.ndarray,
    *,
    measure: Measure = "auroc",
    num_bootstrap: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """{method: its difference from the reference}, without the reference itself.

    Args:
        labels_N: Labels, 0 or 1, of N prediction points.
        scores: {method: scores [N], or [S, N] of S training seeds} of the same points in the same order. Seeds are averaged after the
            measure is taken, in every draw.
        reference: The method that is subtracted.
        subject_ids_N: Patient of each point; patients are resampled.
        measure: What is compared.
        num_bootstrap: Number of resamplings, shared by all methods.
        seed: Seed of the resamplings.

    Raises:
        EvaluationError: A score is NaN or infinite, or a label is neither 0 nor 1.
        KeyError: The reference has no scores.
    """
    index_N, num_patients = patient_index(subject_ids_N)
    once = np.ones((1, num_patients))
    counts_RP = np.concatenate([once, patient_draws(num_patients, num_bootstrap, seed)])
    seeds = {
        name: np.stack([Ranking(labels_N, scores_N).over_draws(measure, counts_RP, index_N) for scores_N in np.atleast_2d(of_SN)])
        for name, of_SN in scores.items()
    }
    drawn = {name: of_SR.mean(0) for name, of_SR in seeds.items()}
    reason = interval_fault(labels_N, index_N)
    positive_N = labels_N == 1
    found: dict[str, Difference] = {}
    for name, values_R in drawn.items():
        if name == reference:
            continue
        difference_R = values_R - drawn[reference]
        found[name] = {
            "difference": figure(difference_R[0], None if reason else difference_R[1:], num_patients, len(seeds[name])),
            "p_value": None if reason else two_sided_p(difference_R[1:]),
            "single_seeds": seed_differences(seeds[name][:, 0], seeds[reference][:, 0]),
            "num_positive": int(positive_N.sum()),
            "num_total": len(labels_N),
            "num_positive_patients": len(np.unique(index_N[positive_N])),
        }
        if reason:
            found[name]["interval_reason"] = reason
    return found


def seed_differences(own_S: np.ndarray, reference_S: np.ndarray) -> list[float]:
    """Seed by seed: each value minus that of the same seed of the reference.

    Where one of the two has a single value (a baseline), it is paired with every seed of the other. Where the numbers of seeds differ
    otherwise, seeds cannot be paired and the reference's mean is subtracted.
    """
    if len(own_S) != len(reference_S) and 1 not in (len(own_S), len(reference_S)):
        reference_S = np.atleast_1d(reference_S.mean())
    return [float(value) for value in own_S - reference_S]


def two_sided_p(draws_R: np.ndarray) -> float:
    """p-value of the hypothesis that the value behind R bootstrap draws is 0: twice the smaller share of draws on one side of 0, at most 1.

    Draws of exactly 0 count half on each side. The hypothesis is rejected at 5 % where the percentile 95 % interval excludes 0. Never below
    2 / (R + 1), since R draws cannot show less.
    """
    finite_R = draws_R[np.isfinite(draws_R)]
    ties = 0.5 * (finite_R == 0).sum()
    smaller = 1 + ties + min((finite_R < 0).sum(), (finite_R > 0).sum())
    return float(min(1.0, 2.0 * smaller / (len(finite_R) + 1)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's adjusted p-values of a family: below 0.05 each holds with a family-wise error of 5 %.

    A test without a p-value stays without one and does not count in the family.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    largest = 0.0
    for rank, (p, name) in enumerate(known):
        largest = max(largest, min(1.0, (len(known) - rank) * p))
        adjusted[name] = largest
    return adjusted


def not_below(difference: Figure, margin: float = MARGIN) -> NotBelow:
    """Whether a method is not worse than the reference by more than `margin`, by the 95 % interval of the difference."""
    if difference["ci95"] is None:
        return "cannot_tell"
    low, high = difference["ci95"]
    if low >= -margin:
        return "not_below"
    return "below" if high < -margin else "cannot_tell"


def equivalence(difference: Figure, margin: float = MARGIN) -> Equivalent:
    """Whether two methods differ by no more than `margin` in either direction, by the 95 % interval of the difference."""
    if difference["ci95"] is None:
        return "cannot_tell"
    low, high = difference["ci95"]
    if -margin <= low and high <= margin:
        return "equivalent"
    return "different" if low > margin or high < -margin else "cannot_tell"
