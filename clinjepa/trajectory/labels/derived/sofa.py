"""The SOFA score per organ and in total, per hour. Points, thresholds and sources: `clinjepa/clinical/derived/sofa.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NotRequired, TypedDict

import numpy as np

from clinjepa.trajectory.labels.states import compare

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState, Function

ORGANS = ("respiration", "coagulation", "liver", "cardiovascular", "cns", "renal")


class PointRule(TypedDict):
    """Steps [threshold, points] of one column, in its unit: `below` (<) or `at_least` (>=)."""

    column: str
    below: NotRequired[list[tuple[float, int]]]
    at_least: NotRequired[list[tuple[float, int]]]


class CatecholamineRule(TypedDict):
    """Steps [drug, rate in mcg/kg/min that must be exceeded, points]."""

    over: list[tuple[str, float, int]]


class SofaParameters(TypedDict):
    """`parameters` of `sofa.yaml`."""

    window_hours: int
    coagulation: PointRule
    liver: PointRule
    cns: PointRule
    creatinine: PointRule
    urine: PointRule
    respiration: PointRule
    respiration_ventilated: PointRule
    pressure: PointRule
    catecholamines: CatecholamineRule


def sofa_respiration(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By PaO2/FiO2, with more points in hours of invasive ventilation."""
    points: np.ndarray = np.fmax(_points(state, parameters["respiration"]), _points(state, parameters["respiration_ventilated"]))
    return points


def sofa_coagulation(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By platelets."""
    return _points(state, parameters["coagulation"])


def sofa_liver(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By total bilirubin."""
    return _points(state, parameters["liver"])


def sofa_cardiovascular(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By the running drugs, else by mean pressure; NaN where no drug runs and no pressure is known."""
    points = _points(state, parameters["pressure"])
    for drug, over, worth in parameters["catecholamines"]["over"]:
        points = np.where(compare(state.rows.given(drug), ">", over), np.fmax(points, float(worth)), points)
    return points


def sofa_cns(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By the Glasgow coma scale."""
    return _points(state, parameters["cns"])


def sofa_renal(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """By creatinine or the urine of 24 h, whichever gives more points."""
    points: np.ndarray = np.fmax(_points(state, parameters["creatinine"]), _points(state, parameters["urine"]))
    return points


def sofa(state: DerivedState, parameters: SofaParameters) -> np.ndarray:
    """Sum over organs of each one's highest points in the last 24 h; NaN until one organ has a value."""
    worst = np.stack([state.rows.trailing_max(state.column(f"sofa_{organ}"), parameters["window_hours"]) for organ in ORGANS])
    return np.where(np.isnan(worst).all(axis=0), np.nan, np.nan_to_num(worst, nan=0.0).sum(axis=0))


def _points(state: DerivedState, rule: PointRule) -> np.ndarray:
    """Points of one column: the highest step that holds, 0 where none does, NaN where the column is unknown."""
    values = state.column(rule["column"])
    points = np.where(np.isnan(values), np.nan, 0.0)
    steps = [("<", step) for step in rule.get("below", ())] + [(">=", step) for step in rule.get("at_least", ())]
    for op, (threshold, worth) in steps:
        points = np.where(compare(values, op, threshold), np.fmax(points, float(worth)), points)
    return points


FUNCTIONS: dict[str, Function] = {
    "sofa_respiration": sofa_respiration,
    "sofa_coagulation": sofa_coagulation,
    "sofa_liver": sofa_liver,
    "sofa_cardiovascular": sofa_cardiovascular,
    "sofa_cns": sofa_cns,
    "sofa_renal": sofa_renal,
    "sofa": sofa,
}
