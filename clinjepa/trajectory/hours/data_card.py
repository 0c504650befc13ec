"""The counts of a data card: coverage hour by hour, what was dropped and for which kind of reason, tokens per text.

Parts count for themselves and are added up when an artifact is finished. What the card holds: docs/data_card.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import polars as pl

CARD_HOURS = 72
"""Coverage is counted for each of the first so many hours of a stay."""

DROP_GROUPS = {
    "range": ("out_of_range", "implausible_age", "zero_reading"),
    "unit": ("unknown_unit", "no_weight"),
    "value": ("non_numeric", "without_value", "not_testable", "zero_amount", "empty_parameter", "no_outcome", "flagged_by_warning"),
    "time": (
        "outside_stay",
        "before_icu_admission",
        "after_last_hour",
        "end_before_start",
        "interval_ends_before_start",
        "start_without_end",
        "end_without_start",
        "stay_without_end",
        "stay_end_before_start",
        "stay_without_beginning",
        "implausible_stay_length",
        "bad_time",
        "without_time",
        "no_icu_stay",
        "without_stay",
    ),
    "code": ("unmapped_code",),
    "identity": ("stay_without_id", "stay_without_patient", "stay_without_admission"),
    "repeat": ("duplicate_row", "repeated_static"),
    "purpose": ("excluded", "carrier_or_flush", "medication_not_given", "order_superseded_by_administration", "rewritten", "not_arterial"),
    "files": ("empty_table", "table_missing", "item_absent", "item_changed", "invalid_utf8"),
}
"""Kind of reason -> rules; a rule that is in none is `other`."""

NOTES = frozenset(
    """start_without_end stay_without_patient stay_without_admission implausible_age empty_table table_missing item_absent
    item_changed invalid_utf8""".split()
)
"""Rules that note something about what is kept; the others count rows that were dropped."""

_MAX_BINS = 32


def hourly_coverage(grid: pl.DataFrame) -> dict[str, Any]:
    """{"num_stays": [stays that have hour h], "variables": {name: [stays that have a value in hour h]}}, h = 0 … CARD_HOURS − 1.

    grid: stay_id, hour and one column per variable (`ingest.grid_schema`). A variable that never has a value there is left out.
    """
    import polars as pl  # here: training reads stores, and this module with them, where polars may not be

    names = [name for name in grid.columns if name not in ("stay_id", "hour")]
    early = grid.filter(pl.col("hour") < CARD_HOURS)
    counts = early.group_by("hour").agg(pl.len().alias("stay_id"), *(pl.col(name).count() for name in names))
    hours = pl.DataFrame({"hour": pl.int_range(CARD_HOURS, eager=True, dtype=pl.Int32)})
    counts = hours.join(counts.with_columns(pl.col("hour").cast(pl.Int32)), on="hour", how="left").sort("hour").fill_null(0)
    return {"num_stays": counts["stay_id"].to_list(), "variables": {name: counts[name].to_list() for name in names if counts[name].sum()}}


def add_hourly(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sum of the parts' `hourly_coverage`, variables sorted by name."""
    num_stays = np.zeros(CARD_HOURS, dtype=np.int64)
    variables: dict[str, np.ndarray] = {}
    for part in parts:
        num_stays += np.asarray(part["num_stays"])
        for name, counts in part["variables"].items():
            variables[name] = variables.get(name, np.zeros(CARD_HOURS, dtype=np.int64)) + np.asarray(counts)
    return {"num_stays": num_stays.tolist(), "variables": {name: variables[name].tolist() for name in sorted(variables)}}


def grouped_drops(dropped: Mapping[str, int]) -> dict[str, dict[str, Any]]:
    """Kind of reason -> {"num_rows", "rules": {rule: {"num_rows", "variables": {name: rows}}}}, the largest first.

    dropped: counts by `rule` or `rule:variable`, as sources and the hour grid give them.
    """
    kinds = {rule: kind for kind, rules in DROP_GROUPS.items() for rule in rules}
    groups: dict[str, dict[str, Any]] = {}
    for name, count in sorted(dropped.items(), key=lambda item: -item[1]):
        rule, _, variable = name.partition(":")
        group = groups.setdefault(kinds.get(rule, "other"), {"num_rows": 0, "rules": {}})
        entry = group["rules"].setdefault(rule, {"num_rows": 0, "variables": {}})
        group["num_rows"] += count
        entry["num_rows"] += count
        if variable:
            entry["variables"][variable] = count
    return dict(sorted(groups.items(), key=lambda item: -item[1]["num_rows"]))


def token_statistics(lengths: Mapping[int, int], num_cut: int) -> dict[str, Any]:
    """Tokens per text before cutting. lengths: tokens of a text -> how many texts have them.

    {num_texts, num_tokens, mean, p50, p95, max, num_cut, share_cut, histogram: {bin_width, counts}}; bin k of the histogram holds
    texts of k * bin_width … (k + 1) * bin_width − 1 tokens.
    """
    sizes = np.asarray(sorted(lengths), dtype=np.int64)
    counts = np.asarray([lengths[size] for size in sizes.tolist()], dtype=np.int64)
    num_texts, num_tokens = int(counts.sum()), int((sizes * counts).sum())
    upto = np.cumsum(counts)
    longest = int(sizes[-1])
    width = _bin_width(longest)
    return {
        "num_texts": num_texts,
        "num_tokens": num_tokens,
        "mean": num_tokens / num_texts,
        "p50": int(sizes[np.searchsorted(upto, 0.5 * num_texts)]),
        "p95": int(sizes[np.searchsorted(upto, 0.95 * num_texts)]),
        "max": longest,
        "num_cut": num_cut,
        "share_cut": num_cut / num_texts,
        "histogram": {"bin_width": width, "counts": np.bincount(sizes // width, weights=counts).astype(int).tolist()},
    }


def add_lengths(parts: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """The sum of the parts' {"lengths": {tokens: texts}}."""
    totals: dict[int, int] = {}
    for part in parts:
        for length, count in part["lengths"].items():
            totals[int(length)] = totals.get(int(length), 0) + count
    return totals


def _bin_width(longest: int) -> int:
    """The smallest of 1, 2, 5, 10, 20 … with which the histogram has at most `_MAX_BINS` bins."""
    return next(m * 10**e for e in range(9) for m in (1, 2, 5) if longest // (m * 10**e) < _MAX_BINS)
