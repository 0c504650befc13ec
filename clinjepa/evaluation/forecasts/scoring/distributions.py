"""Predictive distributions: a regression's estimate plus the errors that it made on tuning patients, clipped to what is plausible.

The distribution around an estimate m is clip(m + e), with e each of the errors of a *group* of tuning windows at the same horizon, and the
plausible range of the variable as bounds. The clip never falls, so each quantile is the clipped quantile of m + e, and the interval of a
value inside the range covers it exactly where that of m + e does. The *point* forecast is the median: no interval can leave it out. Four
kinds differ in the group and in the errors; the one with the lowest CRPS is taken, where one half of the tuning patients is scored with
the errors of the other half, both ways. Intervals are split-conformal: with n exchangeable errors, [e_(k), e_(n+1−k)] with
k = ⌊(n + 1) α/2⌋ contains a new error with a probability of at least 1 − α.
Sources: split conformal prediction, by group (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005); CRPS of an
empirical distribution (Gneiting and Raftery, JASA 102, 2007, equation 21); the PIT histogram of discrete forecasts, without random draws
(Czado, Gneiting and Held, Biometrics 65, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

Kind = Literal["residuals", "symmetric", "by_level", "by_recency"]
KINDS: tuple[Kind, ...] = ("residuals", "symmetric", "by_level", "by_recency")
"""All errors of the horizon; the same and their negatives; the errors of estimates in the same third; those of variables that were measured
in the last RECENT_HOURS hours, and the others."""
NUM_GROUPS: dict[Kind, int] = {"by_level": 3, "by_recency": 2}
"""Groups of the kinds that have more than one."""
RECENT_HOURS = 4
MIN_ERRORS = 20
"""Fewest errors of a group: with fewer than 19 there is no 90 % interval."""
MIN_PATIENTS = 5
NUM_BINS = 10
"""Bins of the PIT histogram."""
LEVELS = (0.5, 0.9)
"""Levels of the central intervals that are shown."""


class PlausibleRange(NamedTuple):
    """Lowest and highest plausible value of a variable in its unit, rounded to float32 as the hour grid rounds values."""

    low: float
    high: float


UNBOUNDED = PlausibleRange(-np.inf, np.inf)


@dataclass(frozen=True)
class Estimates:
    """A regression's estimates of one variable at one horizon, before errors are added: estimate_N, the value observed_N (NaN where not
    known), hours since the last measurement, patient. level_N: estimates whose level chooses the errors; None for estimate_N itself."""

    estimate_N: np.ndarray
    observed_N: np.ndarray
    hours_since_N: np.ndarray
    subject_N: np.ndarray
    level_N: np.ndarray | None = None

    def where(self, mask_N: np.ndarray) -> Estimates:
        level_N = None if self.level_N is None else self.level_N[mask_N]
        return Estimates(self.estimate_N[mask_N], self.observed_N[mask_N], self.hours_since_N[mask_N], self.subject_N[mask_N], level_N)

    @property
    def error_N(self) -> np.ndarray:
        """Observed minus estimate."""
        return self.from_estimate(self.observed_N)

    def from_estimate(self, value: np.ndarray | float) -> np.ndarray:
        """Values minus estimates [N], with the rounding of float32 values."""
        return np.asarray(np.asarray(value, dtype=self.estimate_N.dtype) - self.estimate_N, dtype=np.float64)


class Shown(NamedTuple):
    """What is shown of forecasts of any shape N, in the variable's unit. point_N: the median of the predictive distribution; where there is
    none, the estimate, clipped to the plausible range. low_LN, high_LN: the intervals of LEVELS; NaN where there is no distribution."""

    point_N: np.ndarray
    low_LN: np.ndarray
    high_LN: np.ndarray


@dataclass(frozen=True)
class Distribution:
    """Sorted errors of each group, the levels at which the groups are cut, and the range that values are clipped to."""

    kind: Kind
    levels: np.ndarray
    errors: list[np.ndarray]
    range: PlausibleRange = UNBOUNDED

    def groups(self, estimates: Estimates) -> np.ndarray:
        """Group of each estimate [N]; it depends on what is known at the prediction time only."""
        if self.kind == "by_level":
            level_N = estimates.estimate_N if estimates.level_N is None else estimates.level_N
            return np.asarray(np.searchsorted(self.levels, level_N, side="right"))
        if self.kind == "by_recency":
            return (estimates.hours_since_N >= RECENT_HOURS).astype(np.int64)
        return np.zeros(len(estimates.estimate_N), dtype=np.int64)

    def crps(self, estimates: Estimates) -> np.ndarray:
        """CRPS [N] of the values that were observed, in the variable's unit."""
        group_N, error_N, found_N = self.groups(estimates), estimates.error_N, np.zeros(len(estimates.estimate_N))
        low_N, high_N = (estimates.from_estimate(end) for end in self.range)
        for group, errors in enumerate(self.errors):
            mask_N = group_N == group
            found_N[mask_N] = crps_of_sample(errors, error_N[mask_N], low_N[mask_N], high_N[mask_N])
        return found_N

    def interval(self, estimates: Estimates, level: float) -> tuple[np.ndarray, np.ndarray]:
        """(low_N, high_N) of the central interval of a level such as 0.9, in the variable's unit."""
        bounds_G2 = np.array([conformal_bounds(errors, level) for errors in self.errors])
        low_N, high_N = self._clipped(estimates.estimate_N + bounds_G2[self.groups(estimates)].T)
        return low_N, high_N

    def median(self, estimates: Estimates) -> np.ndarray:
        """Median [N] of the distribution of each forecast, in the variable's unit."""
        median_G = np.array([np.median(errors) for errors in self.errors])
        return self._clipped(estimates.estimate_N + median_G[self.groups(estimates)])

    def pit(self, estimates: Estimates) -> np.ndarray:
        """Shares [NUM_BINS] of the probability integral transform in equal bins of [0, 1]; flat when the distribution is calibrated."""
        edges = np.arange(NUM_BINS + 1) / NUM_BINS
        lowest_N, highest_N = (estimates.from_estimate(end) for end in self.range)
        masses = []
        for group, errors in enumerate(self.errors):
            mask_N = self.groups(estimates) == group
            error_N = estimates.error_N[mask_N]
            low_N = np.searchsorted(errors, error_N, side="left")
            low_N = np.where(error_N > highest_N[mask_N], len(errors), np.where(error_N <= lowest_N[mask_N], 0, low_N))
            high_N = np.searchsorted(errors, error_N, side="right")
            high_N = np.where(error_N >= highest_N[mask_N], len(errors), np.where(error_N < lowest_N[mask_N], 0, high_N))
            low_N, high_N = low_N / (len(errors) + 1), (high_N + 1) / (len(errors) + 1)
            below_NB = np.clip((edges - low_N[:, None]) / (high_N - low_N)[:, None], 0.0, 1.0)
            masses.append(np.diff(below_NB, axis=1))
        return np.asarray(np.concatenate(masses).mean(0))

    def _clipped(self, values: np.ndarray) -> np.ndarray:
        return np.clip(values.astype(np.float64), *self.range)


