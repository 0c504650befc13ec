"""Intervals that keep within the bounds of their figure, and none where the data allow no statement; used when a report is written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from clinjepa.evaluation.figures import Figure, is_figure
from clinjepa.evaluation.seeds import CHANGE, CORRELATION, EXPLAINED, PLAIN, POSITIVE, SHARE, Scale, scale_of

MAX_FACTOR = 100.0
"""A ratio, an error or a skill score whose interval spans a larger factor is not known."""
TOO_WIDE = f"not known: the 95 % interval spans more than a factor of {MAX_FACTOR:g}, which too few patients leave open"

_BOUNDS = (
    (POSITIVE, 0.0, math.inf),
    (SHARE, 0.0, 1.0),
    (CORRELATION, -1.0, 1.0),
    (CHANGE, -1.0, math.inf),
    (EXPLAINED, -math.inf, 1.0),
)
_DIFFERENCES = ("difference", "differences")
_RARE = ("false_alarms_per_day",)
"""Rates that are close to 0 by choice: a wide factor says nothing there."""


def bounded(value: Any) -> Any:
    """A JSON result with every figure's interval within the bounds of the figure, chosen by its name as in `combine_seeds`.

    An end beyond a bound is set to the bound. An interval that leaves its own value out (the resampled value is biased) is widened to it.
    An interval of a positive figure, or of 1 minus an explained share or a skill, whose ends differ by more than MAX_FACTOR is None with
    `interval_reason`.
    """
    return _bounded(value, PLAIN, "")


def _bounded(value: Any, scale: Scale, name: str) -> Any:
    if is_figure(value):
        return _bounded_figure(value, scale, name)
    if isinstance(value, Mapping):
        return {
            each: item  # a difference of shares is no share: it has no bounds of its own
            if str(each) in _DIFFERENCES
            else _bounded(item, scale_of(str(each), [item], scale), _inner_name(name, str(each), item))
            for each, item in value.items()
        }
    if isinstance(value, list):
        return [_bounded(item, scale, name) for item in value]
    return value


def _inner_name(outer: str, name: str, item: Any) -> str:
    """The name that decides on a figure: its own, or that of its table by method or hour."""
    return outer if outer in _RARE and is_figure(item) else name


def _bounded_figure(figure: Figure, scale: Scale, name: str) -> Figure:
    if figure["ci95"] is None:
        return figure
    least, most = next(((low, high) for each, low, high in _BOUNDS if each is scale), (-math.inf, math.inf))
    low, high = (min(max(end, least), most) for end in figure["ci95"])
    if name not in _RARE and _factor(low, high, scale) > MAX_FACTOR:
        return {**figure, "ci95": None, "interval_reason": TOO_WIDE}
    return {**figure, "ci95": [min(low, figure["value"]), max(high, figure["value"])]}


def _factor(low: float, high: float, scale: Scale) -> float:
    """The ends of an interval as a ratio; 1 for figures that are no ratios, and where one end is the bound itself."""
    small, large = (low, high) if scale is POSITIVE else (1 - high, 1 - low) if scale is EXPLAINED else (1.0, 1.0)
    return large / small if small > 0 else 1.0
