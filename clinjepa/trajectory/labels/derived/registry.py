"""The table of derived quantities that need code: name -> function (state, parameters) -> values per hour row.

A quantity is defined by an entry of `clinjepa/clinical/derived/*.yaml`; one whose entry has a `condition` needs no function.
"""

from __future__ import annotations

from clinjepa.trajectory.labels.derived import circulatory, renal, respiratory, sepsis, sofa
from clinjepa.trajectory.labels.derived.state import Function


def functions() -> dict[str, Function]:
    """Derived quantity -> its function, for all quantities whose definition is not a condition alone."""
    modules = (respiratory, circulatory, renal, sofa, sepsis)
    return {name: function for module in modules for name, function in module.FUNCTIONS.items()}
