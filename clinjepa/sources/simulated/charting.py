"""Charted values of a simulated course: sparse, irregular, rounded, and more frequent for sicker patients.

Values are charted in panels (all values of a blood count together). The times of a panel are a renewal process whose rate grows with
the hidden severity, so missingness is informative as in real charts. Vitals also have a gap when the patient is away.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinjepa.sources.simulated.patient import Course
from clinjepa.sources.simulated.physiology import STEP_HOURS


@dataclass(frozen=True)
class _Panel:
    """Variables that are charted together.

    calm, sick: hours between chartings for a stable and for a very sick patient. regularity: shape of the gamma distribution of these
    intervals. when: signal that must be positive. laboratory: whether results arrive with a delay. complete: probability that a
    value of the panel is charted.
    """

    variables: tuple[str, ...]
    calm: float
    sick: float
    regularity: float
    when: str | None = None
    laboratory: bool = False
    complete: float = 1.0


_PANELS = (
    _Panel(("heart_rate", "resp_rate", "spo2"), 1.1, 0.6, 12),
    _Panel(("map", "sbp", "dbp"), 1.3, 0.5, 10),
    _Panel(("temperature",), 4.0, 2.5, 8),
    _Panel(("gcs_eye", "gcs_verbal", "gcs_motor"), 4.5, 3.0, 8),
    _Panel(("fio2", "peep"), 4.0, 2.0, 6, when="ventilated"),
    _Panel(("glucose_fingerstick",), 7.0, 2.5, 4, complete=0.9),
    _Panel(
        ("creatinine", "bun", "sodium", "potassium", "chloride", "bicarbonate", "glucose", "magnesium"),
        18.0,
        7.0,
        6,
        laboratory=True,
        complete=0.97,
    ),
    _Panel(("wbc", "hemoglobin", "platelets"), 22.0, 10.0, 6, laboratory=True, complete=0.98),
    _Panel(("bilirubin_total", "inr"), 40.0, 16.0, 4, laboratory=True, complete=0.9),
    _Panel(("pao2", "paco2", "ph", "base_excess", "lactate"), 40.0, 3.5, 3, laboratory=True, complete=0.93),
    _Panel(("urine_output",), 1.6, 1.1, 9),
)

_SPREAD = {
    "heart_rate": (1.5, 0), "resp_rate": (1.2, 0), "spo2": (0.7, 0), "map": (2.2, 0), "sbp": (3.0, 0),
    "dbp": (2.4, 0), "temperature": (0.12, 1), "glucose_fingerstick": (8.0, 0), "creatinine": (0.04, 1),
    "bun": (0.8, 0), "sodium": (0.9, 0), "potassium": (0.12, 1), "chloride": (0.9, 0), "bicarbonate": (0.7, 0),
    "glucose": (4.0, 0), "magnesium": (0.08, 1), "wbc": (0.5, 1), "hemoglobin": (0.2, 1), "platelets": (7.0, 0),
    "bilirubin_total": (0.05, 1), "inr": (0.04, 1), "pao2": (4.0, 0), "paco2": (1.2, 0), "ph": (0.012, 2),
    "base_excess": (0.6, 0), "lactate": (0.1, 1), "gcs_eye": (0.25, 0), "gcs_verbal": (0.3, 0),
    "gcs_motor": (0.25, 0), "fio2": (0.0, 0), "peep": (0.0, 0), "urine_output": (8.0, 0),
}  # fmt: skip
"""Standard deviation of the measurement error (in the variable's unit) and number of charted decimals."""

_CALM, _SICK = 0.15, 0.65
"""Severity up to which a panel is charted at its calm rate, and severity from which it is charted at its sick rate."""

_LIMITS = {
    "spo2": (50, 100),
    "gcs_eye": (1, 4),
    "gcs_verbal": (1, 5),
    "gcs_motor": (1, 6),
    "fio2": (21, 100),
    "urine_output": (0, 3000),
    "inr": (0.8, 12),
}
_SIGNAL = {"glucose_fingerstick": "glucose"}


@dataclass(frozen=True)
class Charted:
    """Charted values of one variable: minutes after ICU admission, values, delay of laboratory results in minutes (or None)."""

    variable: str
    minutes: np.ndarray
    values: np.ndarray
    delay_minutes: np.ndarray | None


def chart(course: Course, density: float, rng: np.random.Generator) -> list[Charted]:
    """All charted values of a course; `density` multiplies the frequency of every panel."""
    found: list[Charted] = []
    gap_start, gap_hours = rng.random() * course.length_hours, rng.random() * 2.5
    for panel in _PANELS:
        times = _times(panel, course, density, rng)
        if not panel.laboratory:
            away = (times >= gap_start) & (times < gap_start + gap_hours)
            times = times[~away]
        minutes = np.unique(np.floor(times * 60).astype(np.int64))
        if panel.when is not None:
            minutes = minutes[_at(course.signals[panel.when], minutes) > 0]
        delay = rng.integers(20, 90, size=len(minutes)) if panel.laboratory else None
        for variable in panel.variables:
            values = _urine(course, minutes) if variable == "urine_output" else _signal(course, variable, minutes)
            spread, decimals = _SPREAD[variable]
            values = np.round(values + spread * rng.normal(size=len(minutes)), decimals)
            low, high = _LIMITS.get(variable, (0.1 if decimals else -40, np.inf))
            keep = rng.random(len(minutes)) < panel.complete
            values = np.clip(values, low, high)[keep]
            found.append(Charted(variable, minutes[keep], values, None if delay is None else delay[keep]))
    return found


def _times(panel: _Panel, course: Course, density: float, rng: np.random.Generator) -> np.ndarray:
    """Times of charting in hours: candidates at the sick rate, thinned to the rate that fits the severity at that time."""
    fastest = panel.sick / density
    number = int(course.length_hours / fastest * 1.3) + 8
    candidates = rng.random() * fastest + np.cumsum(rng.gamma(panel.regularity, fastest / panel.regularity, size=number))
    accept = rng.random(number)
    candidates, accept = candidates[candidates < course.length_hours], accept[candidates < course.length_hours]
    severity = course.severity[np.minimum((candidates / STEP_HOURS).astype(np.int64), len(course.severity) - 1)]
    slowest = panel.sick / panel.calm
    return candidates[accept < slowest + (1 - slowest) * np.clip((severity - _CALM) / (_SICK - _CALM), 0, 1)]


def _at(signal: np.ndarray, minutes: np.ndarray) -> np.ndarray:
    """The signal's value in the step that contains each minute."""
    return signal[np.minimum((minutes / (60 * STEP_HOURS)).astype(np.int64), len(signal) - 1)]


def _signal(course: Course, variable: str, minutes: np.ndarray) -> np.ndarray:
    signal = course.signals[_SIGNAL.get(variable, variable)]
    if variable in ("fio2", "peep"):
        return _at(signal, minutes)
    values: np.ndarray = np.interp(minutes / 60, course.hours, signal)
    return values


def _urine(course: Course, minutes: np.ndarray) -> np.ndarray:
    """mL since the previous charting (or admission)."""
    total = np.concatenate([[0.0], np.cumsum(course.signals["urine_rate"] * STEP_HOURS)])
    edges = np.concatenate([course.hours, [course.hours[-1] + STEP_HOURS]])
    amounts = np.interp(minutes / 60, edges, total)
    return np.diff(amounts, prepend=0.0)
