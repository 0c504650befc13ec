"""Derived clinical state per hour from grid and history, for labels only: the registry, and what it asks of a definition.

A definition is an entry of `clinical/derived/*.yaml`; one without a `condition` has here a function (state, parameters) -> values.
The functions stand beside this module by organ: `respiratory.py`, `renal.py`, `sofa.py` ….
"""

from __future__ import annotations

from clinjepa.trajectory.labels.derived import circulatory, renal, respiratory, sepsis, sofa
from clinjepa.trajectory.labels.derived.state import Function


def functions() -> dict[str, Function]:
    """Derived quantity -> the function that computes it, for those whose definition is not a condition alone."""
    modules = (respiratory, circulatory, renal, sofa, sepsis)
    return {name: function for module in modules for name, function in module.FUNCTIONS.items()}
