"""How matched pairs move in the native latent space from t0 to t0 + k: ratios, shares, permutation tests, correlation with severity.

`centroid_ratio.py` has the ratio of the centroids. The permutation tests swap the two sides of whole groups of pairs: pairs are matched on
t0 and remaining stay, so if deterioration changes nothing the two sides are exchangeable, and the p-values are uniform (Good, Permutation
Tests, 2000). Groups are pairs that share no patient with another group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from scipy import stats as scipy_stats

from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.geometry.centroid_ratio import centroid_ratio, group_sums
from clinjepa.evaluation.geometry.cohorts import Pair, pair_groups
from clinjepa.evaluation.geometry.severity import Severity
from clinjepa.evaluation.metrics import patient_draws, ratio_draws
from clinjepa.evaluation.space import Latents

MIN_PAIRS = 5
"""Fewer matched pairs than this, or fewer groups without a common patient, give no ratio."""
TIE = 1e-12
"""Statistics of permutations that differ by less than this share of the largest count as equal."""


class Coherence(TypedDict):
    """Share of the stays' mean squared displacement that all stays have in common: 0 all directions, 1 one movement for all."""

    deteriorating: Figure
    stable: Figure


class Movement(TypedDict):
    """Displacement from t0 to t0 + k of the deteriorating over that of the stable; intervals are over patients."""

    ratio: Figure | None
    """Length of the mean displacement vectors without the part of noise (`centroid_ratio`), with its interval."""
    plain_ratio: NotRequired[Figure]
    """The same with the noise, for comparison with other work; without an interval."""
    mean_displacement_ratio: Figure | None
    """Means of the stays' own L1 displacements, with a bootstrap."""
    farther_share: NotRequired[Figure]
    """Share of pairs whose deteriorating stay moves farther (L2; equal distances count half). 0.5 without a difference."""
    coherence: NotRequired[Coherence]
    p_length: NotRequired[float]
    """Permutation test, two-sided: both centroids move equally far."""
    p_vector: NotRequired[float]
    """Permutation test: both centroids have the same displacement, direction included."""
    p_farther: NotRequired[float]
    """Permutation test, two-sided: the stays themselves move equally far (mean L2)."""
    reason: NotRequired[str]
    """Why `ratio` is None."""
    interval_reason: NotRequired[str]
    """Why `ratio` has no interval."""


class SeverityCorrelation(TypedDict):
    """Spearman correlations over the stays of the pairs, k hours from t0; None with a reason."""

    distance: Figure | None
    """L2 displacement with the size of the change in SOFA."""
    along_axis: Figure | None
    """Displacement along the axis from the stable to the deteriorating centroid, with the change in SOFA. The axis is that of the other
    groups of pairs."""
    num_stays: int
    reason: NotRequired[str]


