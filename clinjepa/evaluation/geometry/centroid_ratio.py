"""How far one centroid moved over how far another did, freed of the distance that noise alone gives a centroid.

The norm of a mean of n noisy vectors is too long: E‖x̄‖² = ‖μ‖² + tr Σ / n, and a bootstrap adds tr Σ / n once more, so that its
percentiles lie around another value than the estimate. Here ‖μ‖² is the U-statistic mean of xᵢ·xⱼ over i ≠ j (Hoeffding 1948), which
has no such bias. Its covariance is the jackknife's over groups (Efron and Stein 1981: too large on average, if anything), and the
interval of the ratio is Fieller's (1954), which is honest where the denominator is near zero: it is then unbounded, and none is given.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats as scipy_stats


def linked_groups(members: Sequence[tuple[Hashable, ...]]) -> np.ndarray:
    """group_P in 0…G−1 of rows that belong to several members (a pair to two patients).

    Rows that share a member, directly or over other rows, are in one group, so that groups are independent of each other.
    """
    parent: dict[Hashable, Hashable] = {}

    def root(member: Hashable) -> Hashable:
        parent.setdefault(member, member)
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    for row in members:
        for other in row:
            parent[root(other)] = root(row[0])
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(root(row[0]), len(numbers)) for row in members], dtype=np.int64)


def group_sums(rows_PD: np.ndarray, group_P: np.ndarray) -> np.ndarray:
    """Sum of the rows of every group: [G, D]."""
    sums_GD = np.zeros((int(group_P.max()) + 1, rows_PD.shape[1]))
    np.add.at(sums_GD, group_P, rows_PD)
    return sums_GD


def centroid_ratio(moved_GD: np.ndarray, stable_GD: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """‖E moved‖ / ‖E stable‖ and its 95 % interval, from sums of displacements over G ≥ 3 independent groups, the same on both sides.

    NaN and None where the stable centroid cannot be told from one that stays: its squared length comes out at zero or below. The interval
    alone is None where it has no upper end. A group of more pairs counts more, on both sides alike.
    """
    lengths_2, covariance_22 = _squared_lengths(moved_GD, stable_GD)
    moved, stable = lengths_2
    if stable <= 0:
        return float("nan"), None
    value = float(np.sqrt(max(moved, 0.0) / stable))
    quantile = scipy_stats.t.ppf(0.975, len(moved_GD) - 1) ** 2
    # Fieller: the squared ratios q with (moved - q stable)² <= t² Var(moved - q stable)
    a = stable**2 - quantile * covariance_22[1, 1]
    b = moved * stable - quantile * covariance_22[0, 1]
    c = moved**2 - quantile * covariance_22[0, 0]
    if a <= 0:
        return value, None
    spread = np.sqrt(max(b * b - a * c, 0.0))
    return value, (float(np.sqrt(max((b - spread) / a, 0.0))), float(np.sqrt(max((b + spread) / a, 0.0))))


def _squared_lengths(*sides_GD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per side the mean of xᵢ·xⱼ over i ≠ j, and the jackknife's covariance of the sides' values."""
    num_groups = len(sides_GD[0])
    values, without_one = [], []
    for x_GD in sides_GD:
        with_others_G = x_GD @ x_GD.sum(0) - (x_GD**2).sum(1)
        total = with_others_G.sum()
        values.append(total / (num_groups * (num_groups - 1)))
        without_one.append((total - 2 * with_others_G) / ((num_groups - 1) * (num_groups - 2)))
    around_SG = np.stack(without_one)
    around_SG -= around_SG.mean(1, keepdims=True)
    return np.array(values), (num_groups - 1) / num_groups * around_SG @ around_SG.T
