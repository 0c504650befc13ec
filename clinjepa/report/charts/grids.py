"""Charts made of cells and columns: a heat map over hours, a table whose cells are shaded, a histogram.

A cell of a heat map is drawn in ten shades of one colour, by its value between 0 and 1. A missing value is left empty.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from clinjepa.report.charts.drawing import (
    CENTRED,
    CHARACTER,
    SMALL,
    TEXT,
    Chart,
    Look,
    Margins,
    drawing,
    number_axis,
    slot_colour,
    ticks_between,
    width_of,
    write,
)
from clinjepa.report.charts.lines import empty_chart, reference_level
from clinjepa.report.charts.page_svg import INK
from clinjepa.report.charts.parts import number, tick_label
from clinjepa.report.charts.rows import Row, label_width, left_of, row_axes, row_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = 10
_ROW, _HEADING = 15, 21
_WIDE = 900
_NOTES = 46
_TURNED_LINE = 24
"""Characters of a line of a turned column name."""


@dataclass(frozen=True)
class HeatRow:
    """One row: `values` between 0 and 1, None where there is none; `note` stands at its end, `tips` (one per cell) are shown on hovering.

    A row without values is a heading for those below it.
    """

    label: str
    values: Sequence[float | None] = ()
    note: str = ""
    tip: str = ""
    tips: Sequence[str] = ()


@dataclass(frozen=True)
class Cell:
    """A cell of a shaded table: its words, its shade from 0 (none) to 1, and what is shown on hovering."""

    words: str
    shade: float = 0.0
    tip: str = ""


def heat_map(
    rows: Sequence[HeatRow], *, title: str, x_label: str, alt: str, first_x: int = 0, scale: tuple[str, str] = ("0 %", "100 %")
) -> str:
    """Rows over x = first_x, first_x + 1 … with a key of the shades under the title; `scale`: what the lightest and the darkest mean."""
    columns = max((len(row.values) for row in rows), default=0)
    if not columns:
        return empty_chart(title, alt, _WIDE)
    left = 12 + max(width_of(row.label) for row in rows)
    heights = [_ROW if row.values else _HEADING for row in rows]
    with drawing(title, alt, _WIDE, 24 + sum(heights) + 40) as chart:
        _key(chart, left, scale)
        axes = row_axes(chart, Margins(left, 24, _NOTES, 40), sum(heights))
        axes.set_xlim(first_x, first_x + columns)
        number_axis(axes, "x", [tick for tick in ticks_between(first_x, first_x + columns, 12) if tick == int(tick)], grid=False)
        chart.text(left + (_WIDE - left - _NOTES) / 2, chart.body - 8, x_label, CENTRED)
        boxes: dict[int, list[_Box]] = {level: [] for level in range(1, LEVELS + 1)}
        y = 0.0
        for row, height in zip(rows, heights, strict=True):
            if row.values:
                left_of(axes, y + height / 2, row.label)
                _notes(axes, y + height / 2, row.note)
                _collect(boxes, row, y, first_x)
                _tips(chart, axes, row, y, first_x)
            else:
                write(axes, (0, y + height - 3), row.label, Look(color=INK, va="bottom", bold=True), share="x")
            y += height
        for level, found in boxes.items():
            _fill(axes, found, level)
        return chart.svg()


def cell_map(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[Cell | None]]], *, title: str, alt: str) -> str:
    """A table whose cells are shaded; None leaves a cell empty.

    Args:
        columns: Names above the columns.
        rows: Label of each row and its cells.
        title: Heading of the chart.
        alt: The chart in words, for readers who cannot see it.
    """
    labels = [Row(label) for label, _ in rows]
    left = label_width(labels) if rows else 0
    longest = max((len(cell.words) for _, cells in rows for cell in cells if cell), default=0)
    if not longest:
        return empty_chart(title, alt, 440)
    wide, height = max(14 + CHARACTER * longest, 40), 30
    turned = 4 + max(width_of(name) for name in columns) > wide
    names = [textwrap.wrap(name, _TURNED_LINE, break_long_words=False) or [""] if turned else [name] for name in columns]
    name = max(width_of(line) for lines in names for line in lines) * SMALL / TEXT
    top = name + 4 if turned else 20
    with drawing(title, alt, max(left + wide * len(columns), 200) + 2, top + height * len(rows) + 4) as chart:
        axes = row_axes(chart, Margins(left, top, chart.width - left - wide * len(columns), 4), height * len(rows))
        axes.set_xlim(0, len(columns))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        for place, lines in enumerate(names):
            for at, words in enumerate(lines):
                aside = 12.5 * (at - (len(lines) - 1) / 2)
                write(axes, (place + 0.5, 1), words, Look(SMALL, ha="center", va="bottom", turned=turned), share="y", offset=(aside, 4))
        boxes: dict[int, list[_Box]] = {}
        for line, (label, cells) in enumerate(rows):
            row_label(axes, height * (line + 0.5), labels[line])
            for place, cell in enumerate(cells):
                if cell is None:
                    continue
                box = (place + 0.02, height * line + 1, place + 0.98, height * (line + 1) - 1)
                boxes.setdefault(_level(cell.shade), []).append(box)
                write(axes, (place + 0.5, height * (line + 0.5)), cell.words, Look(color=INK, ha="center"))
                _over(chart, axes, box, cell.tip or f"{label}, {columns[place]}: {cell.words}")
        for level, found in boxes.items():
            _fill(axes, found, 0.6 * level)  # words must stay readable on the darkest
        return chart.svg()


def histogram(
    counts: Sequence[int], bin_width: float, *, title: str, x_label: str, alt: str, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Columns of `counts` over bins of one width from zero on; `marks` are named places on the x axis."""
    width, height = 380, 210
    if not any(counts):
        return empty_chart(title, alt, width)
    ticks = ticks_between(0, max(counts), 4)
    left = 14 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
    end = len(counts) * bin_width
    with drawing(title, alt, width, height) as chart:
        axes = chart.axes(Margins(left, 22 if marks else 6, 14, 42))
        axes.set_xlim(0, end)
        axes.set_ylim(0, max(counts))
        number_axis(axes, "y", ticks, grid=True)
        number_axis(axes, "x", ticks_between(0, end, 5), grid=False)
        chart.text(left + (width - 14 - left) / 2, height - 8, x_label, CENTRED)
        least = max(counts) / 200
        for index, count in enumerate(counts):
            if count:
                tall, thick = max(count, least), 0.92 * bin_width
                bar = axes.bar((index + 0.5) * bin_width, tall, thick, color=slot_colour(0), alpha=0.85, linewidth=0)
                upto = f"{number(int(index * bin_width))} to {number(int((index + 1) * bin_width) - 1)}: {number(count)}"
                chart.tip(bar[0], [upto])
        for place, name in marks:
            reference_level(axes, "x", min(place, end))
            look = Look(SMALL, ha="right" if place > end / 2 else "left", va="bottom")
            write(axes, (min(place, end), 1), name, look, share="y", offset=(0, 2))
        return chart.svg()


