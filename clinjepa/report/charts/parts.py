"""How charts and tables write numbers and intervals."""

from __future__ import annotations

import math


def number(value: float) -> str:
    """A number as text: counts exactly, others with three significant digits; thousands separated, no exponent from 0.001 to 1e7."""
    if isinstance(value, int):
        return f"{value:,}"
    size = abs(value)
    if value == 0:
        return "0"
    if size >= 1e7 or size < 1e-3:
        return f"{value:.2g}"
    decimals = max(0, 2 - math.floor(math.log10(size))) if size < 100 else 0
    return f"{value:,.{min(decimals, 4)}f}"


def tick_label(value: float) -> str:
    """A position on an axis, without trailing zeros; millions as `1.2 M`."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g} M"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def spoken(value: float, low: float | None, high: float | None) -> str:
    """A value with its interval in brackets where there is one."""
    return number(value) if low is None or high is None else f"{number(value)} ({number(low)} to {number(high)})"
