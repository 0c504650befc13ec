"""Predictive distributions: a point forecast plus the errors that the same forecast made on tuning patients.

The distribution of a forecast m is m + e, with e each of the errors of a *group* of tuning windows at the same horizon. Four kinds differ
in the group and in the errors; the one with the lowest CRPS is taken, where one half of the tuning patients is scored with the errors of
the other half, both ways. Intervals are split-conformal: with n exchangeable errors, [e_(k), e_(n+1−k)] with k = ⌊(n + 1) α/2⌋ contains a
new error with a probability of at least 1 − α.
Sources: split conformal prediction, by group (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005); CRPS of an
empirical distribution (Gneiting and Raftery, JASA 102, 2007, equation 21); the PIT histogram of discrete forecasts, without random draws
(Czado, Gneiting and Held, Biometrics 65, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["residuals", "symmetric", "by_level", "by_recency"]
KINDS: tuple[Kind, ...] = ("residuals", "symmetric", "by_level", "by_recency")
"""All errors of the horizon; the same and their negatives; the errors of forecasts in the same third; those of variables that were measured
in the last RECENT_HOURS hours, and the others."""
NUM_GROUPS: dict[Kind, int] = {"by_level": 3, "by_recency": 2}
"""Groups of the kinds that have more than one."""
RECENT_HOURS = 4
MIN_ERRORS = 20
"""Fewest errors of a group: with fewer than 19 there is no 90 % interval."""
MIN_PATIENTS = 5
NUM_BINS = 10
"""Bins of the PIT histogram."""


@dataclass(frozen=True)
class Forecasts:
    """Forecasts of one variable at one horizon: point forecast_N, the value observed_N, hours since the last measurement, patient."""

    forecast_N: np.ndarray
    observed_N: np.ndarray
    hours_since_N: np.ndarray
    subject_N: np.ndarray

    def where(self, mask_N: np.ndarray) -> Forecasts:
        return Forecasts(self.forecast_N[mask_N], self.observed_N[mask_N], self.hours_since_N[mask_N], self.subject_N[mask_N])

    @property
    def error_N(self) -> np.ndarray:
        """Observed minus forecast."""
        return np.asarray(self.observed_N - self.forecast_N, dtype=np.float64)


@dataclass(frozen=True)
class Distribution:
    """Sorted errors of each group, and the levels at which the groups are cut."""

    kind: Kind
    levels: np.ndarray
    errors: list[np.ndarray]

    def groups(self, forecasts: Forecasts) -> np.ndarray:
        """Group of each forecast [N]; it depends on what is known at the prediction time only."""
        if self.kind == "by_level":
            return np.asarray(np.searchsorted(self.levels, forecasts.forecast_N, side="right"))
        if self.kind == "by_recency":
            return (forecasts.hours_since_N >= RECENT_HOURS).astype(np.int64)
        return np.zeros(len(forecasts.forecast_N), dtype=np.int64)

    def crps(self, forecasts: Forecasts) -> np.ndarray:
        """CRPS [N] of the values that were observed, in the variable's unit."""
        group_N, error_N, found_N = self.groups(forecasts), forecasts.error_N, np.zeros(len(forecasts.forecast_N))
        for group, errors in enumerate(self.errors):
            mask_N = group_N == group
            found_N[mask_N] = crps_of_sample(errors, error_N[mask_N])
        return found_N

    def interval(self, forecasts: Forecasts, level: float) -> tuple[np.ndarray, np.ndarray]:
        """(low_N, high_N) of the central interval of a level such as 0.9, in the variable's unit."""
        bounds_G2 = np.array([conformal_bounds(errors, level) for errors in self.errors])
        low_N, high_N = (forecasts.forecast_N + bounds_G2[self.groups(forecasts)].T).astype(np.float64)
        return low_N, high_N

    def median(self, forecasts: Forecasts) -> np.ndarray:
        """Median [N] of the distribution of each forecast, in the variable's unit."""
        median_G = np.array([np.median(errors) for errors in self.errors])
        return np.asarray(forecasts.forecast_N + median_G[self.groups(forecasts)])

    def pit(self, forecasts: Forecasts) -> np.ndarray:
        """Shares [NUM_BINS] of the probability integral transform in equal bins of [0, 1]; flat when the distribution is calibrated."""
        edges = np.arange(NUM_BINS + 1) / NUM_BINS
        masses = []
        for group, errors in enumerate(self.errors):
            error_N = forecasts.error_N[self.groups(forecasts) == group]
            low_N = np.searchsorted(errors, error_N, side="left") / (len(errors) + 1)
            high_N = (np.searchsorted(errors, error_N, side="right") + 1) / (len(errors) + 1)
            below_NB = np.clip((edges - low_N[:, None]) / (high_N - low_N)[:, None], 0.0, 1.0)
            masses.append(np.diff(below_NB, axis=1))
        return np.asarray(np.concatenate(masses).mean(0))


