"""Norepinephrine equivalents, shock index and MELD per hour.

Weights, coefficients and sources: `clinjepa/clinical/derived/circulatory.yaml` and `hepatic.yaml`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState, Function


class CirculatoryParameters(TypedDict):
    """`parameters` of `circulatory.yaml`."""

    nee_weights: dict[str, float]
    """Drug -> factor to norepinephrine in mcg/kg/min."""


class HepaticParameters(TypedDict):
    """`parameters` of `hepatic.yaml`: the MELD score."""

    coefficients: dict[str, float]
    constant: float
    floor: float
    creatinine_on_crrt: float
    crrt_hours: int
    carry_hours: int


def nee(state: DerivedState, parameters: CirculatoryParameters) -> np.ndarray:
    """Norepinephrine equivalents in mcg/kg/min; 0 where no vasopressor runs."""
    total = np.zeros(len(state.rows))
    for name, weight in parameters["nee_weights"].items():
        total = total + weight * state.rows.given(name)
    return total


def shock_index(state: DerivedState, _: CirculatoryParameters) -> np.ndarray:
    """Heart rate / systolic pressure of the same hour, in 1/(min mmHg)."""
    pressure = state.rows.column("sbp")
    return state.rows.column("heart_rate") / np.where(pressure > 0, pressure, np.nan)


def meld(state: DerivedState, parameters: HepaticParameters) -> np.ndarray:
    """MELD score in hours in which bilirubin, INR or creatinine was measured; NaN unless all three are known by then."""
    rows, floor = state.rows, parameters["floor"]
    score, drawn = np.full(len(rows), float(parameters["constant"])), np.zeros(len(rows), bool)
    on_crrt = rows.trailing_max(state.column("crrt_any"), parameters["crrt_hours"]) > 0
    for name, coefficient in parameters["coefficients"].items():
        own = rows.column(name)
        drawn |= ~np.isnan(own)
        value, _ = rows.last_known(own, parameters["carry_hours"])
        if name == "creatinine":
            value = np.where(on_crrt, parameters["creatinine_on_crrt"], value)
        score = score + coefficient * np.log(np.where(np.isnan(value), np.nan, np.maximum(value, floor)))
    return np.where(drawn, score, np.nan)


FUNCTIONS: dict[str, Function] = {"nee": nee, "shock_index": shock_index, "meld": meld}
