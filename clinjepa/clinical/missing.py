"""The values that mean "not measured", for each variable and on every source: `maps/missing.yaml`.

`clinjepa.sources.readings.missing_values` drops such rows and counts them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError

_WHERE = "clinjepa/clinical/maps/missing.yaml"


class MissingCode(NamedTuple):
    """A number that means "missing" where it lies outside a variable's plausible range, and on the variables in `also`."""

    value: float
    also: frozenset[str]


class MissingValues(NamedTuple):
    """zero_is_missing, zero_is_value: variables whose 0 is no reading, or is one. texts: of a category, in lower case."""

    zero_is_missing: frozenset[str]
    zero_is_value: frozenset[str]
    codes: tuple[MissingCode, ...]
    texts: frozenset[str]


@lru_cache(maxsize=1)
def missing_values() -> MissingValues:
    """The table of `maps/missing.yaml`; ConfigError when it contradicts itself or names no variable of the dictionary."""
    return parse_missing(read_definitions("maps/missing.yaml"), _WHERE)


def parse_missing(content: Any, where: str) -> MissingValues:
    """The table from parsed YAML.

    A variable in neither group of zeros has a 0 that is a value.

    Raises:
        ConfigError: A key is missing or unknown, a variable is unknown or in two groups, or a code is no number.
    """
    keys = {"version", "zero_is_missing", "zero_is_value", "codes", "texts"}
    content = check_keys(content, keys, set(), where)
    zeros = {key: _variables(content[key], f"{where}: {key}") for key in ("zero_is_missing", "zero_is_value")}
    both = sorted(set(zeros["zero_is_missing"]) & set(zeros["zero_is_value"]))
    if both:
        raise ConfigError(f"{where}: {both} are in zero_is_missing and in zero_is_value; keep one of them")
    codes = []
    for position, raw in enumerate(content["codes"]):
        place = f"{where}: code {position + 1}"
        entry = check_keys(raw, {"value", "also"}, set(), place)
        if not isinstance(entry["value"], int | float):
            raise ConfigError(f"{place}: value is not a number")
        codes.append(MissingCode(float(entry["value"]), frozenset(_known(entry["also"], place))))
    texts = frozenset(text.casefold() for text in content["texts"])
    return MissingValues(frozenset(zeros["zero_is_missing"]), frozenset(zeros["zero_is_value"]), tuple(codes), texts)


def _variables(groups: Any, where: str) -> list[str]:
    """The variables of all groups; each group has a reason."""
    found: list[str] = []
    for position, raw in enumerate(groups):
        group = check_keys(raw, {"why", "variables"}, set(), f"{where}, group {position + 1}")
        found += _known(group["variables"], f"{where}, group {position + 1}")
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: {twice} are in two groups; keep one of them")
    return found


def _known(names: list[str], where: str) -> list[str]:
    unknown = sorted(set(names) - load_variables().keys())
    if unknown:
        raise ConfigError(f"{where}: {unknown} are not in variables.yaml")
    return names
