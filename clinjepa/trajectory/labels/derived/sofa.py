"""SOFA per organ and in all, per hour. Points, thresholds and sources: `clinical/derived/sofa.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from clinjepa.trajectory.labels.states import compare

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState

ORGANS = ("respiration", "coagulation", "liver", "cardiovascular", "cns", "renal")


def sofa_respiration(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    return np.fmax(_points(state, parameters["respiration"]), _points(state, parameters["respiration_ventilated"]))


def sofa_coagulation(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    return _points(state, parameters["coagulation"])


def sofa_liver(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    return _points(state, parameters["liver"])


def sofa_cardiovascular(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    """By drug, else by pressure; unknown where no drug runs and no pressure is known."""
    points = _points(state, parameters["pressure"])
    for drug, over, worth in parameters["catecholamines"]["over"]:
        points = np.where(compare(state.rows.given(drug), ">", over), np.fmax(points, float(worth)), points)
    return points


def sofa_cns(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    return _points(state, parameters["cns"])


def sofa_renal(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    return np.fmax(_points(state, parameters["creatinine"]), _points(state, parameters["urine"]))


def sofa(state: DerivedState, parameters: dict[str, Any]) -> np.ndarray:
    """Sum over the organs of the highest points of the last 24 hours; NaN until one organ has been seen."""
    worst = np.stack([state.rows.trailing_max(state.column(f"sofa_{organ}"), parameters["window_hours"]) for organ in ORGANS])
    return np.where(np.isnan(worst).all(axis=0), np.nan, np.nan_to_num(worst, nan=0.0).sum(axis=0))


def _points(state: DerivedState, rule: dict[str, Any]) -> np.ndarray:
    """Points of one column: the highest step that holds, 0 where none does, NaN where the column is unknown."""
    values = state.column(rule["column"])
    points = np.where(np.isnan(values), np.nan, 0.0)
    steps = [("<", step) for step in rule.get("below", ())] + [(">=", step) for step in rule.get("at_least", ())]
    for op, (threshold, worth) in steps:
        points = np.where(compare(values, op, threshold), np.fmax(points, float(worth)), points)
    return points


FUNCTIONS = {
    "sofa_respiration": sofa_respiration,
    "sofa_coagulation": sofa_coagulation,
    "sofa_liver": sofa_liver,
    "sofa_cardiovascular": sofa_cardiovascular,
    "sofa_cns": sofa_cns,
    "sofa_renal": sofa_renal,
    "sofa": sofa,
}
