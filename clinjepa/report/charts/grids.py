"""Charts made of cells and columns as inline SVG: a heat map over hours, a histogram.

A cell is drawn in ten shades of one colour, by its value between 0 and 1. A missing value is left empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from clinjepa.report.charts.parts import CHARACTER, even_ticks, line, number, opening, text, tick_label

LEVELS = 10
_ROW, _HEADING = 13, 19
_RIGHT = 46


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


def heat_map(
    rows: Sequence[HeatRow], *, title: str, x_label: str, alt: str, first_x: int = 0, scale: tuple[str, str] = ("0 %", "100 %")
) -> str:
    """Rows over x = first_x, first_x + 1 … with a key of the shades under the title; `scale`: what the lightest and the darkest mean."""
    columns = max((len(row.values) for row in rows), default=0)
    width = 900
    left = 12 + CHARACTER * max((len(row.label) for row in rows), default=0)
    cell = (width - _RIGHT - left) / max(columns, 1)
    top = 42
    heights = [_ROW if row.values else _HEADING for row in rows]
    bottom = top + sum(heights)
    out = [opening(width, bottom + 36, alt, title), text(0, 14, title, "chart-title"), *_key(left, scale)]
    y = float(top)
    for row, height in zip(rows, heights, strict=True):
        if not row.values:
            out.append(text(left, y + height - 5, row.label, "heading"))
        else:
            out.append(text(left - 8, y + height - 3, row.label, "row-label", "end"))
            out.extend(_tipped(row, left, y, cell) if row.tips else _shades(row, left, y, cell))
            if row.note:
                out.append(text(width, y + height - 3, row.note, "value", "end"))
        y += height
    for tick in even_ticks(first_x, first_x + columns, 8):
        x = left + (tick - first_x) * cell
        out.append(line(x, bottom, x, bottom + 4, "axis"))
        out.append(text(x, bottom + 16, tick_label(tick), "tick", "middle"))
    out.append(line(left, bottom, left + columns * cell, bottom, "axis"))
    out.append(text(left + columns * cell / 2, bottom + 31, x_label, "axis-label", "middle"))
    return "".join([*out, "</svg>"])


def histogram(
    counts: Sequence[int], bin_width: float, *, title: str, x_label: str, alt: str, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Columns of `counts` over bins of one width from zero on; `marks` are named places on the x axis."""
    width, height = 380, 220
    most = max(counts, default=0) or 1
    ticks = even_ticks(0, most, 4)
    left = 14 + CHARACTER * max(len(tick_label(tick)) for tick in ticks)
    right, top, bottom = width - 12, 40, height - 40
    step = (right - left) / max(len(counts), 1)
    out = [opening(width, height, alt, title), text(0, 14, title, "chart-title")]
    for tick in ticks:
        y = bottom - (bottom - top) * tick / most
        out.append(line(left, y, right, y, "grid"))
        out.append(text(left - 6, y + 4, tick_label(tick), "tick", "end"))
    for index, count in enumerate(counts):
        if count:
            tall = max((bottom - top) * count / most, 0.7)
            upto = f"{number(int(index * bin_width))} to {number(int((index + 1) * bin_width) - 1)}: {number(count)}"
            shape = f'x="{left + index * step + 0.5:.1f}" y="{bottom - tall:.1f}" width="{max(step - 1, 1):.1f}" height="{tall:.1f}"'
            out.append(f'<rect class="bar s0" {shape}><title>{escape(upto)}</title></rect>')
    end = len(counts) * bin_width
    for tick in even_ticks(0, end, 6):
        out.append(text(left + (right - left) * tick / (end or 1), bottom + 16, tick_label(tick), "tick", "middle"))
    for place, name in marks:
        x = left + (right - left) * min(place, end) / (end or 1)
        out.append(line(x, top - 8, x, bottom, "reference"))
        out.append(text(min(x + 4, right - CHARACTER * len(name)), top - 10, name, "reference-label"))
    out.append(line(left, bottom, right, bottom, "axis"))
    out.append(text((left + right) / 2, height - 6, x_label, "axis-label", "middle"))
    return "".join([*out, "</svg>"])


def _level(value: float | None) -> int:
    """0 for nothing and for zero, else 1 … LEVELS."""
    return 0 if value is None or value <= 0 else min(LEVELS, int(value * LEVELS - 1e-9) + 1)


def _shades(row: HeatRow, left: float, y: float, cell: float) -> list[str]:
    """One rectangle per run of cells of equal shade, and a transparent one over the row with its tooltip."""
    levels = [_level(value) for value in row.values]
    out, start = [], 0
    for index in range(1, len(levels) + 1):
        if index == len(levels) or levels[index] != levels[start]:
            if levels[start]:
                out.append(_cell(left + start * cell, y, (index - start) * cell, levels[start]))
            start = index
    whole = f'x="{left:.1f}" y="{y:.0f}" width="{len(levels) * cell:.1f}" height="{_ROW - 1}"'
    return [*out, f'<rect class="over" {whole}><title>{escape(row.tip or row.label)}</title></rect>']


def _tipped(row: HeatRow, left: float, y: float, cell: float) -> list[str]:
    cells = zip(row.values, row.tips, strict=True)
    return [
        _cell(left + index * cell, y, cell - 0.6, max(_level(value), 1), tip)
        for index, (value, tip) in enumerate(cells)
        if value is not None
    ]


def _cell(x: float, y: float, width: float, level: int, tip: str = "") -> str:
    shape = f'class="heat" x="{x:.1f}" y="{y:.0f}" width="{width:.1f}" height="{_ROW - 1}" fill-opacity="{level / LEVELS:g}"'
    return f"<rect {shape}><title>{escape(tip)}</title></rect>" if tip else f"<rect {shape}/>"


def _key(left: float, scale: tuple[str, str]) -> list[str]:
    start = left + CHARACTER * len(scale[0]) + 6
    shades = [_cell(start + 14 * index, 22, 14, index + 1) for index in range(LEVELS)]
    return [text(left, 32, scale[0], "tick"), *shades, text(start + 14 * LEVELS + 6, 32, scale[1], "tick")]
