"""Variables of which at least 3 % of readings are dropped as out of range or of unknown unit, for the data card.

With each are listed the other units or variables that would explain the values. Such a loss says that a column is not what its name says:
another unit, a fraction, another analyte. Where the case is certain a rule of `clinjepa/clinical/maps/misfiled.yaml` has moved the reading
already; here stand the others. Fields: docs/data_card.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

from clinjepa.clinical import Variable, canonical_unit, load_variables
from clinjepa.clinical.medians import load_medians
from clinjepa.clinical.units import unit_conversion
from clinjepa.sources.readings.range_losses import GroupLosses, add_losses
from clinjepa.trajectory.hours.other_units import Reading, describe_reading, readings_in_other_units

LEAST_SHARE = 0.03
"""Share of the readings of a variable that must be lost in a source, site or unit group."""

LEAST_READINGS = 10
"""Fewer lost readings are not reported, neither of a whole variable nor of a group: their median could be one patient's value."""

_FITTING = 0.8  # share of the lost readings that must lie in the plausible range of what would fit
_LEAST_OF_MAXIMUM = 1e-3
"""Share of the plausible maximum. Where the range begins at 0, a smaller median after conversion is implausibly small."""


class RangeLoss(TypedDict):
    """A variable that loses readings. where: `all readings`, `site a`, `unit mmol/L` or `item 50893`; units: of the lost readings.

    median_lost: of the lost readings as charted, that is, in `units` and before conversion. fits: other variables and units of the
    dictionary in whose plausible range most of the lost readings lie.
    """

    variable: str
    where: str
    num_readings: int
    num_lost: int
    share_lost: float
    median_lost: float
    units: list[str]
    fits: list[str]


def range_losses(parts: Iterable[Iterable[GroupLosses]]) -> list[RangeLoss]:
    """Losses of at least LEAST_SHARE and LEAST_READINGS: of a variable as a whole, then of its sites, units and items that stand out.

    parts: of each part of the ingest, its groups (`group_losses`).
    """
    by_variable: dict[str, list[GroupLosses]] = {}
    for group in add_losses(parts):
        by_variable.setdefault(group["variable"], []).append(group)
    found = []
    for name, groups in by_variable.items():
        whole = _loss(name, "all readings", groups)
        found += [whole] if whole else []
        for field in ("site", "unit", "item"):
            values = sorted({str(group[field]) for group in groups})
            for value in values if len(values) > 1 else ():
                own = [group for group in groups if str(group[field]) == value]
                loss = _loss(name, f"without {field}" if value == "None" else f"{field} {value}", own)
                found += [loss] if loss else []
    return found


def describe(loss: RangeLoss) -> str:
    """One line for the end of an ingest: `Calcium, site B: 412 of 900 readings (46 %) lost …; median 1.7 mg/dL; …`."""
    name = load_variables()[loss["variable"]].text_name
    where = "" if loss["where"] == "all readings" else f", {loss['where']}"
    unit = f" {' or '.join(loss['units'])}" if loss["units"] else " without a unit"
    fits = f"most lie in the range of {' or '.join(loss['fits'])}" if loss["fits"] else "no other variable or unit of the dictionary fits"
    lost = f"{loss['num_lost']} of {loss['num_readings']} readings ({100 * loss['share_lost']:.3g} %)"
    return f"{name}{where}: {lost} lost as implausible or of an unknown unit; median {loss['median_lost']:g}{unit}; {fits}"


def _loss(name: str, where: str, groups: Sequence[GroupLosses]) -> RangeLoss | None:
    num_readings, num_lost = (sum(group[field] for group in groups) for field in ("num_readings", "num_lost"))
    if num_lost < LEAST_READINGS or num_lost < LEAST_SHARE * num_readings:
        return None
    lost = [group for group in groups if group["num_lost"]]
    values = sorted((float(value), number) for group in lost for value, number in group["values"].items())
    units = sorted({group["unit"] for group in lost if group["unit"] is not None})
    return {
        "variable": name,
        "where": where,
        "num_readings": num_readings,
        "num_lost": num_lost,
        "share_lost": num_lost / num_readings,
        "median_lost": median_of(values),
        "units": units,
        "fits": _fits(load_variables()[name], values, units),
    }


def median_of(values: Sequence[tuple[float, int]]) -> float:
    """Median of (value, how often) pairs, sorted by value; of an even number the lower one. Raises ValueError when there is none."""
    total, seen = sum(number for _, number in values), 0
    for value, number in values:
        seen += number
        if 2 * seen >= total:
            return value
    raise ValueError("no values")


def _fits(variable: Variable, values: Sequence[tuple[float, int]], units: Sequence[str]) -> list[str]:
    """Other units of the variable, then its relatives (variables whose name begins with the same word), that most values fit."""
    found = [
        describe_reading(variable, reading) for reading in readings_in_other_units(variable, units) if _fits_as(variable, reading, values)
    ]
    stem = variable.name.split("_")[0]
    for other in load_variables().values():
        is_relative = other.name.split("_")[0] == stem and other.name != variable.name and other.of is None
        measures_alike = other.unit == variable.unit or unit_conversion(canonical_unit(other.unit) or other.unit, variable.name) is not None
        # Values are compared as charted, so they must be in the relative's unit, or in this variable's, which a misfiled reading may carry.
        has_unit = not units or other.unit in units or variable.unit in units
        is_other = other.unit != variable.unit or other.maximum != variable.maximum
        if is_relative and measures_alike and has_unit and is_other and _mostly_in(other, values):
            found.append(f"{other.text_name} ({other.unit})")
    return list(dict.fromkeys(found))


def _fits_as(variable: Variable, reading: Reading, values: Sequence[tuple[float, int]]) -> bool:
    """Whether most values are plausible in this unit, and the median is not implausibly small after conversion."""
    if variable.minimum is None or variable.maximum is None:
        return False
    converted = [(reading.convert(value), number) for value, number in values]
    least = variable.maximum * _LEAST_OF_MAXIMUM if variable.minimum <= 0 else variable.minimum
    # Numbers above the maximum fit the low end of the range in any unit whose factor is small enough. `known.lowest` is the lowest median
    # that an ICU population can have, so it refuses such a unit.
    known = load_medians().get(variable.name)
    if known is not None and median_of(values) > variable.maximum:
        least = known.lowest
    return _mostly_in(variable, converted) and abs(median_of(sorted(converted))) >= least


def _mostly_in(variable: Variable, values: Sequence[tuple[float, int]]) -> bool:
    if variable.minimum is None or variable.maximum is None:
        return False
    inside = sum(number for value, number in values if variable.minimum <= value <= variable.maximum)
    return inside >= _FITTING * sum(number for _, number in values)
