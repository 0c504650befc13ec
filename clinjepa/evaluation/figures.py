"""A figure, the form in which every evaluation gives a number: value, 95 % interval, patients and seeds.

What cannot be estimated is None, and the record that holds it has a `reason`. Results are TypedDicts of figures: they are written as JSON
without conversion, and `report.json` has them as they are (docs/report.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, TypeGuard

import numpy as np

MIN_INTERVAL_PATIENTS = 2
"""Fewer patients, in all or of one class, have no spread between patients: an interval over them would have no width."""


class Figure(TypedDict):
    """A number with its basis. `ci95` is [low, high] over patients, or None where no interval can be given."""

    value: float
    ci95: list[float] | None
    num_patients: int
    num_seeds: int
    seeds: NotRequired[list[float]]
    """The value of each training seed, where there are several: their spread is not in `ci95`."""
    interval_reason: NotRequired[str]
    """Why `ci95` is None."""


def figure(value: float, draws_R: np.ndarray | None, num_patients: int, num_seeds: int = 1) -> Figure:
    """A figure with the percentile 95 % interval of its bootstrap draws.

    Args:
        value: The estimate.
        draws_R: Bootstrap draws [R]; draws that are not finite are left out. The interval is None without draws, for fewer than
            MIN_INTERVAL_PATIENTS patients, and when fewer than half of the draws are finite (too few patients of one class).
        num_patients: Patients that the value rests on.
        num_seeds: Training seeds that it rests on.
    """
    interval = None
    if draws_R is not None and num_patients >= MIN_INTERVAL_PATIENTS:
        finite_R = draws_R[np.isfinite(draws_R)]
        if finite_R.size * 2 >= max(draws_R.size, 1) and finite_R.size > 1:
            interval = [float(bound) for bound in np.percentile(finite_R, [2.5, 97.5])]
    return {"value": float(value), "ci95": interval, "num_patients": int(num_patients), "num_seeds": int(num_seeds)}


def is_figure(value: object) -> TypeGuard[Figure]:
    """True for a mapping with the four keys of a figure."""
    return isinstance(value, Mapping) and {"value", "ci95", "num_patients", "num_seeds"} <= set(value)