_Box = tuple[float, float, float, float]
"""Left, upper, right and lower end of a cell."""


def _level(value: float | None) -> int:
    """0 for nothing and for zero, else 1 … LEVELS."""
    return 0 if value is None or value <= 0 else min(LEVELS, int(value * LEVELS - 1e-9) + 1)


def _collect(boxes: dict[int, list[_Box]], row: HeatRow, y: float, first_x: int) -> None:
    """Add one box per run of cells of equal shade; cells with tips have a shade also at zero."""
    levels = [max(_level(value), 1) if row.tips and value is not None else _level(value) for value in row.values]
    x = first_x
    for level, run in groupby(levels):
        start, x = x, x + len(list(run))
        if level:
            boxes[level].append((start, y, x, y + _ROW - 1))


def _fill(axes: Axes, boxes: Sequence[_Box], level: float) -> None:
    """All cells of a shade as one shape."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    if boxes:
        corners = [[(left, top), (right, top), (right, bottom), (left, bottom), (left, top)] for left, top, right, bottom in boxes]
        shape = Path.make_compound_path(*(Path(box, closed=True) for box in corners))
        axes.add_patch(PathPatch(shape, facecolor=slot_colour(0), alpha=level / LEVELS, linewidth=0, zorder=1))


def _over(chart: Chart, axes: Axes, box: _Box, tip: str) -> None:
    """A shape without colour that has a tip."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    chart.tip(axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, linewidth=0)), [tip])


def _tips(chart: Chart, axes: Axes, row: HeatRow, y: float, first_x: int) -> None:
    if not row.tips:
        _over(chart, axes, (first_x, y, first_x + len(row.values), y + _ROW - 1), row.tip or row.label)
        return
    for index, (value, tip) in enumerate(zip(row.values, row.tips, strict=True)):
        if value is not None:
            _over(chart, axes, (first_x + index, y, first_x + index + 1, y + _ROW - 1), tip)


def _notes(axes: Axes, y: float, words: str) -> None:
    if words:
        write(axes, (1, y), words, Look(SMALL, INK), share="x", offset=(5, 0))


def _key(chart: Chart, left: float, scale: tuple[str, str]) -> None:
    """The ten shades from the lightest to the darkest, with their meanings."""
    start = left + CHARACTER * len(scale[0]) + 8
    chart.text(left, 9, scale[0])
    axes = chart.axes(Margins(start, 3, chart.width - start - 14 * LEVELS, chart.body - 15))
    axes.set_axis_off()
    axes.set_xlim(0, LEVELS)
    axes.set_ylim(1, 0)
    for level in range(1, LEVELS + 1):
        _fill(axes, [(level - 1, 0, level, 1)], level)
    chart.text(start + 14 * LEVELS + 8, 9, scale[1])
