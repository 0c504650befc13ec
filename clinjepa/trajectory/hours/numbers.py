"""Numbers of a text: short, and never rounded to 0 unless they are 0.

Read by `text.py`; the leak audit compares texts by `last_place`.
"""

from __future__ import annotations

import polars as pl

_LEAST_EXPONENT = -6
"""Numbers below 10^-6 are written with an exponent."""


def format_numbers(values: pl.Series, digits: pl.Series, max_decimals: int) -> pl.Series:
    """Values as words; null stays null. Args: as of `format_number`, one entry of `digits` per value."""
    pairs = zip(values.to_list(), digits.to_list(), strict=True)
    return pl.Series([None if value is None else format_number(value, digit, max_decimals) for value, digit in pairs], dtype=pl.String)


def format_number(value: float, digits: int, max_decimals: int) -> str:
    """A number rounded to `max_decimals` decimals, or to `digits` significant digits where that is finer; no trailing zeros.

    A number that is not 0 is never written as 0, and the number that the text says has the same text.

    Args:
        value: a finite number.
        digits: significant digits that remain, at least 1 (`Variable.digits`).
        max_decimals: decimals of a number that has enough digits.

    Returns:
        For 3 digits and 2 decimals: 88.0 -> `88`, 12.345 -> `12.35`, 0.0041 -> `0.0041`, 0.00012345 -> `0.000123`, 2e-9 -> `2e-09`.
    """
    if value == 0:
        return "0"
    if abs(value) >= 10.0 ** (digits - 1 - max_decimals):
        return _without_zeros(f"{value:.{max_decimals}f}")
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    exponent = int(power)  # after rounding: 0.9996 is 1.00
    if exponent < _LEAST_EXPONENT:
        return f"{_without_zeros(mantissa)}e{power}"
    return _without_zeros(f"{value:.{digits - 1 - exponent}f}")


def last_place(value: float, digits: int, max_decimals: int) -> float:
    """The step between the numbers that a text can say near `value`: 0.01 for 12.3, 0.0001 for 0.0123 (3 digits, 2 decimals)."""
    exponent = int(f"{value:.{digits - 1}e}".split("e")[1]) if value else 0
    return float(min(10.0**-max_decimals, 10.0 ** (exponent - digits + 1)))


def _without_zeros(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number
