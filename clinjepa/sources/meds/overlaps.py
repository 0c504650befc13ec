"""Infusions without an order id: which end belongs to which start where infusions of one item overlap.

Where one infusion of an item runs at a time, its end is the next one. Where several run, an end says by its amount whose it is: the amount
is rate × hours × a factor of units and weight, which is 1 for mL/hour and mL, and otherwise the one by which most ends of the item in the
stay agree with a start. An end is given to the only start that agrees, or to the only one that does not disagree. Every other end could be
that of several starts: these are left out and counted as `ambiguous_interval`, and so are later ends that may be theirs. Procedures need
none of this: they have no value, and the hours in which one runs do not depend on the pairing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

import polars as pl

from clinjepa.clinical import canonical_unit
from clinjepa.sources.meds.intervals import pair_intervals

_TOLERANCE = 1.02
"""Amounts are rounded, and times are whole minutes."""
_MOST_PAIRS = 250_000
"""Starts × ends of an item in a stay; with more, no factor is looked for."""
_HOURS_OF = {"h": 1.0, "min": 60.0}
"""Unit of time of a rate -> times it passes in an hour."""


class _Row(NamedTuple):
    """A start with its rate, or an end with its amount."""

    time: datetime
    place: int
    number: float | None
    unit: str | None

    @property
    def said(self) -> tuple[datetime, float | None, str | None]:
        return self.time, self.number, self.unit


_Factors = dict[tuple[str | None, str | None], float]


def pair_without_ids(starts: pl.DataFrame, ends: pl.DataFrame, keys: list[str], counts: Counter[str]) -> pl.DataFrame:
    """As `pair_intervals`, for infusions without an order id.

    Args:
        starts: `keys`, time, row, numeric_value (the rate), unit, and any other columns.
        ends: `keys`, time, row, amount, amount_unit.
        keys: Columns of an item in a stay; null matches null.
        counts: Receives `ambiguous_interval` (starts that are left out, since an end could be that of another), `start_without_end` (kept)
            and `end_without_start`.
    """
    plain = _one_at_a_time(starts, ends, keys)
    one_starts, one_ends = (rows.join(plain, on=keys, how="semi", nulls_equal=True) for rows in (starts, ends))
    paired = pair_intervals(one_starts, one_ends, keys, counts)
    starts, ends = (rows.join(plain, on=keys, how="anti", nulls_equal=True) for rows in (starts, ends))
    if not starts.height and not ends.height:
        return paired
    starts, ends = starts.with_row_index("start_place"), ends.with_row_index("end_place")
    ends_of = _rows_of(ends, keys, "amount", "amount_unit")
    chosen: list[tuple[int, int | None]] = []
    for key, own in _rows_of(starts, keys, "numeric_value", "unit").items():
        found = _pair(own, ends_of.pop(key, []))
        chosen += found.pairs
        for rule, number in (("ambiguous_interval", found.dropped), ("end_without_start", found.strays)):
            counts.update({rule: number} if number else {})
    if unmatched := sum(map(len, ends_of.values())):
        counts["end_without_start"] += unmatched
    if open_ended := sum(end is None for _, end in chosen):
        counts["start_without_end"] += open_ended
    table = pl.DataFrame(chosen, schema={"start_place": pl.UInt32, "end_place": pl.UInt32}, orient="row")
    given = ends.select("end_place", pl.col("time").alias("end"), "amount", "amount_unit")
    told = starts.join(table, on="start_place").join(given, on="end_place", how="left").select(paired.columns)
    return pl.concat([paired, told]).sort("row")


def _one_at_a_time(starts: pl.DataFrame, ends: pl.DataFrame, keys: list[str]) -> pl.DataFrame:
    """Keys of which every start has its end before the next start."""
    first, second = (
        rows.sort("time", "row").select(*keys, pl.int_range(pl.len()).over(keys).alias("place"), pl.col("time").alias(name))
        for rows, name in ((starts, "start"), (ends, "end"))
    )
    both = first.join(second, on=[*keys, "place"], how="full", coalesce=True, nulls_equal=True).sort("place")
    after = pl.col("start").shift(-1).over(keys)
    fits = (pl.col("start") <= pl.col("end")) & (after.is_null() | ((pl.col("end") <= after) & (pl.col("start") < after)))
    return both.with_columns(fits.fill_null(False).alias("fits")).group_by(keys).agg(pl.col("fits").all()).filter("fits").select(keys)


def _rows_of(rows: pl.DataFrame, keys: list[str], number: str, unit: str) -> dict[tuple[object, ...], list[_Row]]:
    """The rows of each key, sorted by time."""
    found: dict[tuple[object, ...], list[_Row]] = defaultdict(list)
    for place, (*key, time, value, spelled) in enumerate(rows.select(*keys, "time", number, unit).iter_rows()):
        found[tuple(key)].append(_Row(time, place, value, None if spelled is None else canonical_unit(spelled)))
    return {key: sorted(own, key=attrgetter("time", "place")) for key, own in found.items()}


@dataclass
class _Pairing:
    """What runs of one item in a stay, in the order of time."""

    factors: _Factors
    running: list[_Row] = field(default_factory=list)
    dropped_running: int = 0
    """Starts that were left out and whose ends are still to come."""
    pairs: list[tuple[int, int | None]] = field(default_factory=list)
    dropped: int = 0
    strays: int = 0

    def end_all(self, ends: list[_Row]) -> None:
        """Give the ends of one time to what runs."""
        alike = len({end.said for end in ends}) == 1
        enough = alike or len(ends) <= len(self.running) + self.dropped_running
        if alike and not self.dropped_running and len(ends) >= len(self.running):  # all that runs ends
            for start, end in zip(self.running, ends, strict=False):
                self.pairs.append((start.place, end.place))
            self.strays += len(ends) - len(self.running)
            self.running = []
            return
        for end in sorted(ends, key=lambda end: not any(self._agrees(start, end) for start in self.running)):
            self._end(end, enough)

    def _end(self, end: _Row, enough: bool) -> None:
        """enough: every end of this time has a start."""
        verdicts = [(start, self._agrees(start, end)) for start in self.running]
        agreeing = [start for start, agrees in verdicts if agrees]
        possible = agreeing or [start for start, agrees in verdicts if agrees is None]
        sure = bool(agreeing) or (not self.dropped_running and enough)
        if len(self.running) == 1 and not self.dropped_running and enough:
            possible, sure = self.running, True
        if sure and len({start.said for start in possible}) == 1:
            self.pairs.append((possible[0].place, end.place))
            self.running.remove(possible[0])
        elif not possible and self.dropped_running:
            self.dropped_running -= 1
        elif not self.running:
            self.strays += 1
        else:
            left_out = possible or self.running
            self.running = [start for start in self.running if start not in left_out]
            self.dropped += len(left_out)
            self.dropped_running += len(left_out) - 1

    def _agrees(self, start: _Row, end: _Row) -> bool | None:
        """Whether an amount is that of a rate; None where it cannot be told."""
        ratio, factor = _ratio(start, end), self.factors.get((start.unit, end.unit))
        if ratio is None or factor is None:
            return None
        return factor / _TOLERANCE <= ratio <= factor * _TOLERANCE


def _pair(starts: list[_Row], ends: list[_Row]) -> _Pairing:
    """Ends of the starts of one item in a stay, both sorted by time."""
    pairing = _Pairing(_factors(starts, ends))
    starts_at, ends_at = ({time: list(own) for time, own in groupby(rows, attrgetter("time"))} for rows in (starts, ends))
    for time in sorted({*starts_at, *ends_at}):
        begin, stop = starts_at.get(time, []), ends_at.get(time, [])
        if len(stop) > len(pairing.running) + pairing.dropped_running:  # some ends are those of starts at this time
            pairing.running, begin = pairing.running + begin, []
        if stop:
            pairing.end_all(stop)
        pairing.running += begin
    pairing.pairs += [(start.place, None) for start in pairing.running]
    return pairing


def _ratio(start: _Row, end: _Row) -> float | None:
    """Amount over rate × hours."""
    hours = (end.time - start.time) / timedelta(hours=1)
    if start.number is None or end.number is None or start.number <= 0 or end.number <= 0 or hours <= 0:
        return None
    return end.number / (start.number * hours)


def _factors(starts: list[_Row], ends: list[_Row]) -> _Factors:
    """Factor of each pair of units: by the units where they are the same quantity, otherwise the one that the most ends agree with."""
    units = {(start.unit, end.unit) for start in starts for end in ends} if len(starts) * len(ends) <= _MOST_PAIRS else set()
    found: _Factors = {}
    for rate_unit, amount_unit in units:
        per_time = (rate_unit or "").removeprefix(f"{amount_unit}/")
        if per_time in _HOURS_OF and per_time != rate_unit:
            found[rate_unit, amount_unit] = _HOURS_OF[per_time]
            continue
        ratios = [
            (ratio, end.place)
            for end in ends
            for start in starts
            if (start.unit, end.unit) == (rate_unit, amount_unit) and (ratio := _ratio(start, end)) is not None
        ]
        factor = _most_agreed(sorted(ratios))
        if factor is not None:
            found[rate_unit, amount_unit] = factor
    return found


def _most_agreed(ratios: Sequence[tuple[float, int]]) -> float | None:
    """The ratio that more ends share than any other one; None where fewer than two do. ratios: sorted (ratio, end)."""
    votes: Counter[int] = Counter()
    best: list[tuple[int, float, float]] = []
    first = 0
    for ratio, end in ratios:
        votes[end] += 1
        while ratios[first][0] * _TOLERANCE < ratio:
            left = ratios[first][1]
            votes[left] -= 1
            if not votes[left]:
                del votes[left]
            first += 1
        best.append((len(votes), ratios[first][0], ratio))
    most = max((number for number, _, _ in best), default=0)
    windows = [(low, high) for number, low, high in best if number == most]
    if most < 2 or windows[-1][0] > windows[0][1]:
        return None
    return (windows[0][0] + windows[-1][1]) / 2
