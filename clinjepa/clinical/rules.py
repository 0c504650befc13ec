"""Cohort presets and the list of fields that must never reach a text.

Both are data (`cohorts.yaml`, `exclusions.yaml`) with their source or reason; this module reads and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.errors import ConfigError

_COHORT_FIELDS = {"min_age_years", "min_stay_hours", "max_stay_hours", "first_stay_of_admission", "min_vitals_records", "max_gap_hours"}


@dataclass(frozen=True)
class Exclusion:
    """A field that must not be in a text: its names in the sources and derived tables, and why."""

    field: str
    names: tuple[str, ...]
    reason: str


@lru_cache(maxsize=1)
def load_exclusion_list() -> tuple[Exclusion, ...]:
    """The exclusion list with its reasons."""
    where = "clinjepa/clinical/exclusions.yaml"
    content = check_keys(read_definitions("exclusions.yaml"), {"version", "fields"}, set(), where)
    entries = []
    for position, raw in enumerate(content["fields"]):
        entry = check_keys(raw, {"field", "names", "reason"}, set(), f"{where}: entry {position + 1}")
        if not entry["names"] or not entry["reason"]:
            raise ConfigError(f"{where}: {entry['field']!r} needs at least one name and a reason")
        entries.append(Exclusion(entry["field"], tuple(entry["names"]), entry["reason"]))
    return tuple(entries)


@lru_cache(maxsize=1)
def load_exclusions() -> frozenset[str]:
    """All names of excluded fields, in the spelling of the sources."""
    return frozenset(name for entry in load_exclusion_list() for name in (entry.field, *entry.names))


@lru_cache(maxsize=65536)
def excluded_by(name: str) -> str | None:
    """The exclusion entry that a field or code (`DIAGNOSIS//ICD//10//…`) falls under, or None. Without regard to case."""
    parts = name.casefold().split("//")
    prefixes = {"//".join(parts[: length + 1]) for length in range(len(parts))}
    return next((field for excluded, field in _folded().items() if excluded in prefixes), None)


def load_cohort(preset: str) -> dict[str, Any]:
    """The fields of the configuration section `cohort` that a preset sets; ConfigError for an unknown one."""
    where = "clinjepa/clinical/cohorts.yaml"
    presets = check_keys(read_definitions("cohorts.yaml"), {"version", "presets"}, set(), where)["presets"]
    if preset not in presets:
        raise ConfigError(f"cohort.preset={preset!r} is not known; known are {sorted(presets)}")
    entry = check_keys(presets[preset], {"source", "fields"}, set(), f"{where}: {preset}")
    return dict(check_keys(entry["fields"], _COHORT_FIELDS, set(), f"{where}: {preset}"))


@lru_cache(maxsize=1)
def _folded() -> dict[str, str]:
    return {name.casefold(): entry.field for entry in load_exclusion_list() for name in (entry.field, *entry.names)}
