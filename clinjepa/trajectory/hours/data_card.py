"""The counts of a data card: coverage by hour, dropped rows by kind of reason, tokens per text. Fields: docs/data_card.md.

Each part counts its own rows; the counts are summed when the artifact is finished. Counts are over all patients, never of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from clinjepa.clinical import load_variables
from clinjepa.clinical.misfiled import load_misfiled

if TYPE_CHECKING:
    import polars as pl

    from clinjepa.sources.mapped_meds.coverage import CodeCoverage
    from clinjepa.storage.parts import PartFile
    from clinjepa.trajectory.hours.cohort import AttritionRow
    from clinjepa.trajectory.hours.odd_medians import OddMedian
    from clinjepa.trajectory.hours.range_losses import RangeLoss

CARD_HOURS = 72
"""Coverage is counted for each of the first 72 hours of a stay."""

DROP_GROUPS = {
    "range": ("out_of_range", "implausible_age", "zero_reading", "missing_code"),
    "unit": ("unknown_unit", "no_weight"),
    "value": (
        "non_numeric",
        "without_value",
        "not_testable",
        "zero_amount",
        "negative_rate",
        "empty_parameter",
        "no_outcome",
        "unknown_outcome_code",
        "unknown_discharge",
        "unknown_sex",
        "unknown_care_unit",
        "label_taken_back",
        "contradicting_discharge",
        "flagged_by_warning",
    ),
    "time": (
        "outside_stay",
        "before_icu_admission",
        "after_last_hour",
        "end_before_start",
        "interval_ends_before_start",
        "start_without_end",
        "end_without_start",
        "ambiguous_interval",
        "stay_without_end",
        "stay_end_from_last_row",
        "stay_end_before_start",
        "stay_without_beginning",
        "implausible_stay_length",
        "impossible_death",
        "discharge_before_admission",
        "discharge_before_icu_stay",
        "implausible_admission_time",
        "bad_time",
        "without_time",
        "row_without_time",
        "no_icu_stay",
        "without_stay",
    ),
    "code": ("unmapped_code", "row_without_code"),
    "identity": (
        "row_without_subject",
        "stay_without_id",
        "stay_without_patient",
        "stay_without_admission",
        "record_without_id",
        "patient_with_several_births",
        "patient_with_several_deaths",
        "patient_with_several_sexes",
        "admission_with_several_beginnings",
        "admission_with_several_discharges",
    ),
    "repeat": ("duplicate_row", "repeated_static"),
    "purpose": ("excluded", "carrier_or_flush", "medication_not_given", "order_superseded_by_administration", "rewritten", "not_arterial"),
    "moved": tuple(rule.name for rule in load_misfiled()),
    "files": ("empty_table", "table_missing", "item_absent", "item_changed", "invalid_utf8"),
}
"""Kind of reason -> rules; a rule in no group is shown as `other`. `moved`: the rules of `maps/misfiled.yaml`."""

NOTES = frozenset(rule.name for rule in load_misfiled()) | frozenset(
    """start_without_end stay_end_from_last_row stay_without_patient stay_without_admission implausible_age impossible_death
    empty_table table_missing item_absent item_changed invalid_utf8 record_without_id unknown_outcome_code unknown_discharge
    contradicting_discharge discharge_before_admission discharge_before_icu_stay unknown_sex unknown_care_unit label_taken_back
    implausible_admission_time patient_with_several_births patient_with_several_deaths patient_with_several_sexes
    admission_with_several_beginnings admission_with_several_discharges""".split()
)
"""Rules that count rows that were kept, or files; all others count dropped rows."""

_MAX_BINS = 32


class HourlyCoverage(TypedDict):
    """Coverage of hours 0 to CARD_HOURS - 1. num_stays: stays that have hour h; variables: name -> stays with a value in hour h."""

    num_stays: list[int]
    variables: dict[str, list[int]]


class VariableCoverage(TypedDict):
    """Coverage of one variable: its events, the hours and stays that have it, and their shares of all hours and stays."""

    num_events: int
    num_hours: int
    num_stays: int
    share_of_hours: float
    share_of_stays: float


class RuleDrops(TypedDict):
    """Rows dropped by one rule, in total and by variable."""

    num_rows: int
    variables: dict[str, int]


class ReasonDrops(TypedDict):
    """Rows dropped for one kind of reason, in total and by rule."""

    num_rows: int
    rules: dict[str, RuleDrops]


class TokenHistogram(TypedDict):
    """Bin k counts the texts of k * bin_width to (k + 1) * bin_width - 1 tokens."""

    bin_width: int
    counts: list[int]


class TokenStatistics(TypedDict):
    """Tokens per text before cutting. num_cut, share_cut: texts longer than `tokenizer.max_tokens`."""

    num_texts: int
    num_tokens: int
    mean: float
    p50: int
    p95: int
    max: int
    num_cut: int
    share_cut: float
    histogram: TokenHistogram


class PartTokens(TypedDict):
    """Texts of one kind in one part. lengths: tokens of a text before cutting, as a JSON key -> number of texts."""

    num_distinct: int
    num_cut: int
    lengths: dict[str, int]


class SplitCounts(TypedDict):
    """Counts of one split; None where the source gives the outcome of no stay."""

    num_stays: int
    num_patients: int
    num_hours: int
    num_died_in_hospital: int | None
    num_sepsis: int | None
    num_windows: NotRequired[int]


class DataCard(TypedDict):
    """`data_card.json` of the artifacts `ingest` and `trajectories`; `num_windows` and `tokens` only of the latter.

    code_coverage: of sources with a map of codes.
    """

    schema_version: int
    name: str
    source: str
    access: str
    num_stays: int
    num_patients: int
    num_hours: int
    event_time: str
    num_events: int
    attrition: list[AttritionRow]
    splits: dict[str, SplitCounts]
    dropped: dict[str, int]
    dropped_by_reason: dict[str, ReasonDrops]
    range_losses: list[RangeLoss]
    odd_medians: list[OddMedian]
    coverage: dict[str, VariableCoverage]
    hourly_coverage: HourlyCoverage
    parts: dict[str, list[PartFile]]
    code_coverage: NotRequired[CodeCoverage]
    num_windows: NotRequired[int]
    tokens: NotRequired[dict[str, TokenStatistics]]


def hourly_coverage(grid: pl.DataFrame) -> HourlyCoverage:
    """Coverage of a part; variables without a value are left out. grid: stay_id, hour, one column per variable (`ingest.grid_schema`)."""
    import polars as pl  # not at the top: `tokens.build` imports this module, and training may run without polars

    second = {name for name, variable in load_variables().items() if variable.of is not None}
    names = [name for name in grid.columns if name not in ("stay_id", "hour") and name not in second]
    early = grid.filter(pl.col("hour") < CARD_HOURS)
    counts = early.group_by("hour").agg(pl.len().alias("stay_id"), *(pl.col(name).count() for name in names))
    hours = pl.DataFrame({"hour": pl.int_range(CARD_HOURS, eager=True, dtype=pl.Int32)})
    counts = hours.join(counts.with_columns(pl.col("hour").cast(pl.Int32)), on="hour", how="left").sort("hour").fill_null(0)
    return {"num_stays": counts["stay_id"].to_list(), "variables": {name: counts[name].to_list() for name in names if counts[name].sum()}}


def add_hourly(parts: Iterable[HourlyCoverage]) -> HourlyCoverage:
    """The sum of the parts' `hourly_coverage`, variables sorted by name."""
    num_stays = np.zeros(CARD_HOURS, dtype=np.int64)
    variables: dict[str, np.ndarray] = {}
    for part in parts:
        num_stays += np.asarray(part["num_stays"])
        for name, counts in part["variables"].items():
            variables[name] = variables.get(name, np.zeros(CARD_HOURS, dtype=np.int64)) + np.asarray(counts)
    return {"num_stays": num_stays.tolist(), "variables": {name: variables[name].tolist() for name in sorted(variables)}}


