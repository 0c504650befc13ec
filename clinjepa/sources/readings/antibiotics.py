"""Which drugs are systemic antibiotics, by name: `clinical/maps/antibiotics.yaml`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TypedDict

import polars as pl

from clinjepa.clinical.definitions import read_definitions

_BETWEEN_WORDS = r"[_\-\s]+"


class AntibioticMap(TypedDict):
    """`clinical/maps/antibiotics.yaml`; its header explains the keys."""

    drugs: list[str]
    not_drugs: list[str]
    excluded_routes: list[str]


def is_antibiotic(name: str) -> bool:
    """Whether a drug of this name is an antibiotic; the route is judged apart (`is_systemic`)."""
    drugs, others = _antibiotic_patterns()
    return bool(drugs.search(name)) and not others.search(name)


def is_systemic(route: pl.Expr) -> pl.Expr:
    """Whether a drug by this route acts in the whole body, by `excluded_routes`; a missing route counts as systemic."""
    excluded = [re.sub(_BETWEEN_WORDS, "", name.lower()) for name in antibiotic_map()["excluded_routes"]]
    return ~route.str.to_lowercase().str.replace_all(_BETWEEN_WORDS, "").is_in(excluded).fill_null(False)


@lru_cache(maxsize=1)
def _antibiotic_patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    content = antibiotic_map()
    drugs, others = ("|".join(f"(?:{pattern})" for pattern in patterns) for patterns in (content["drugs"], content["not_drugs"]))
    return re.compile(drugs, re.IGNORECASE), re.compile(others, re.IGNORECASE)


@lru_cache(maxsize=1)
def antibiotic_map() -> AntibioticMap:
    """The content of `clinical/maps/antibiotics.yaml`."""
    content: AntibioticMap = read_definitions("maps/antibiotics.yaml")
    return content
