"""The chart of a what-if: measured values up to the last known hour, then one fan for each version of the actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from clinjepa.report.charts.drawing import (
    CENTRED,
    CHARACTER,
    TURNED,
    Chart,
    Margins,
    drawing,
    mark_points,
    number_axis,
    slot_colour,
    ticks_between,
)
from clinjepa.report.charts.lines import empty_chart, even_scale, reference_level
from clinjepa.report.charts.page_svg import CARD, INK
from clinjepa.report.charts.parts import number, spoken, tick_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 380, 230


class HourForecast(NamedTuple):
    """A forecast of one hour of the stay. Intervals are None where there are none."""

    hour: int
    point: float
    low_50: float | None
    high_50: float | None
    low_90: float | None
    high_90: float | None


class VersionFan(NamedTuple):
    """The forecasts under one version, by hour; `slot` is colour and shape."""

    label: str
    slot: int
    points: Sequence[HourForecast]


class Readings(NamedTuple):
    """Measured values by hour of the stay."""

    hours: Sequence[int]
    values: Sequence[float]


def what_if_chart(title: str, unit: str, hour: int, known: Readings, later: Readings, fans: Sequence[VersionFan]) -> str:
    """Dots for measured values, hollow ones after the last known hour, and lines with 50 % and 90 % intervals for the versions.

    Args:
        title: Name of the variable.
        unit: Its unit.
        hour: The last known hour, a dashed line.
        known: Values up to that hour.
        later: Values after it, where they are recorded.
        fans: The versions.
    """
    alt = _alt(known, later, fans)
    values = [*known.values, *later.values, *(v for fan in fans for each in fan.points for v in each[1:] if v is not None)]
    if not values:
        return empty_chart(title, alt, _WIDTH)
    with drawing(title, alt, _WIDTH, _HEIGHT) as chart:
        (low, high), ticks = even_scale(min(values), max(values))
        left = 26 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
        axes = chart.axes(Margins(left, 6, 12, 42))
        hours = [hour, *known.hours, *later.hours, *(each.hour for fan in fans for each in fan.points)]
        spare = 0.02 * (max(hours) - min(hours)) or 0.5
        axes.set_xlim(min(hours) - spare, max(hours) + spare)
        axes.set_ylim(low, high)
        number_axis(axes, "y", ticks, grid=True)
        number_axis(axes, "x", [tick for tick in ticks_between(min(hours), max(hours), 6) if tick == int(tick)], grid=False)
        chart.text(left + (_WIDTH - 12 - left) / 2, _HEIGHT - 8, "hour of the stay", CENTRED)
        chart.text(8, (_HEIGHT - 30) / 2, unit, TURNED)
        reference_level(axes, "x", hour + 0.5)
        for fan in reversed(fans):  # the first one on top
            _draw_fan(chart, axes, fan)
        _draw_readings(chart, axes, known, "measured", INK)
        _draw_readings(chart, axes, later, "measured later", CARD)
        return chart.svg()


def _draw_fan(chart: Chart, axes: Axes, fan: VersionFan) -> None:
    colour, hours = slot_colour(fan.slot), [each.hour for each in fan.points]
    for alpha, ends in ((0.08, [(p.low_90, p.high_90) for p in fan.points]), (0.14, [(p.low_50, p.high_50) for p in fan.points])):
        low, high = ([math.nan if end is None else end for end in side] for side in zip(*ends, strict=True)) if ends else ([], [])
        if not all(math.isnan(end) for end in low):
            axes.fill_between(hours, low, high, color=colour, alpha=alpha, linewidth=0, zorder=1)
    axes.plot(hours, [each.point for each in fan.points], color=colour, linewidth=2, zorder=3)
    told = [f"{fan.label}, hour {each.hour}: {spoken(each.point, each.low_90, each.high_90)}" for each in fan.points]
    mark_points(chart, axes, fan.slot, hours, [each.point for each in fan.points], told)


def _draw_readings(chart: Chart, axes: Axes, own: Readings, label: str, fill: str) -> None:
    if own.hours:
        dots = axes.plot(own.hours, own.values, "o", color=fill, markeredgecolor=INK, markersize=5, zorder=5)
        told = [f"hour {hour}: {label} {number(value)}" for hour, value in zip(own.hours, own.values, strict=True)]
        chart.tip(dots[0], told)


def _alt(known: Readings, later: Readings, fans: Sequence[VersionFan]) -> str:
    """The chart in words: the last measured value, and each version's first and last forecast."""
    words = [
        f"Last measured value {number(known.values[-1])} in hour {known.hours[-1]}"
        if known.hours
        else "No value was measured in the hours before the forecast"
    ]
    for fan in fans:
        ends = [fan.points[0], *fan.points[1:][-1:]] if fan.points else []
        told = ", ".join(f"{spoken(each.point, each.low_90, each.high_90)} in hour {each.hour}" for each in ends)
        words.append(f"{fan.label}: {told}" if told else f"{fan.label}: no forecast")
    if later.hours:
        words.append(f"measured later, up to hour {later.hours[-1]}: {number(later.values[-1])}")
    return "; ".join(words)