def crps_of_sample(sorted_J: np.ndarray, observed_N: np.ndarray) -> np.ndarray:
    """CRPS [N] of the empirical distribution of a sorted sample: E|X − y| − ½ E|X − X′|."""
    number = len(sorted_J)
    sums = np.concatenate([[0.0], np.cumsum(sorted_J)])
    below_N = np.searchsorted(sorted_J, observed_N)
    distance_N = observed_N * (2 * below_N - number) - 2 * sums[below_N] + sums[-1]
    spread = ((2 * np.arange(1, number + 1) - number - 1) * sorted_J).sum() / number**2
    return np.asarray(distance_N / number - spread)


def conformal_bounds(sorted_J: np.ndarray, level: float) -> tuple[float, float]:
    """The errors between which a new exchangeable error lies with a probability of at least `level`; the extremes for too few errors."""
    number = len(sorted_J)
    rank = max(1, int(np.floor((number + 1) * (1 - level) / 2 + 1e-9)))
    return float(sorted_J[rank - 1]), float(sorted_J[number - rank])


def fit_distribution(kind: Kind, tuning: Forecasts, least: int = MIN_ERRORS) -> Distribution | None:
    """The distribution of a kind from the errors on tuning windows; None where a group has fewer than `least` errors."""
    levels = np.quantile(tuning.forecast_N, [1 / 3, 2 / 3]) if kind == "by_level" and len(tuning.forecast_N) else np.zeros(0)
    shape = Distribution(kind, levels, [])
    group_N, error_N = shape.groups(tuning), tuning.error_N
    errors = [np.sort(error_N[group_N == group]) for group in range(NUM_GROUPS.get(kind, 1))]
    if min(len(own) for own in errors) < least:
        return None
    if kind == "symmetric":
        errors = [np.sort(np.concatenate([own, -own])) for own in errors]
    return Distribution(kind, levels, errors)


def choose_kind(tuning: Mapping[int, Forecasts]) -> Kind:
    """The kind with the lowest CRPS over all horizons, each half of the tuning patients scored with the errors of the other half.

    tuning: {horizon: forecasts of tuning windows}. A horizon counts where every half has MIN_ERRORS / 2 errors; a kind counts where it has
    them in every group of every such horizon. `residuals` where none can be compared.
    """
    totals: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
    for own in tuning.values():
        _, index_N = np.unique(own.subject_N, return_inverse=True)
        halves = [own.where(index_N % 2 == half) for half in (0, 1)]
        if min(len(half.forecast_N) for half in halves) < MIN_ERRORS // 2:
            continue
        for kind in KINDS:
            for fitted_on, scored in (halves, halves[::-1]):
                found = fit_distribution(kind, fitted_on, MIN_ERRORS // 2)
                totals[kind] += np.inf if found is None else float(found.crps(scored).sum())
    return min(KINDS, key=lambda kind: totals[kind])
