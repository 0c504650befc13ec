"""What a source knows about the number and the length of its stays before they are read, for the estimates of `clinjepa plan`.

A source may have a method `stay_counts`, which reads no more than a small table, a list of files or a sample of
records. A source without it is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple, Protocol, runtime_checkable


class StayCounts(NamedTuple):
    """Bounds of a source's stays, before the cohort's rules and before `source.max_stays`."""

    least_stays: int
    most_stays: int
    least_hours: int
    """Hours of all stays together."""

    most_hours: int

    def first(self, max_stays: int | None) -> StayCounts:
        """The bounds of the first `max_stays` stays; hours in proportion, and a wider range the fewer stays are left."""
        if max_stays is None or max_stays >= self.most_stays:
            return self
        least, share, spread = min(self.least_stays, max_stays), max_stays / self.most_stays, 1 + 2 / math.sqrt(max_stays)
        return StayCounts(least, max_stays, math.floor(self.least_hours * share / spread), math.ceil(self.most_hours * share * spread))


@runtime_checkable
class CountedSource(Protocol):
    """A source that knows its stays without reading them."""

    def stay_counts(self) -> StayCounts | None:
        """Bounds of the stays; None where finding them would mean to read the data."""
        ...


def of_known_hours(hours: Sequence[float]) -> StayCounts:
    """Counts of stays whose lengths in hours are known."""
    return StayCounts(len(hours), len(hours), sum(math.floor(each) for each in hours), sum(math.ceil(each) for each in hours))


def of_mean_hours(num_stays: int, least_mean: float, most_mean: float) -> StayCounts:
    """Counts of a known number of stays whose mean length lies between two numbers of hours."""
    return StayCounts(num_stays, num_stays, math.floor(num_stays * least_mean), math.ceil(num_stays * most_mean))


def of_sampled_hours(num_stays: int, hours: Sequence[float]) -> StayCounts:
    """Counts of a known number of stays from the lengths of some of them: their mean, four standard errors to both sides."""
    mean, error = fmean(hours), stdev(hours) / math.sqrt(len(hours))
    return of_mean_hours(num_stays, max(0.0, mean - 4 * error), mean + 4 * error)
