"""Norepinephrine equivalents, shock index and MELD per hour. Weights and sources: `clinical/derived/circulatory.yaml`, `hepatic.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState


def nee(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    """Norepinephrine equivalents in mcg/kg/min; 0 where no vasopressor runs."""
    total = np.zeros(len(state.rows))
    for name, weight in parameters["nee_weights"].items():
        total = total + weight * state.rows.given(name)
    return total


def shock_index(state: DerivedState, _: dict[str, Any]) -> np.ndarray:
    """Heart rate over systolic pressure of the same hour."""
    pressure = state.rows.column("sbp")
    return state.rows.column("heart_rate") / np.where(pressure > 0, pressure, np.nan)


def meld(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    """MELD in hours in which bilirubin, INR or creatinine was measured and all are known."""
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


FUNCTIONS = {"nee": nee, "shock_index": shock_index, "meld": meld}
