"""Suspicion of infection and Sepsis-3 per hour. Windows and sources: `clinjepa/clinical/derived/sepsis.yaml`.

Both look ahead, since an antibiotic follows its culture by up to three days. They serve labels only, never features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState, Function


class SepsisParameters(TypedDict):
    """`parameters` of `sepsis.yaml`; windows in hours."""

    culture_before_antibiotic_hours: int
    culture_after_antibiotic_hours: int
    sofa_before_hours: int
    sofa_after_hours: int
    sofa_points: int


def suspicion_of_infection(state: DerivedState, parameters: SepsisParameters) -> np.ndarray:
    """1 in hours in which a suspicion of infection begins, else 0."""
    rows = state.rows
    starts = np.flatnonzero(rows.given("antibiotic") > 0)
    next_culture = rows.next_true(rows.given("culture") > 0)
    earliest = np.maximum(rows.row_R[starts] - parameters["culture_before_antibiotic_hours"], rows.first_R[starts])
    culture_before, culture_after = next_culture[earliest], next_culture[starts]
    by_culture = culture_before <= starts
    by_antibiotic = ~by_culture & (culture_after <= starts + parameters["culture_after_antibiotic_hours"])
    begins = np.zeros(len(rows))
    begins[culture_before[by_culture]] = 1.0
    begins[starts[by_antibiotic]] = 1.0
    return begins


def sepsis3(state: DerivedState, parameters: SepsisParameters) -> np.ndarray:
    """1 from the first hour with at least `sofa_points` SOFA points near a suspicion, 0 before it."""
    rows = state.rows
    suspected = state.column("suspicion_of_infection") > 0
    # A suspicion near this hour: at most `sofa_before_hours` ahead, or at most `sofa_after_hours` ago.
    ahead = rows.next_true(suspected) <= rows.row_R + parameters["sofa_before_hours"]
    ago = rows.trailing_count(suspected, parameters["sofa_after_hours"] + 1) > 0
    dysfunction = np.nan_to_num(state.column("sofa"), nan=-1.0) >= parameters["sofa_points"]
    return rows.ever((ahead | ago) & dysfunction).astype(np.float64)


FUNCTIONS: dict[str, Function] = {"suspicion_of_infection": suspicion_of_infection, "sepsis3": sepsis3}
