"""From the entry of a loss term to its functions. Apart from the table, because the functions need torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clinjepa.curriculum.terms import masked, prediction, sigreg, values

_MODULES = {"masked": masked, "prediction": prediction, "sigreg": sigreg, "values": values}


def resolved(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """The function that an entry names as `module.function`, or that it holds."""
    if callable(function):
        return function
    module, name = function.split(".")
    found: Callable[..., Any] = getattr(_MODULES[module], name)
    return found
