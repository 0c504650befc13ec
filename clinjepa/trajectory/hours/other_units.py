"""What a column of numbers would be in each other unit of its variable, for `range_losses` and `odd_medians`.

The units are those of `clinjepa/clinical/maps/units.yaml` and of the variable's own conversions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from clinjepa.clinical import Variable, canonical_unit
from clinjepa.clinical.units import convertible_units

TYPICAL_WEIGHT_KG = 80.0
"""Body weight with which a rate per patient is compared with one per kg: the mean admission weight of ICU patients (CinC 2012: 83 kg)."""


class Reading(NamedTuple):
    """A number read in `unit` means (value + add) * multiply in the variable's unit. unit: None for a conversion whose unit has no name."""

    unit: str | None
    add: float
    multiply: float
    by_weight: bool = False

    def convert(self, value: float) -> float:
        return (value + self.add) * self.multiply


def readings_in_other_units(variable: Variable, charted: Sequence[str]) -> list[Reading]:
    """Every unit that numbers of the variable may have instead. charted: units of the data; its own unit is one if they differ."""
    own = canonical_unit(variable.unit) or variable.unit
    found = [Reading(own, 0.0, 1.0)] if any(unit not in (own, variable.unit, *variable.unit_aliases) for unit in charted) else []
    for unit, (factor, per_kg) in convertible_units(variable.name).items():
        reading = Reading(unit, 0.0, factor * TYPICAL_WEIGHT_KG**per_kg, per_kg != 0)
        if not math.isclose(reading.multiply, 1.0):
            found.append(reading)
    for rule in variable.conversions:
        if rule.drop is not None or rule.per_kg or (rule.add == 0 and abs(rule.multiply) == 1):
            continue
        if not any(math.isclose(rule.add, one.add) and math.isclose(rule.multiply, one.multiply, rel_tol=1e-6) for one in found):
            found.append(Reading(rule.unit or _named(variable, rule.add, rule.multiply), rule.add, rule.multiply))
    return found


def describe_reading(variable: Variable, reading: Reading) -> str:
    """`Creatinine in umol/L`, `SpO2 as a fraction`, `Norepinephrine in mcg/min (at 80 kg)`."""
    if reading.unit == "fraction":
        return f"{variable.text_name} as a fraction"
    unit = reading.unit or f"a unit that is (x {reading.add:+g}) * {reading.multiply:g} {variable.unit}"
    return f"{variable.text_name} in {unit}" + (f" (at {TYPICAL_WEIGHT_KG:g} kg)" if reading.by_weight else "")


def _named(variable: Variable, add: float, multiply: float) -> str | None:
    """The unit of another conversion of the variable that is the same but names it."""
    same = (rule.unit for rule in variable.conversions if (rule.add, rule.multiply) == (add, multiply) and rule.unit is not None)
    return next(same, None)
