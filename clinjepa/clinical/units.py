"""From one unit to another, by the tables of `maps/units.yaml`: inside a quantity, per kg of body weight, and mmol/L to mg/dL.

Only conversions that are certain: both units are known and measure the same of this variable. `variables.yaml` has the conversions that
hold for single items, and for temperatures.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, TypedDict, cast

from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.clinical.variables import Variable, canonical_unit, load_variables
from clinjepa.errors import ConfigError

_WHERE = "clinjepa/clinical/maps/units.yaml"
_MOLAR, _MASS, _CHARGE = "molar_concentration", "mass_concentration", "charge_concentration"


class UnitConversion(NamedTuple):
    """value * factor, divided by body weight in kg (`per_kg` -1), multiplied by it (1), or neither (0)."""

    factor: float
    per_kg: int = 0


class _Units(TypedDict):
    """`maps/units.yaml`; its header explains the keys."""

    missing: list[str]
    units: dict[str, list[str]]
    quantities: dict[str, dict[str, float]]
    per_kg: dict[str, str]
    molar_mass: dict[str, float]
    charge: dict[str, int]


@lru_cache(maxsize=4096)
def unit_conversion(unit: str, variable: str) -> UnitConversion | None:
    """How a value in `unit` (canonical spelling) is brought to the unit of `variable`; None where the table does not say it."""
    table, own = _table(), _unit_of(load_variables()[variable])
    found, wanted = _quantity(unit), _quantity(own)
    if found is None or wanted is None:
        return None
    (start, multiple), (end, unit_multiple) = found, wanted
    factor = multiple / unit_multiple
    if start == end:
        return UnitConversion(factor)
    if table["per_kg"].get(end) == start:
        return UnitConversion(factor, -1)
    if table["per_kg"].get(start) == end:
        return UnitConversion(factor, 1)
    between = {_MOLAR: 1.0}
    if variable in table["molar_mass"]:
        between[_MASS] = 10.0 / table["molar_mass"][variable]  # mmol/L per mg/dL
    if variable in table["charge"]:
        between[_CHARGE] = 1.0 / table["charge"][variable]  # mmol/L per mEq/L
    if start in between and end in between:
        return UnitConversion(factor * between[start] / between[end])
    return None


@lru_cache(maxsize=1024)
def units_of(variable: str) -> tuple[str, ...]:
    """The variable's unit and the others of the same quantity."""
    own = _unit_of(load_variables()[variable])
    found = _quantity(own)
    return (own,) if found is None else tuple(_table()["quantities"][found[0]])


@lru_cache(maxsize=1024)
def convertible_units(variable: str) -> dict[str, UnitConversion]:
    """All other units of the table that are brought to the unit of `variable`; those of another quantity (molar, per patient) first."""
    own = _unit_of(load_variables()[variable])
    quantities = _table()["quantities"]
    own_quantity = _quantity(own)
    order = sorted(quantities, key=lambda name: own_quantity is not None and name == own_quantity[0])
    found = ((unit, unit_conversion(unit, variable)) for name in order for unit in quantities[name] if unit != own)
    return {unit: conversion for unit, conversion in found if conversion is not None}


def _unit_of(variable: Variable) -> str:
    return canonical_unit(variable.unit) or variable.unit


def _quantity(unit: str) -> tuple[str, float] | None:
    """(quantity, multiple of its first unit) of a unit."""
    return next(((name, units[unit]) for name, units in _table()["quantities"].items() if unit in units), None)


@lru_cache(maxsize=1)
def _table() -> _Units:
    """The table; ConfigError when a quantity has a unit without a spelling, or an entry names no variable or quantity."""
    keys = {"missing", "units", "quantities", "per_kg", "molar_mass", "charge"}
    content = cast(_Units, check_keys(read_definitions("maps/units.yaml"), keys, set(), _WHERE))
    units = [unit for names in content["quantities"].values() for unit in names]
    unspelled = sorted(set(units) - content["units"].keys())
    twice = sorted({unit for unit in units if units.count(unit) > 1})
    unknown = sorted((content["molar_mass"].keys() | content["charge"].keys()) - load_variables().keys())
    rates = sorted({*content["per_kg"], *content["per_kg"].values()} - content["quantities"].keys())
    for names, fault in (
        (unspelled, "are in quantities and not in units"),
        (twice, "are in two quantities"),
        (unknown, "are not in variables.yaml"),
        (rates, "are not in quantities"),
    ):
        if names:
            raise ConfigError(f"{_WHERE}: {names} {fault}")
    return content