@dataclass(frozen=True)
class Displacements:
    """Displacement vectors [P, D] of both sides of P pairs, and the group of each pair."""

    moved_PD: np.ndarray
    stable_PD: np.ndarray
    group_P: np.ndarray
    num_patients: int

    @classmethod
    def of(cls, latents: Latents, pairs: Sequence[Pair], k_hours: int, subjects: Mapping[int, int]) -> Displacements:
        """Of pairs that last beyond t0 + k. subjects: patient of each stay."""
        return cls(
            _displacements(latents, [(pair.deteriorating, pair.t0) for pair in pairs], k_hours),
            _displacements(latents, [(pair.stable, pair.t0) for pair in pairs], k_hours),
            pair_groups(pairs, subjects),
            len({subjects[stay_id] for pair in pairs for stay_id in (pair.deteriorating, pair.stable)}),
        )

    @property
    def num_groups(self) -> int:
        return int(self.group_P.max()) + 1

    def sums(self, moved_P: np.ndarray, stable_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sums by group of one number per pair and side: two [G]."""
        return group_sums(moved_P[:, None], self.group_P)[:, 0], group_sums(stable_P[:, None], self.group_P)[:, 0]


def pair_movement(
    latents: Latents, pairs: Sequence[Pair], k_hours: int, subjects: Mapping[int, int], num_bootstrap: int, seed: int
) -> Movement:
    """How the two sides of matched pairs move; `ratio` is None, with a reason, where it cannot be estimated.

    A patient may be in several pairs. Therefore groups of pairs that share no patient with another group are resampled, swapped or left
    out.

    Args:
        latents: Latents of the pairs' stays.
        pairs: Pairs that last beyond t0 + k.
        k_hours: Hours of the displacement.
        subjects: Patient of each stay.
        num_bootstrap: Number of resamplings of the groups, and of permutations.
        seed: Seed of both.
    """
    if len(pairs) < MIN_PAIRS:
        return _unknown(f"{len(pairs)} matched pairs last {k_hours} h beyond t0; at least {MIN_PAIRS} are needed")
    num_groups = len(set(pair_groups(pairs, subjects).tolist()))
    if num_groups < MIN_PAIRS:
        return _unknown(f"{len(pairs)} matched pairs of {num_groups} groups without a common patient; {MIN_PAIRS} are needed")
    moves = Displacements.of(latents, pairs, k_hours, subjects)
    if not moves.stable_PD.any():
        return _unknown("the stable cohort does not move at all: the latent space has collapsed")
    return {**_ratios(moves, num_bootstrap, seed), **_tests(moves, num_bootstrap, seed)}


def _ratios(moves: Displacements, num_bootstrap: int, seed: int) -> Movement:
    counts_RG = patient_draws(moves.num_groups, num_bootstrap, seed)
    moved_G, stable_G = moves.sums(np.abs(moves.moved_PD).sum(1), np.abs(moves.stable_PD).sum(1))
    further_P = np.sign(_lengths(moves.moved_PD) - _lengths(moves.stable_PD)) / 2 + 0.5
    further_G, pairs_G = moves.sums(further_P, np.ones(len(further_P)))
    moved_GD, stable_GD = (group_sums(side_PD, moves.group_P) for side_PD in (moves.moved_PD, moves.stable_PD))
    found: Movement = {
        "ratio": None,
        "plain_ratio": figure(float(np.linalg.norm(moved_GD.sum(0)) / np.linalg.norm(stable_GD.sum(0))), None, moves.num_patients),
        "mean_displacement_ratio": figure(moved_G.sum() / stable_G.sum(), ratio_draws(moved_G, stable_G, counts_RG), moves.num_patients),
        "farther_share": figure(float(further_P.mean()), ratio_draws(further_G, pairs_G, counts_RG), moves.num_patients),
        "coherence": {"deteriorating": coherence(moves.moved_PD, moves), "stable": coherence(moves.stable_PD, moves)},
    }
    value, interval = centroid_ratio(moved_GD, stable_GD)
    if not np.isfinite(value):
        found["reason"] = "the stable stays' mean displacement cannot be told from noise, so nothing can be divided by it"
        return found
    found["ratio"] = {**figure(value, None, moves.num_patients), "ci95": None if interval is None else list(interval)}
    if interval is None:
        found["interval_reason"] = "the stable stays' mean displacement is too near to noise: the ratio has no upper bound"
    return found


def coherence(side_PD: np.ndarray, moves: Displacements) -> Figure:
    """Squared length of the mean displacement, as the mean of xᵢ·xⱼ over different groups, over the mean squared length of one stay's.

    The interval is the jackknife's over groups, with Student's t. A share below 0 can come out where nothing is in common.
    """
    num_G = np.bincount(moves.group_P)
    sums_GD = group_sums(side_PD, moves.group_P)
    squares_G = group_sums((side_PD**2).sum(1, keepdims=True), moves.group_P)[:, 0]
    own_G, with_all_G = (sums_GD**2).sum(1), sums_GD @ sums_GD.sum(0)
    products, pairs, squares, number = with_all_G.sum() - own_G.sum(), num_G.sum() ** 2 - (num_G**2).sum(), squares_G.sum(), num_G.sum()
    value = products / pairs / (squares / number)
    without_G = (products - 2 * (with_all_G - own_G)) / (pairs - 2 * num_G * (number - num_G))
    without_G = without_G / ((squares - squares_G) / (number - num_G))
    groups = len(num_G)
    half = scipy_stats.t.ppf(0.975, groups - 1) * np.sqrt((groups - 1) / groups * ((without_G - without_G.mean()) ** 2).sum())
    found = figure(value, None, moves.num_patients)
    return {**found, "ci95": [float(value - half), float(value + half)]} if np.isfinite(half) else found


class _Tests(TypedDict):
    p_length: float
    p_vector: float
    p_farther: float


def _tests(moves: Displacements, num_permutations: int, seed: int) -> _Tests:
    """p-values of the exchange of both sides, by swapping groups with probability ½."""
    moved_GD, stable_GD = (group_sums(side_PD, moves.group_P) for side_PD in (moves.moved_PD, moves.stable_PD))
    both_GD, apart_GD = moved_GD + stable_GD, moved_GD - stable_GD
    signs_RG = np.random.default_rng([seed, 0x9E7]).choice([-1.0, 1.0], size=(num_permutations, moves.num_groups))
    # ‖Σ moved‖² − ‖Σ stable‖² without the terms of one group with itself = Σ_g sign_g · apart_g · (Σ both − both_g)
    length_G = (apart_GD * (both_GD.sum(0) - both_GD)).sum(1)
    farther_G = np.subtract(*moves.sums(_lengths(moves.moved_PD), _lengths(moves.stable_PD)))
    return {
        "p_length": permutation_p(abs(length_G.sum()), np.abs(signs_RG @ length_G)),
        "p_vector": permutation_p(float((apart_GD.sum(0) ** 2).sum()), ((signs_RG @ apart_GD) ** 2).sum(1)),
        "p_farther": permutation_p(abs(farther_G.sum()), np.abs(signs_RG @ farther_G)),
    }


def permutation_p(observed: float, permuted_R: np.ndarray) -> float:
    """(1 + permutations with a statistic at least as large) / (1 + R): never above its level too often, whatever R is."""
    at_least = permuted_R >= observed - TIE * max(abs(observed), float(np.abs(permuted_R).max(initial=0.0)))
    return float((1 + at_least.sum()) / (1 + len(permuted_R)))


def severity_correlation(
    latents: Latents,
    pairs: Sequence[Pair],
    k_hours: int,
    subjects: Mapping[int, int],
    severity: Severity,
    num_bootstrap: int,
    seed: int,
) -> SeverityCorrelation:
    """Spearman correlation of displacements with the change in SOFA over the same hours, of the stays of pairs.

    Args:
        latents: Latents of the pairs' stays.
        pairs: Pairs that last beyond t0 + k.
        k_hours: Hours of the displacement.
        subjects: Patient of each stay.
        severity: SOFA by hour of each stay.
        num_bootstrap: Number of resamplings of the groups of pairs.
        seed: Seed of the resamplings.
    """
    if not pairs or len(set(pair_groups(pairs, subjects).tolist())) < MIN_PAIRS:
        return {"distance": None, "along_axis": None, "num_stays": 0, "reason": f"fewer than {MIN_PAIRS} pairs without a common patient"}
    moves = Displacements.of(latents, pairs, k_hours, subjects)
    change_N = np.array([_sofa_change(severity, pair.deteriorating, pair.t0, k_hours) for pair in pairs])
    change_N = np.append(change_N, [_sofa_change(severity, pair.stable, pair.t0, k_hours) for pair in pairs])
    group_N = np.append(moves.group_P, moves.group_P)
    distance_N = np.append(_lengths(moves.moved_PD), _lengths(moves.stable_PD))
    along_N = _along_axis_of_others(moves)
    known_N = ~np.isnan(change_N)
    change_N, group_N, distance_N, along_N = (values[known_N] for values in (change_N, group_N, distance_N, along_N))
    counts_RG = patient_draws(moves.num_groups, num_bootstrap, seed)
    found: SeverityCorrelation = {
        "distance": _spearman(distance_N, np.abs(change_N), group_N, counts_RG, moves.num_patients),
        "along_axis": _spearman(along_N, change_N, group_N, counts_RG, moves.num_patients),
        "num_stays": len(change_N),
    }
    if found["distance"] is None or found["along_axis"] is None:
        found["reason"] = "SOFA is unknown at t0 or t0 + k, or its change is the same in all stays"
    return found


def _along_axis_of_others(moves: Displacements) -> np.ndarray:
    """Displacements along the axis between both centroids [2P], deteriorating first; a pair's own group is left out of its axis."""
    apart_GD = group_sums(moves.moved_PD - moves.stable_PD, moves.group_P)
    axis_GD = apart_GD.sum(0) - apart_GD
    axis_GD /= np.maximum(np.linalg.norm(axis_GD, axis=1, keepdims=True), 1e-12)
    axis_PD = axis_GD[moves.group_P]
    return np.append((moves.moved_PD * axis_PD).sum(1), (moves.stable_PD * axis_PD).sum(1))


def _spearman(x_N: np.ndarray, y_N: np.ndarray, group_N: np.ndarray, counts_RG: np.ndarray, num_patients: int) -> Figure | None:
    """Rank correlation with a bootstrap over groups; None without spread."""
    value = float(spearman(x_N, y_N, np.ones((1, len(x_N))))[0])
    return figure(value, spearman(x_N, y_N, counts_RG[:, group_N]), num_patients) if np.isfinite(value) else None


def spearman(x_N: np.ndarray, y_N: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation [R] with mean ranks for ties, where row n stands times_RN[r, n] times; NaN without spread."""
    if len(x_N) == 0:
        return np.full(len(times_RN), np.nan)
    total_R = times_RN.sum(1, keepdims=True)
    ranks = [_mean_ranks(values_N, times_RN) for values_N in (x_N, y_N)]
    with np.errstate(divide="ignore", invalid="ignore"):
        x_RN, y_RN = (rank_RN - (times_RN * rank_RN).sum(1, keepdims=True) / total_R for rank_RN in ranks)
        spread_R = np.sqrt((times_RN * x_RN**2).sum(1) * (times_RN * y_RN**2).sum(1))
        return np.where(spread_R > TIE * total_R[:, 0], (times_RN * x_RN * y_RN).sum(1) / spread_R, np.nan)


def _mean_ranks(values_N: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """Rank of each row among the rows of every draw [R, N]; equal values have the mean of their ranks."""
    order = np.argsort(values_N, kind="stable")
    sorted_N = values_N[order]
    starts_V = np.flatnonzero(np.concatenate([[True], sorted_N[1:] != sorted_N[:-1]]))
    number_RV = np.add.reduceat(times_RN[:, order], starts_V, axis=1)
    rank_RV = np.cumsum(number_RV, axis=1) - number_RV / 2 + 0.5
    ranks_RN = np.empty_like(times_RN, dtype=np.float64)
    ranks_RN[:, order] = np.repeat(rank_RV, np.diff(np.append(starts_V, len(values_N))), axis=1)
    return ranks_RN


def _sofa_change(severity: Severity, stay_id: int, t0: int, k_hours: int) -> float:
    sofa_T = severity[stay_id].sofa_T if stay_id in severity else np.zeros(0)
    return float(sofa_T[t0 + k_hours] - sofa_T[t0]) if t0 + k_hours < len(sofa_T) else float("nan")


def _displacements(latents: Latents, starts: list[tuple[int, int]], k_hours: int) -> np.ndarray:
    states = (latents.stay(stay_id, t0, k_hours + 1)[1] for stay_id, t0 in starts)
    return np.stack([z_state_TD[-1].astype(np.float64) - z_state_TD[0] for z_state_TD in states])


def _lengths(side_PD: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(side_PD, axis=1))


def _unknown(reason: str) -> Movement:
    return {"ratio": None, "mean_displacement_ratio": None, "reason": reason}
