"""Charts of labelled rows: points with intervals (a forest plot), and horizontal bars."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clinjepa.report.charts.drawing import (
    CENTRED,
    SMALL,
    Chart,
    Look,
    Margins,
    drawing,
    mark_points,
    number_axis,
    readable,
    slot_colour,
    ticks_between,
    width_of,
    write,
)
from clinjepa.report.charts.lines import empty_chart, even_scale, reference_level
from clinjepa.report.charts.page_svg import BAND, INK
from clinjepa.report.charts.parts import spoken

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH = 380
_LABEL = 20
"""Characters of a row's label in one line; longer ones get two lines."""
_LINE = 13.5
_NUMBER_WITH_UNIT = re.compile(r"(\d) (h|%)(?!\w)")


@dataclass(frozen=True)
class Point:
    """One value with its interval; `slot` is colour and shape."""

    label: str
    slot: int
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """A labelled row of an interval chart or bar chart; `note` is printed where there is no point."""

    label: str
    points: Sequence[Point] = field(default_factory=tuple)
    note: str = ""


def interval_chart(
    rows: Sequence[Row],
    *,
    title: str,
    x_label: str,
    alt: str,
    reference: tuple[float, str] | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """A forest plot: one labelled row per item, its points below each other with their intervals.

    Args:
        rows: The rows, from above.
        title: Heading of the chart.
        x_label: Name of the x axis.
        alt: The chart in words, for readers who cannot see it.
        reference: A dashed level and its name.
        limits: Values and ends of intervals beyond them are drawn at the edge.
    """
    least, most = limits or (float("-inf"), float("inf"))
    values = [min(max(v, least), most) for row in rows for p in row.points for v in (p.value, p.low, p.high) if v is not None]
    if not values:
        return empty_chart(title, alt, _WIDTH)
    values += [reference[0]] if reference is not None else []
    heights = [max(8 + _LINE * len(_lines(row.label)), 9 + 12 * len(row.points)) for row in rows]
    top, left = 18 if reference else 4, label_width(rows)
    with drawing(title, alt, _WIDTH, top + sum(heights) + 42) as chart:
        axes = row_axes(chart, Margins(left, top, 14, 42), sum(heights))
        (low, high), ticks = even_scale(min(values), max(values))
        axes.set_xlim(low, high)
        number_axis(axes, "x", ticks, grid=True)
        chart.text(left + (_WIDTH - 14 - left) / 2, chart.body - 8, x_label, CENTRED)
        _named_level(axes, reference)
        y = 0.0
        for index, (row, height) in enumerate(zip(rows, heights, strict=True)):
            if index % 2:
                axes.axhspan(y, y + height, color=BAND, linewidth=0, zorder=0)
            row_label(axes, y + height / 2, row)
            for place, point in enumerate(row.points):
                _interval(chart, axes, row.label, point, y + height / 2 + 12 * place - 6 * (len(row.points) - 1))
            y += height
        return chart.svg()


def bar_chart(
    rows: Sequence[Row], *, title: str, x_label: str, alt: str, reference: tuple[float, str] | None = None, width: float = _WIDTH
) -> str:
    """Horizontal bars from zero, the value written at the end; a row without a point shows its note."""
    points = [row.points[0] for row in rows if row.points]
    if not points:
        return empty_chart(title, alt, width)
    most = max([p.high if p.high is not None else p.value for p in points] + ([reference[0]] if reference else [])) or 1.0
    heights = [max(25.0, 8 + _LINE * len(_lines(row.label))) for row in rows]
    left, right = label_width(rows), 10 + max(width_of(spoken(p.value, p.low, p.high)) for p in points)
    top = 18 if reference else 4
    with drawing(title, alt, width, top + sum(heights) + 42) as chart:
        axes = row_axes(chart, Margins(left, top, right, 42), sum(heights), left=True)
        axes.set_xlim(0, most)
        room = max(1, int((width - left - right) / 50))
        number_axis(axes, "x", ticks_between(0, most, min(5, room)), grid=True)
        chart.text(left + (width - left - right) / 2, chart.body - 8, x_label, CENTRED)
        _named_level(axes, reference)
        y = 0.0
        for row, height in zip(rows, heights, strict=True):
            row_label(axes, y + height / 2, row)
            if row.points:
                _bar(chart, axes, row, y + height / 2, 15)
            y += height
        return chart.svg()


def row_axes(chart: Chart, margins: Margins, height: float, *, left: bool = False) -> Axes:
    """Axes whose y counts px downwards."""
    axes = chart.axes(margins, left=left)
    axes.set_ylim(height, 0)
    axes.set_yticks([])
    return axes


def label_width(rows: Sequence[Row]) -> float:
    """Room for the labels at the left, px."""
    return 12 + max((width_of(line) for row in rows for line in _lines(row.label)), default=0)


def row_label(axes: Axes, y: float, row: Row) -> None:
    """The label at the left of a row, and the note of a row without a point."""
    lines = _lines(row.label)
    for place, line in enumerate(lines):
        left_of(axes, y + _LINE * (place - (len(lines) - 1) / 2), line)
    if not row.points and row.note:
        write(axes, (0, y), row.note, Look(color=INK), share="x", offset=(8, 0))


def left_of(axes: Axes, y: float, words: str) -> None:
    """Words before the left edge of the axes."""
    write(axes, (0, y), words, Look(color=INK, ha="right"), share="x", offset=(-8, 0))


def _lines(label: str) -> list[str]:
    together = _NUMBER_WITH_UNIT.sub("\\1\N{NO-BREAK SPACE}\\2", readable(label))
    return textwrap.wrap(together, _LABEL, max_lines=3, placeholder=" …") or [""]


def _named_level(axes: Axes, reference: tuple[float, str] | None) -> None:
    if reference is not None:
        reference_level(axes, "x", reference[0])
        low, high = axes.get_xlim()
        at_end = reference[0] > low + 0.6 * (high - low)
        write(axes, (reference[0], 1), reference[1], Look(SMALL, ha="right" if at_end else "left", va="bottom"), share="y", offset=(0, 2))


def _interval(chart: Chart, axes: Axes, label: str, point: Point, y: float) -> None:
    least, most = axes.get_xlim()
    if point.low is not None and point.high is not None:
        ends = [min(max(end, least), most) for end in (point.low, point.high)]
        axes.plot(ends, [y, y], color=slot_colour(point.slot), linewidth=2, alpha=0.6, solid_capstyle="butt", zorder=2)
    told = f"{label}, {point.label}: {spoken(point.value, point.low, point.high)}"
    mark_points(chart, axes, point.slot, [min(max(point.value, least), most)], [y], [told])


def _bar(chart: Chart, axes: Axes, row: Row, y: float, thick: float) -> None:
    """A bar, its interval and its value in words."""
    point = row.points[0]
    said = spoken(point.value, point.low, point.high)
    most = axes.get_xlim()[1]
    bar = axes.barh(y, max(point.value, most / 400), thick, color=slot_colour(point.slot), alpha=0.85, linewidth=0)[0]
    chart.tip(bar, [f"{row.label}: {said}"])
    end = point.value
    if point.low is not None and point.high is not None:
        end = point.high
        axes.plot([point.low, end], [y, y], color=INK, linewidth=1.4, alpha=0.75)
    write(axes, (end, y), said, Look(color=INK), offset=(6, 0))
