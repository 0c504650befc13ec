"""Columns whose kept readings have a median that no ICU population has: part of the data card, and a warning only.

A whole column in another unit passes where the plausible range begins at 0: a glucose of 5.6 is plausible in mg/dL, a median of 5.6 is not.
The intervals are `clinjepa/clinical/maps/medians.yaml`. Fields: docs/data_card.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypedDict

from clinjepa.clinical import Variable, canonical_unit, load_variables
from clinjepa.clinical.medians import MedianInterval, load_medians
from clinjepa.clinical.units import unit_conversion
from clinjepa.sources.readings.range_losses import GroupLosses, add_losses
from clinjepa.trajectory.hours.other_units import describe_reading, readings_in_other_units
from clinjepa.trajectory.hours.range_losses import LEAST_READINGS, median_of


class OddMedian(TypedDict):
    """median, lowest, highest: in `unit`, that of the variable. fits: units in which the median would lie in the interval."""

    variable: str
    where: str
    num_readings: int
    median: float
    unit: str
    lowest: float
    highest: float
    fits: list[str]


def odd_medians(parts: Iterable[Iterable[GroupLosses]]) -> list[OddMedian]:
    """Variables with an odd median in all readings, a site, a unit or an item of at least LEAST_READINGS kept readings."""
    by_variable: dict[str, list[GroupLosses]] = {}
    for group in add_losses(parts):
        if group["variable"] in load_medians():
            by_variable.setdefault(group["variable"], []).append(group)
    found = []
    for name, groups in by_variable.items():
        places = [("all readings", groups)]
        for field in ("site", "unit", "item"):
            values = sorted({str(group[field]) for group in groups})
            for value in values if len(values) > 1 else ():
                own = [group for group in groups if str(group[field]) == value]
                places.append((f"without {field}" if value == "None" else f"{field} {value}", own))
        found += [odd for where, own in places if (odd := _odd(load_variables()[name], where, own))]
    return found


def describe_odd(odd: OddMedian) -> str:
    """One line for the end of an ingest: `Glucose, site A: median 5.6 mg/dL of 400 readings, outside 60 to 400; Glucose in mmol/L fits`."""
    name = load_variables()[odd["variable"]].text_name
    where = "" if odd["where"] == "all readings" else f", {odd['where']}"
    fits = f"{' or '.join(odd['fits'])} would fit" if odd["fits"] else "no other unit of the table fits"
    median = f"median {odd['median']:g} {odd['unit']} of {odd['num_readings']} readings"
    return f"{name}{where}: {median}, no ICU population's (outside {odd['lowest']:g} to {odd['highest']:g}); {fits}"


def _odd(variable: Variable, where: str, groups: Sequence[GroupLosses]) -> OddMedian | None:
    values = sorted((float(value), number) for group in groups for value, number in group.get("kept", {}).items())
    num_readings = sum(number for _, number in values)
    if num_readings < LEAST_READINGS:
        return None
    median, interval = median_of(values), load_medians()[variable.name]
    if interval.lowest <= median <= interval.highest:
        return None
    return {
        "variable": variable.name,
        "where": where,
        "num_readings": num_readings,
        "median": median,
        "unit": variable.unit,
        "lowest": interval.lowest,
        "highest": interval.highest,
        "fits": _fits(variable, median, {group["unit"] for group in groups}, interval),
    }


def _fits(variable: Variable, median: float, units: set[str | None], interval: MedianInterval) -> list[str]:
    """Units in which the numbers as charted have a possible median. Only one unit of all readings can be undone."""
    charted = [unit for unit in units if unit is not None]
    conversion = None
    if len(units) == 1 and charted and charted[0] != canonical_unit(variable.unit):
        conversion = unit_conversion(charted[0], variable.name)
    if conversion is not None and not conversion.per_kg:
        median /= conversion.factor
    return [
        describe_reading(variable, reading)
        for reading in readings_in_other_units(variable, charted)
        if interval.lowest <= reading.convert(median) <= interval.highest
    ]