def shown(own: Distribution | None, plausible: PlausibleRange, estimates: Estimates) -> Shown:
    """What is shown of some estimates: the one rule of the evaluation, of scores, of what-ifs and of serving.

    Args:
        own: The predictive distribution; None where none could be fitted.
        plausible: Range of the variable.
        estimates: The estimates; values that were observed are not read.
    """
    if own is None:
        bounds_LN = np.full((len(LEVELS), len(estimates.estimate_N)), np.nan)
        return Shown(np.clip(estimates.estimate_N.astype(np.float64), *plausible), bounds_LN, bounds_LN)
    intervals = np.array([own.interval(estimates, level) for level in LEVELS])
    return Shown(own.median(estimates), intervals[:, 0], intervals[:, 1])


def crps_of_sample(sorted_J: np.ndarray, observed_N: np.ndarray, low_N: np.ndarray, high_N: np.ndarray) -> np.ndarray:
    """CRPS [N] of a sorted sample X, clipped to [low, high] for each observed value y: E|X − y| − ½ E|X − X′|. Bounds may be infinite."""
    number = len(sorted_J)
    # Bounds beyond the sample do nothing, so finite ones take the place of infinite ones.
    low_N, high_N = np.maximum(low_N, np.minimum(sorted_J[0], high_N)), np.minimum(high_N, np.maximum(sorted_J[-1], low_N))
    first_N, end_N = np.searchsorted(sorted_J, low_N), np.searchsorted(sorted_J, high_N, side="right")
    sums = np.concatenate([[0.0], np.cumsum(sorted_J)])

    def total(count_N: np.ndarray) -> np.ndarray:
        """Sum of the lowest values after the clip."""
        below_N, above_N = np.minimum(count_N, first_N), np.maximum(count_N - end_N, 0)
        inside_N = sums[np.clip(count_N, first_N, end_N)] - sums[first_N]
        return np.asarray(low_N * below_N + inside_N + high_N * above_N)

    below_N = np.searchsorted(sorted_J, observed_N)
    below_N = np.where(observed_N > high_N, number, np.where(observed_N <= low_N, 0, below_N))
    distance_N = observed_N * (2 * below_N - number) - 2 * total(below_N) + total(np.full_like(below_N, number))
    weighted = np.concatenate([[0.0], np.cumsum((2 * np.arange(1, number + 1) - number - 1) * sorted_J)])
    # The weights 2 j − n − 1 of the lowest k values add up to k (k − n).
    inside_N = weighted[end_N] - weighted[first_N]
    spread_N = (low_N * first_N * (first_N - number) + inside_N - high_N * end_N * (end_N - number)) / number**2
    return np.asarray(distance_N / number - spread_N)


