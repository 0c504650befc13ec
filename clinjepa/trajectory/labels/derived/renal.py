"""Urine rates, KDIGO stages and kidney failure per hour. Windows, thresholds and sources: `clinjepa/clinical/derived/renal.yaml`.

An hour with charted urine documents the hours since the previous charting. A rate is the urine of a window divided by the hours
that the window's chartings document.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypedDict

import numpy as np

if TYPE_CHECKING:
    from clinjepa.trajectory.labels.derived.state import DerivedState, Function


class RenalParameters(TypedDict):
    """`parameters` of `renal.yaml`; creatinine in mg/dL, urine rates in mL/kg/h."""

    default_weight_kg: float
    max_gap_hours: int
    urine_windows: dict[int, tuple[float, float | None]]
    """Hours of a window -> documented hours it needs: at least, and below (None: no bound)."""

    urine_total_hours: tuple[float, float]
    """Documented hours that a total of 24 h needs: at least, at most."""

    acute_window_hours: int
    baseline_window_hours: int
    rise: float
    ratios: tuple[float, float, float]
    """Creatinine over its baseline from which stages 1, 2 and 3 begin."""

    severe_creatinine: float
    urine_after_hours: int
    urine_thresholds: dict[str, float]
    """`stage_1` to `stage_3` -> rate below which the stage holds."""

    smoothing_hours: int
    failure_urine_rate: float
    failure_urine_hours: tuple[int, int]
    """Hours with rates below `failure_urine_rate`, and hours without urine, that make kidney failure."""


def rrt(state: DerivedState, _: RenalParameters) -> np.ndarray:
    """1 in hours of any renal replacement therapy, else 0."""
    procedures = [state.rows.given(name) > 0 for name in ("hemodialysis", "peritoneal_dialysis")]
    return np.asarray(np.logical_or.reduce([state.column("crrt_any") > 0, *procedures]), np.float64)


def crrt_any(state: DerivedState, _: RenalParameters) -> np.ndarray:
    """1 in hours of continuous renal replacement therapy, by procedure or charted mode, else 0."""
    runs = (state.rows.given("crrt") > 0).astype(np.float64)
    charted, _words = state.rows.words("crrt_mode")
    runs[charted] = 1.0
    return runs


def urine_ml_kg_h(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """mL/kg/h since the previous charting, in hours with charted urine."""
    rate: np.ndarray = state.rows.column("urine_output") / _documented_hours(state, parameters) / _weight(state, parameters)
    return rate


def urine_rate(state: DerivedState, parameters: RenalParameters, hours: int) -> np.ndarray:
    """mL/kg/h over a window of `hours`, in hours with charted urine whose window has enough documented hours (`urine_windows`)."""
    rows, own = state.rows, state.rows.column("urine_output")
    covered = rows.trailing_sum(_documented_hours(state, parameters), hours)
    at_least, below = parameters["urine_windows"][hours]
    enough = (covered >= at_least) & (np.full(len(rows), True) if below is None else covered < below)
    total = rows.trailing_sum(own, hours)
    with np.errstate(divide="ignore", invalid="ignore"):
        rate = total / covered / _weight(state, parameters)
    return np.where(~np.isnan(own) & enough, rate, np.nan)


def urine_24h(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """mL in the last 24 h, scaled to 24 documented hours, in hours with charted urine."""
    rows, own = state.rows, state.rows.column("urine_output")
    covered = rows.trailing_sum(_documented_hours(state, parameters), 24)
    at_least, at_most = parameters["urine_total_hours"]
    enough = ~np.isnan(own) & (covered >= at_least) & (covered <= at_most)
    return np.where(enough, rows.trailing_sum(own, 24) / np.where(covered > 0, covered, np.nan) * 24, np.nan)


def kdigo_creatinine_stage(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """KDIGO stage by creatinine, 0 to 3, in hours with a creatinine that has an earlier one to be compared with."""
    rows, own = state.rows, state.rows.column("creatinine")
    lowest_48h, lowest_7d = (
        rows.shifted(rows.trailing_min(own, parameters[name]), 1) for name in ("acute_window_hours", "baseline_window_hours")
    )
    first, second, third = parameters["ratios"]
    with np.errstate(invalid="ignore"):
        acute = _at_least(own - lowest_48h, parameters["rise"])
        ratio = own / lowest_7d
        rises = acute | _at_least(ratio, first)
        severe = _at_least(own, parameters["severe_creatinine"]) & rises
        stage = np.where(_at_least(ratio, third) | severe, 3.0, np.where(_at_least(ratio, second), 2.0, np.where(rises, 1.0, 0.0)))
    return np.where(np.isnan(own) | np.isnan(lowest_7d), np.nan, stage)


def kdigo_urine_stage(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """KDIGO stage by urine rate, 0 to 3, in hours with charted urine; without the rate over 6 h no stage can be excluded."""
    rows, below = state.rows, parameters["urine_thresholds"]
    over_6h, over_12h, over_24h = (state.column(f"urine_ml_kg_h_{hours}h") for hours in (6, 12, 24))
    with np.errstate(invalid="ignore"):
        third = (over_24h < below["stage_3"]) | (over_12h <= 0)
        stage = np.where(third, 3.0, np.where(over_12h < below["stage_2"], 2.0, np.where(over_6h < below["stage_1"], 1.0, 0.0)))
    stage = np.where(rows.hour_R < parameters["urine_after_hours"], 0.0, stage)
    stage = np.where((stage == 0) & np.isnan(over_6h), np.nan, stage)
    return np.where(np.isnan(rows.column("urine_output")), np.nan, stage)


def kdigo_stage(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """The highest stage by creatinine, urine and CRRT; NaN where an unknown part could be higher than the known ones."""
    highest, is_complete = _kdigo_known(state, parameters)
    return np.where(is_complete | (highest == 3), highest, np.nan)


def kdigo_at_least(state: DerivedState, parameters: RenalParameters, stage: int) -> np.ndarray:
    """1 where a known part gives at least `stage`, 0 where all parts are known and none does, else NaN."""
    highest, is_complete = _kdigo_known(state, parameters)
    return np.where(highest >= stage, 1.0, np.where(is_complete, 0.0, np.nan))


def _kdigo_known(state: DerivedState, parameters: RenalParameters) -> tuple[np.ndarray, np.ndarray]:
    """(highest known stage of the last `smoothing_hours`, whether the stages by creatinine and by urine are both known in them).

    CRRT is stage 3; a treatment that is not recorded counts as not given.
    """
    hours = parameters["smoothing_hours"]
    creatinine, urine = (state.rows.trailing_max(state.column(f"kdigo_{part}_stage"), hours) for part in ("creatinine", "urine"))
    dialysed = state.rows.trailing_max(np.where(state.column("crrt_any") > 0, 3.0, np.nan), hours)
    return np.fmax(np.fmax(creatinine, urine), dialysed), ~np.isnan(creatinine) & ~np.isnan(urine)


def kidney_failure(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """Kidney failure per hour, 1, 0 or NaN. Source: eth-mds/icu-features."""
    rows, rate = state.rows, state.column("urine_ml_kg_h")
    parts = [rows.ever(state.column("crrt_any") > 0).astype(np.float64), *_failure_by_creatinine(state, parameters)]
    for hours, enough in zip(parameters["failure_urine_hours"], (rate >= parameters["failure_urine_rate"], rate > 0), strict=True):
        seen = (rows.trailing_count(~np.isnan(rate), hours) > 0) & (rows.hour_R + 1 >= hours)
        parts.append(np.where(seen, (rows.trailing_count(enough, hours) == 0).astype(np.float64), np.nan))
    stacked = np.stack(parts)
    return np.where((stacked == 1).any(axis=0), 1.0, np.where(np.isnan(stacked).any(axis=0), np.nan, 0.0))


def _failure_by_creatinine(state: DerivedState, parameters: RenalParameters) -> tuple[np.ndarray, np.ndarray]:
    """(the rule by the ratio to the baseline, the rule by level and rise), 1, 0 or NaN; NaN without the values that decide it.

    The baseline is the lowest creatinine of the 7 d before; without one the ratio is unknown. The level decides alone where it is too
    low; above it a rise must be seen, and with a single creatinine in the window none can be.
    """
    rows, own = state.rows, state.rows.column("creatinine")
    lowest_7d = rows.shifted(rows.trailing_min(own, parameters["baseline_window_hours"]), 1)
    window = parameters["acute_window_hours"]
    lowest, highest = rows.trailing_min(own, window), rows.trailing_max(own, window)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = _at_least(own / lowest_7d, parameters["ratios"][2]).astype(np.float64)
        rises = _at_least(highest - lowest, parameters["rise"]) | _at_least(highest / lowest, parameters["ratios"][0])
        is_high = own > parameters["severe_creatinine"]
    is_compared = rows.trailing_count(~np.isnan(own), window) > 1
    level = np.where(is_high & ~rises & ~is_compared, np.nan, (is_high & rises).astype(np.float64))
    return np.where(np.isnan(own) | np.isnan(lowest_7d), np.nan, ratio), np.where(np.isnan(own), np.nan, level)


def _documented_hours(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """Hours since the previous hour with charted urine, or since admission; NaN in hours without charted urine."""
    rows, own = state.rows, state.rows.column("urine_output")
    before = rows.previous_known(own)
    gap = np.where(before >= 0, rows.row_R - before, rows.hour_R + 1).astype(np.float64)
    gap = np.where(gap > parameters["max_gap_hours"], 1.0, np.maximum(gap, 1.0))
    return np.where(np.isnan(own), np.nan, gap)


def _weight(state: DerivedState, parameters: RenalParameters) -> np.ndarray:
    """kg per row; `default_weight_kg` where the weight is unknown or not positive."""
    weight = state.rows.constants.get("weight_kg")
    if weight is None:
        return np.full(len(state.rows), float(parameters["default_weight_kg"]))
    return np.where(np.isnan(weight) | (weight <= 0), float(parameters["default_weight_kg"]), weight)


def _at_least(values: np.ndarray, threshold: float) -> np.ndarray:
    """`values >= threshold` rounded to the grid's precision, so that 1.3 - 1.0 is a rise of 0.3."""
    return np.round(values, 5) >= threshold


FUNCTIONS: dict[str, Function] = {
    "rrt": rrt,
    "crrt_any": crrt_any,
    "urine_ml_kg_h": urine_ml_kg_h,
    "urine_ml_kg_h_6h": partial(urine_rate, hours=6),
    "urine_ml_kg_h_12h": partial(urine_rate, hours=12),
    "urine_ml_kg_h_24h": partial(urine_rate, hours=24),
    "urine_24h": urine_24h,
    "kdigo_creatinine_stage": kdigo_creatinine_stage,
    "kdigo_urine_stage": kdigo_urine_stage,
    "kdigo_stage": kdigo_stage,
    "kdigo_at_least_1": partial(kdigo_at_least, stage=1),
    "kdigo_at_least_2": partial(kdigo_at_least, stage=2),
    "kdigo_at_least_3": partial(kdigo_at_least, stage=3),
    "kidney_failure": kidney_failure,
}
