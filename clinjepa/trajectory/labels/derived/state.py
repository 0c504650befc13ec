"""Columns of hour rows by name: grid columns as they are, derived quantities computed on demand.

Serves the label rules (`labels/rules.py`) and, where `text.exclusions` says so, two scores in texts (`labels/scores.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from clinjepa.clinical.derived import load_derived
from clinjepa.trajectory.labels.hour_rows import HourRows
from clinjepa.trajectory.labels.states import evaluate

Function = Callable[["DerivedState", Any], np.ndarray]
"""(state, parameters of the quantity's family) -> float64 per row. Each function declares its parameters as a TypedDict."""


class DerivedState:
    """Columns of hour rows. A derived quantity is computed when it is first read, and kept."""

    def __init__(self, rows: HourRows, functions: Mapping[str, Function]) -> None:
        """functions: as `registry.functions` returns them."""
        self.rows = rows
        self._functions = functions
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
                self._known[name] = self._functions[name](self, quantity.parameters)
        return self._known[name]