def grouped_drops(dropped: Mapping[str, int]) -> dict[str, ReasonDrops]:
    """Kind of reason -> dropped rows, largest first. dropped: rows by `rule` or `rule:variable`, of sources and the hour grid."""
    kinds = {rule: kind for kind, rules in DROP_GROUPS.items() for rule in rules}
    groups: dict[str, ReasonDrops] = {}
    for name, count in sorted(dropped.items(), key=lambda item: -item[1]):
        rule, _, variable = name.partition(":")
        group = groups.setdefault(kinds.get(rule, "other"), {"num_rows": 0, "rules": {}})
        entry = group["rules"].setdefault(rule, {"num_rows": 0, "variables": {}})
        group["num_rows"] += count
        entry["num_rows"] += count
        if variable:
            entry["variables"][variable] = count
    return dict(sorted(groups.items(), key=lambda item: -item[1]["num_rows"]))


def token_statistics(lengths: Mapping[int, int], num_cut: int) -> TokenStatistics:
    """Tokens per text before cutting. lengths: number of tokens -> number of texts, not empty; num_cut: texts that were cut."""
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


def add_lengths(parts: Sequence[PartTokens]) -> dict[int, int]:
    """Number of tokens -> number of texts, over all parts."""
    totals: dict[int, int] = {}
    for part in parts:
        for length, count in part["lengths"].items():
            totals[int(length)] = totals.get(int(length), 0) + count
    return totals


def _bin_width(longest: int) -> int:
    """The smallest of 1, 2, 5, 10, 20 … with which the histogram has at most `_MAX_BINS` bins."""
    widths: list[int] = [multiple * 10**power for power in range(9) for multiple in (1, 2, 5)]
    return next(width for width in widths if longest // width < _MAX_BINS)
