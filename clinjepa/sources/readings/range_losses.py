"""Readings that a variable loses because they lie outside its plausible range or have a unit that cannot be converted, by group.

A group is a variable at one site (a set of a challenge), with one unit and one item. A part counts its own groups; `data_card.json` names
the variables that lose more than a few percent (`clinjepa/trajectory/hours/range_losses.py`). Counts and rounded values over all patients,
no reading of a single one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, NotRequired, TypedDict

import polars as pl

from clinjepa.clinical.medians import load_medians

LOST = ("out_of_range", "unknown_unit")
_DIGITS = 3


class GroupLosses(TypedDict):
    """Readings of one variable in one group. values: lost readings as charted, rounded to three digits -> their number.

    kept: the kept ones in the variable's unit, likewise, of the variables of `maps/medians.yaml` (absent in older records).
    """

    variable: str
    site: str | None
    unit: str | None
    item: int | None
    num_readings: int
    num_lost: int
    values: dict[str, int]
    kept: NotRequired[dict[str, int]]


class _Group(NamedTuple):
    variable: str
    site: str | None
    unit: str | None
    item: int | None


class Counts(Counter[str]):
    """Rows dropped or altered by rule, and in `losses` the readings that ranges and units took, by group."""

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.losses: list[GroupLosses] = []


def group_losses(events: pl.DataFrame) -> list[GroupLosses]:
    """The groups of raw events. events: variable, kind, site, known_unit, item, value (as charted), converted, fault."""
    readings = events.filter(pl.col("kind").is_in(["numeric", "rate"]) & pl.col("value").is_not_null())
    keys = [pl.col("variable"), pl.col("site"), pl.col("known_unit").alias("unit"), pl.col("item")]
    sizes = readings.group_by(keys).len().sort("variable", "site", "unit", "item")
    lost = readings.filter(pl.col("fault").is_in(LOST)).group_by(*keys, pl.col("value").round_sig_figs(_DIGITS)).len()
    watched = pl.col("variable").is_in(list(load_medians())) & pl.col("fault").is_null() & pl.col("converted").is_not_null()
    kept = readings.filter(watched).group_by(*keys, pl.col("converted").round_sig_figs(_DIGITS).alias("value")).len()
    lost_values, kept_values = _by_group(lost), _by_group(kept)
    found = []
    for variable, site, unit, item, number in sizes.iter_rows():
        group = _Group(variable, site, unit, item)
        found.append(_row(group, number, lost_values.get(group, {}), kept_values.get(group, {})))
    return found


def _by_group(numbers: pl.DataFrame) -> dict[_Group, dict[str, int]]:
    values: dict[_Group, dict[str, int]] = {}
    for *group, value, number in numbers.sort("value").iter_rows():
        values.setdefault(_Group(*group), {})[f"{value:g}"] = number
    return values


def add_losses(parts: Iterable[Iterable[GroupLosses]]) -> list[GroupLosses]:
    """The groups of all parts together, in a fixed order."""
    sizes: Counter[_Group] = Counter()
    values: dict[_Group, Counter[str]] = {}
    kept: dict[_Group, Counter[str]] = {}
    for part in parts:
        for row in part:
            group = _Group(row["variable"], row["site"], row["unit"], row["item"])
            sizes[group] += row["num_readings"]
            values.setdefault(group, Counter()).update(row["values"])
            kept.setdefault(group, Counter()).update(row.get("kept", {}))
    order = sorted(sizes, key=lambda group: tuple(str(one) for one in group))
    return [_row(group, sizes[group], dict(values[group]), dict(kept[group])) for group in order]


def _row(group: _Group, num_readings: int, values: dict[str, int], kept: dict[str, int]) -> GroupLosses:
    return {
        "variable": group.variable,
        "site": group.site,
        "unit": group.unit,
        "item": group.item,
        "num_readings": num_readings,
        "num_lost": sum(values.values()),
        "values": dict(sorted(values.items(), key=lambda entry: float(entry[0]))),
        "kept": dict(sorted(kept.items(), key=lambda entry: float(entry[0]))),
    }
