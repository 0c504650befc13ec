"""Medians that any ICU population can have: `maps/medians.yaml`. A median outside says that a column is in another unit."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.clinical.variables import load_variables
from clinjepa.errors import ConfigError


class MedianInterval(NamedTuple):
    """Lowest and highest median of a variable, in its unit."""

    lowest: float
    highest: float


@lru_cache(maxsize=1)
def load_medians() -> Mapping[str, MedianInterval]:
    """Variable -> interval; ConfigError when an entry names no variable or no interval."""
    where = "clinjepa/clinical/maps/medians.yaml"
    return parse_medians(check_keys(read_definitions("maps/medians.yaml"), {"medians"}, set(), where)["medians"], where)


def parse_medians(content: Any, where: str) -> dict[str, MedianInterval]:
    """The intervals from parsed YAML; errors as `load_medians`."""
    found = {}
    for name, ends in content.items():
        if name not in load_variables():
            raise ConfigError(f"{where}: {name!r} is not a variable of variables.yaml")
        if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends) and ends[0] < ends[1]):
            raise ConfigError(f"{where}: {name}: expected [lowest, highest]")
        found[name] = MedianInterval(float(ends[0]), float(ends[1]))
    return found
