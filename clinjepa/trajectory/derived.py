"""Derived clinical state per hour from grid and history, for labels only: the registry, and what it asks of a definition.

A definition is an entry of `clinical/derived/*.yaml`; one without a `condition` has here a function (state, parameters) -> values.
The functions stand beside this module by organ: `derived_respiratory.py`, `derived_renal.py`, `derived_sofa.py` ….
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from clinjepa.clinical.derived import load_derived
from clinjepa.trajectory.hour_rows import HourRows
from clinjepa.trajectory.states import evaluate

Function = Callable[["DerivedState", dict[str, Any]], np.ndarray]


class DerivedState:
    """Columns of some hour rows, derived ones computed when they are first asked for."""

    def __init__(self, rows: HourRows) -> None:
        self.rows = rows
        self._known: dict[str, np.ndarray] = {}

    def column(self, name: str) -> np.ndarray:
        """A grid column or a derived quantity: float64 per row, NaN where unknown."""
        quantity = load_derived().get(name)
        if quantity is None:
            return self.rows.column(name)
        if name not in self._known:
            if quantity.condition is not None:
                self._known[name] = evaluate(quantity.condition, self.column)
            else:
                self._known[name] = functions()[name](self, quantity.parameters)
        return self._known[name]


def functions() -> dict[str, Function]:
    """Derived quantity -> the function that computes it, for those whose definition is not a condition alone."""
    from clinjepa.trajectory import derived_circulatory, derived_renal, derived_respiratory, derived_sepsis, derived_sofa

    modules = (derived_respiratory, derived_circulatory, derived_renal, derived_sofa, derived_sepsis)
    return {name: function for module in modules for name, function in module.FUNCTIONS.items()}
