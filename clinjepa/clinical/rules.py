"""Cohort presets and the list of fields that must never be in a text.

Both are data (`cohorts.yaml`, `exclusions.yaml`) with their source or reason; this module reads and checks them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypedDict

from clinjepa.clinical.definitions import Key, check_entry, check_keys, read_definitions
from clinjepa.errors import ConfigError

PRESET_KEYS = (Key("source", "Where the rules are taken from."), Key("fields", "The cohort's rules, see below; all are required."))
"""Keys of a cohort preset in `cohorts.yaml`."""

COHORT_KEYS = (
    Key("min_age_years", "Lowest age, in years; null: any."),
    Key("min_stay_hours", "Shortest stay, in hours."),
    Key("max_stay_hours", "Hours after which a longer stay is cut; null: never."),
    Key("first_stay_of_admission", "true: only the first ICU stay of a hospital admission."),
    Key("min_vitals_records", "Lowest number of hours with a vital sign."),
    Key("max_gap_hours", "Longest gap between measured hours, in hours; null: any."),
)
"""Rules of a cohort, as in the configuration section `cohort`."""

EXCLUSION_KEYS = (
    Key("field", "Name of the excluded field; counts and messages use it."),
    Key("names", "Its names in data sets and derived tables. Case is ignored; a code is compared by its parts before each `//`."),
    Key("reason", "Why it must not be in a text."),
)
"""Keys of an entry of `exclusions.yaml`."""


class CohortFields(TypedDict):
    """Rules of a cohort; COHORT_KEYS explains them."""

    min_age_years: float | None
    min_stay_hours: float
    max_stay_hours: float | None
    first_stay_of_admission: bool
    min_vitals_records: int
    max_gap_hours: float | None


@dataclass(frozen=True)
class Exclusion:
    """A field that must not be in a text; EXCLUSION_KEYS explains the fields."""

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
        entry = check_entry(raw, EXCLUSION_KEYS, f"{where}: entry {position + 1}")
        if not entry["names"] or not entry["reason"]:
            raise ConfigError(f"{where}: {entry['field']!r} needs at least one name and a reason")
        entries.append(Exclusion(entry["field"], tuple(entry["names"]), entry["reason"]))
    return tuple(entries)


@lru_cache(maxsize=1)
def load_exclusions() -> frozenset[str]:
    """All names of excluded fields, as they are written in the data sets."""
    return frozenset(name for entry in load_exclusion_list() for name in (entry.field, *entry.names))


@lru_cache(maxsize=65536)
def excluded_by(name: str) -> str | None:
    """The excluded field that a field or code (`DIAGNOSIS//ICD//10//…`) belongs to, or None. Case is ignored."""
    parts = name.casefold().split("//")
    prefixes = {"//".join(parts[: length + 1]) for length in range(len(parts))}
    return next((field for excluded, field in _folded().items() if excluded in prefixes), None)


def load_cohort(preset: str) -> CohortFields:
    """The fields of the configuration section `cohort` that a preset sets; ConfigError for an unknown preset."""
    where = "clinjepa/clinical/cohorts.yaml"
    presets = check_keys(read_definitions("cohorts.yaml"), {"version", "presets"}, set(), where)["presets"]
    if preset not in presets:
        raise ConfigError(f"cohort.preset={preset!r} is not known; known are {sorted(presets)}")
    entry = check_entry(presets[preset], PRESET_KEYS, f"{where}: {preset}")
    fields = check_entry(entry["fields"], COHORT_KEYS, f"{where}: {preset}")
    return CohortFields(
        min_age_years=fields["min_age_years"],
        min_stay_hours=fields["min_stay_hours"],
        max_stay_hours=fields["max_stay_hours"],
        first_stay_of_admission=fields["first_stay_of_admission"],
        min_vitals_records=fields["min_vitals_records"],
        max_gap_hours=fields["max_gap_hours"],
    )


@lru_cache(maxsize=1)
def _folded() -> dict[str, str]:
    return {name.casefold(): entry.field for entry in load_exclusion_list() for name in (entry.field, *entry.names)}
