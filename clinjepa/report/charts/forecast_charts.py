"""Charts of probabilities and forecasts: reliability curves, and fans of intervals with the values that were measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
from clinjepa.report.charts.lines import empty_chart, even_scale
from clinjepa.report.charts.page_svg import CARD, INK, QUIET
from clinjepa.report.charts.parts import number, spoken, tick_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _HEIGHT = 380, 260


class ReliabilityBin(NamedTuple):
    """Predictions of similar size: their mean, the share of them that had the event, how many there are, and the share's interval."""

    mean_predicted: float
    observed_share: float
    number: int
    low: float | None = None
    """Ends of the interval of `observed_share`; None where there is none."""
    high: float | None = None


class ReliabilityCurve(NamedTuple):
    """The curve of one method. `bins` go from the smallest mean prediction to the largest; `slot` is colour and shape."""

    label: str
    slot: int
    bins: Sequence[ReliabilityBin]


class FanPoint(NamedTuple):
    """A forecast at one horizon and what was measured there. Intervals are None where the forecast has none."""

    hours_ahead: float
    observed: float
    forecast: float
    low_50: float | None
    high_50: float | None
    low_90: float | None
    high_90: float | None


@dataclass(frozen=True)
class Fan:
    """Forecasts of one variable for one window, in the order of the horizons."""

    title: str
    unit: str
    points: Sequence[FanPoint]


def reliability_chart(curves: Sequence[ReliabilityCurve], *, title: str, alt: str) -> str:
    """The share of events over the mean prediction; a right forecast lies on the dashed diagonal. Both axes have the same scale.

    Args:
        curves: One line each, with the intervals of its bins as vertical lines.
        title: Heading of the chart.
        alt: The chart in words, for readers who cannot see it.
    """
    bins = [each for curve in curves for each in curve.bins]
    if not bins:
        return empty_chart(title, alt, _WIDTH)
    most = min(1.0, 1.05 * max(v for b in bins for v in (b.mean_predicted, b.observed_share, b.high) if v is not None) or 1.0)
    with drawing(title, alt, _WIDTH, _HEIGHT) as chart:
        ticks = ticks_between(0, most, 5)
        left = 26 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
        axes = chart.axes(Margins(left, 8, 14, 42))
        axes.set_xlim(0, most)
        axes.set_ylim(0, most)
        number_axis(axes, "x", ticks, grid=True)
        number_axis(axes, "y", ticks, grid=True)
        chart.text(left + (_WIDTH - 14 - left) / 2, _HEIGHT - 8, "mean predicted probability", CENTRED)
        chart.text(8, (_HEIGHT - 34) / 2, "share of events", TURNED)
        axes.plot([0, most], [0, most], color=QUIET, linewidth=1.2, dashes=(4, 3), zorder=1.5)
        for curve in curves:
            colour = slot_colour(curve.slot)
            x, y = [each.mean_predicted for each in curve.bins], [each.observed_share for each in curve.bins]
            axes.plot(x, y, color=colour, linewidth=2, zorder=3)
            for each in curve.bins:
                if each.low is not None and each.high is not None:
                    ends = [max(0.0, each.low), min(most, each.high)]
                    axes.plot([each.mean_predicted] * 2, ends, color=colour, linewidth=2, alpha=0.5, zorder=2)
            told = [
                f"{curve.label}: predicted {number(each.mean_predicted)}, had the event "
                f"{spoken(each.observed_share, each.low, each.high)}, n = {number(each.number)}"
                for each in curve.bins
            ]
            mark_points(chart, axes, curve.slot, x, y, told)
        return chart.svg()


def fan_chart(fan: Fan) -> str:
    """The forecast with its 50 % and 90 % intervals over the hours ahead, and the measured values as dots."""
    points = fan.points
    width, height = 250, 170
    values = [value for each in points for value in each[1:] if value is not None]
    alt = "; ".join(_said(point) for point in points)
    if not values:
        return empty_chart(fan.title, alt, width)
    with drawing(fan.title, alt, width, height) as chart:
        (low, high), ticks = even_scale(min(values), max(values))
        left = 24 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
        axes = chart.axes(Margins(left, 6, 12, 40))
        hours = [each.hours_ahead for each in points]
        spare = 0.04 * (hours[-1] - hours[0]) or 0.5
        axes.set_xlim(hours[0] - spare, hours[-1] + spare)
        axes.set_ylim(low, high)
        number_axis(axes, "y", ticks, grid=True)
        number_axis(axes, "x", [tick for tick in ticks_between(hours[0], hours[-1], 6) if tick == int(tick)], grid=False)
        chart.text(left + (width - 12 - left) / 2, height - 8, "hours ahead", CENTRED)
        chart.text(8, (height - 30) / 2, fan.unit, TURNED)
        _bands(axes, points)
        axes.plot(hours, [each.forecast for each in points], color=slot_colour(0), linewidth=2, zorder=3)
        _measured(chart, axes, points)
        return chart.svg()


def _bands(axes: Axes, points: Sequence[FanPoint]) -> None:
    """The 90 % interval light, the 50 % interval darker; a single horizon has a short bar."""
    for alpha, ends in ((0.16, [(p.low_90, p.high_90) for p in points]), (0.3, [(p.low_50, p.high_50) for p in points])):
        low = [math.nan if end[0] is None else end[0] for end in ends]
        high = [math.nan if end[1] is None else end[1] for end in ends]
        if not all(math.isnan(end) for end in low):
            axes.fill_between([p.hours_ahead for p in points], low, high, color=slot_colour(0), alpha=alpha, linewidth=0, zorder=1)


def _measured(chart: Chart, axes: Axes, points: Sequence[FanPoint]) -> None:
    hours, values = [point.hours_ahead for point in points], [point.observed for point in points]
    dots = axes.plot(hours, values, "o", color=INK, markeredgecolor=CARD, markersize=7, zorder=5)
    chart.tip(dots[0], [_said(point) for point in points])


def _said(point: FanPoint) -> str:
    forecast = spoken(point.forecast, point.low_90, point.high_90)
    return f"{number(point.hours_ahead)} h ahead: measured {number(point.observed)}, forecast {forecast}"