def conformal_bounds(sorted_J: np.ndarray, level: float) -> tuple[float, float]:
    """The errors between which a new exchangeable error lies with a probability of at least `level`; the extremes for too few errors."""
    number = len(sorted_J)
    rank = max(1, int(np.floor((number + 1) * (1 - level) / 2 + 1e-9)))
    return float(sorted_J[rank - 1]), float(sorted_J[number - rank])


def fit_distribution(kind: Kind, tuning: Estimates, plausible: PlausibleRange, least: int = MIN_ERRORS) -> Distribution | None:
    """The distribution of a kind from the errors on tuning windows; None where a group has fewer than `least` errors."""
    levels = np.quantile(tuning.estimate_N, [1 / 3, 2 / 3]) if kind == "by_level" and len(tuning.estimate_N) else np.zeros(0)
    shape = Distribution(kind, levels, [])
    group_N, error_N = shape.groups(tuning), tuning.error_N
    errors = [np.sort(error_N[group_N == group]) for group in range(NUM_GROUPS.get(kind, 1))]
    if min(len(own) for own in errors) < least:
        return None
    if kind == "symmetric":
        errors = [np.sort(np.concatenate([own, -own])) for own in errors]
    return Distribution(kind, levels, errors, plausible)


def choose_kind(tuning: Mapping[int, Estimates], plausible: PlausibleRange) -> Kind:
    """The kind with the lowest CRPS over all horizons, each half of the tuning patients scored with the errors of the other half.

    tuning: {horizon: estimates of tuning windows}. A horizon counts where every half has MIN_ERRORS / 2 errors; a kind counts where it has
    them in every group of every such horizon. `residuals` where none can be compared.
    """
    totals: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
    for own in tuning.values():
        _, index_N = np.unique(own.subject_N, return_inverse=True)
        halves = [own.where(index_N % 2 == half) for half in (0, 1)]
        if min(len(half.estimate_N) for half in halves) < MIN_ERRORS // 2:
            continue
        for kind in KINDS:
            for fitted_on, scored in (halves, halves[::-1]):
                found = fit_distribution(kind, fitted_on, plausible, MIN_ERRORS // 2)
                totals[kind] += np.inf if found is None else float(found.crps(scored).sum())
    return min(KINDS, key=lambda kind: totals[kind])
