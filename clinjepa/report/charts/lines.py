"""Lines over x with interval ribbons, and the keys of legends.

Series differ by colour and by the shape of their markers. Every marker has a tooltip, and each chart has a text alternative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from clinjepa.report.charts.drawing import (
    CENTRED,
    CHARACTER,
    MARKERS,
    SMALL,
    TURNED,
    Chart,
    Look,
    Margins,
    drawing,
    mark_points,
    number_axis,
    slot_colour,
    ticks_between,
    write,
)
from clinjepa.report.charts.page_svg import BAND, CARD, QUIET
from clinjepa.report.charts.parts import number, spoken, tick_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Series:
    """One line: `y[i]` at `x[i]`, None where it is not known (the line is interrupted); `low`, `high` bound a ribbon."""

    label: str
    slot: int
    x: Sequence[float]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()


@dataclass(frozen=True)
class LineStyle:
    """Optional parts of a line chart."""

    log_y: bool = False
    log_x: bool = False
    """Logarithmic x axis; it needs `x_ticks`, and x above 0."""
    floor: float | None = None
    """A level that the y axis must include."""
    x_ticks: Sequence[float] = ()
    """Ticks of the x axis; even ones without."""
    reference: tuple[float, str] | None = None
    """A dashed level and its name."""
    bands: Sequence[tuple[float, float, str]] = ()
    """Named stretches of x (start, end, name), shaded alternately."""
    markers: bool = True


_PLAIN = LineStyle()
_WIDTH, _HEIGHT = 380, 230


def line_chart(series: Sequence[Series], *, title: str, x_label: str, y_label: str, alt: str, style: LineStyle = _PLAIN) -> str:
    """Lines over x, as SVG.

    Args:
        series: The lines; with `low` and `high` each has a ribbon.
        title: Heading of the chart.
        x_label: Name of the x axis.
        y_label: Name of the y axis.
        alt: The chart in words, for readers who cannot see it.
        style: Logarithmic axis, reference level, bands and markers.
    """
    known = [v for s in series for group in (s.y, s.low, s.high) for v in group if v is not None and (v > 0 or not style.log_y)]
    if not known:
        return empty_chart(title, alt, _WIDTH)
    known += [style.reference[0]] if style.reference is not None else []
    known += [style.floor] if style.floor is not None else []
    with drawing(title, alt, _WIDTH, _HEIGHT) as chart:
        log = style.log_y and max(known) >= 8 * min(known)
        limits, ticks = log_scale(min(known), max(known)) if log else even_scale(min(known), max(known))
        left = 26 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
        axes = chart.axes(Margins(left, 24 if style.bands else 12, 12, 42))
        axes.set_yscale("log" if log else "linear")
        axes.set_ylim(*limits)
        number_axis(axes, "y", ticks, grid=True)
        _x_axis(axes, series, style)
        chart.text(left + (_WIDTH - 12 - left) / 2, _HEIGHT - 8, x_label, CENTRED)
        chart.text(8, (_HEIGHT - 30) / 2, f"{y_label}, log scale" if log else y_label, TURNED)
        _bands(axes, style.bands, _WIDTH - 12 - left)
        if style.reference is not None:
            reference_level(axes, "y", style.reference[0])
            _over_line(axes, style.reference)
        for each in series:
            _draw(chart, axes, each, log)
            if style.markers:
                _mark(chart, axes, each, x_label, log)
        return chart.svg()


def even_scale(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """Limits with room for markers, and round ticks inside them."""
    if high - low < 1e-9 * max(abs(high), 1e-9):
        spare = abs(high) * 0.1 or 1.0
        low, high = low - spare, high + spare
    spare = 0.04 * (high - low)
    ticks = ticks_between(low - spare, high + spare, 5)
    return (low - spare, high + spare), ticks or [low, high]


def log_scale(low: float, high: float) -> tuple[tuple[float, float], list[float]]:
    """Limits and ticks 1, 3, 10, 30 … of a logarithmic axis."""
    ticks = [m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 3)]
    return (low / 1.15, high * 1.15), [tick for tick in ticks if low / 1.15 <= tick <= high * 1.15] or [low, high]


def reference_level(axes: Axes, which: str, level: float) -> None:
    """A dashed line at a level of the axis."""
    line = axes.axvline if which == "x" else axes.axhline
    line(level, color=QUIET, linewidth=1.2, dashes=(4, 3), zorder=1.5)


def empty_chart(title: str, alt: str, width: float) -> str:
    """A chart that says that there is nothing to draw."""
    with drawing(title, alt, width, 60) as chart:
        chart.text(width / 2, 30, "nothing to draw: every value is missing", CENTRED)
        return chart.svg()


@cache
def marker_svg(slot: int) -> str:
    """A legend key: the marker of a slot, 12 × 12 px."""
    with drawing("", "", 12, 12) as chart:
        axes = chart.axes(Margins(0, 0, 0, 0))
        axes.set_axis_off()
        axes.plot([0], [0], MARKERS[slot % len(MARKERS)], color=slot_colour(slot), markersize=8, markeredgecolor=CARD)
        drawn = chart.svg()
    return drawn.replace('class="chart" role="img"', 'class="key" width="12" height="12" aria-hidden="true"').replace(' aria-label=""', "")


def _x_axis(axes: Axes, series: Sequence[Series], style: LineStyle) -> None:
    places = [v for s in series for v in s.x] + [edge for band in style.bands for edge in band[:2]]
    first, last = min(places), max(places)
    if style.log_x:
        axes.set_xscale("log")
        room = (last / first) ** 0.03 if last > first else 1.3
        axes.set_xlim(first / room, last * room)
        number_axis(axes, "x", style.x_ticks, grid=False)
        return
    spare = 0.02 * (last - first) or 0.5
    axes.set_xlim(first - spare, last + spare)
    number_axis(axes, "x", _thinned(style.x_ticks, spare * 50) if style.x_ticks else ticks_between(first, last, 5), grid=False)


def _thinned(ticks: Sequence[float], span: float) -> list[float]:
    """Ticks whose numbers do not touch; the first and the last stay."""
    kept = [ticks[0]]
    for tick in ticks[1:-1]:
        if tick - kept[-1] >= span / 14 and ticks[-1] - tick >= span / 14:
            kept.append(tick)
    return [*kept, ticks[-1]] if len(ticks) > 1 else kept


def _bands(axes: Axes, bands: Sequence[tuple[float, float, str]], width: float) -> None:
    low, high = axes.get_xlim()
    for index, (start, end, name) in enumerate(bands):
        if index % 2:
            axes.axvspan(start, end, color=BAND, linewidth=0, zorder=0)
        if width * (end - start) / (high - low) > CHARACTER * len(name) * 0.9:
            write(axes, ((start + end) / 2, 1), name, Look(SMALL, ha="center", va="bottom"), share="y", offset=(0, 3))


def _over_line(axes: Axes, reference: tuple[float, str]) -> None:
    write(axes, (1, reference[0]), reference[1], Look(SMALL, ha="right", va="bottom"), share="x", offset=(0, 2))


def _draw(chart: Chart, axes: Axes, each: Series, log: bool) -> None:
    """The ribbon and the line."""
    colour = slot_colour(each.slot)
    bounds = [
        (x, low, high)
        for x, low, high in zip(each.x, each.low, each.high, strict=False)
        if low is not None and high is not None and (low > 0 or not log)
    ]
    if len(bounds) > 1:
        x, low, high = zip(*bounds, strict=True)
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=1)
    values = [math.nan if value is None or (log and value <= 0) else value for value in each.y]
    chart.tip(axes.plot(each.x, values, color=colour, linewidth=2, solid_joinstyle="round", zorder=3)[0], [each.label])


def _mark(chart: Chart, axes: Axes, each: Series, x_label: str, log: bool) -> None:
    x, y, told = [], [], []
    for index, value in enumerate(each.y):
        if value is None or (log and value <= 0):
            continue
        low = each.low[index] if index < len(each.low) else None
        high = each.high[index] if index < len(each.high) else None
        x.append(each.x[index])
        y.append(value)
        told.append(f"{each.label}, {x_label} {number(each.x[index])}: {spoken(value, low, high)}")
    mark_points(chart, axes, each.slot, x, y, told)
