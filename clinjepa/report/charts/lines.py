"""Charts of the report as inline SVG text: lines with interval ribbons, points with intervals, horizontal bars.

Colours come from the page's style sheet, which colours the classes `s0` … `s7` (series) for light and dark screens.
Series also differ by marker shape, each mark has a tooltip, and each chart has a text alternative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from clinjepa.report.charts.parts import CHARACTER, Scale, empty_chart, even_ticks, line, marker, number, opening, spoken, text, tick_label


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


@dataclass(frozen=True)
class LineStyle:
    """Optional parts of a line chart."""

    log_y: bool = False
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
_WIDTH, _HEIGHT = 380, 250


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
        return empty_chart(title, alt, _WIDTH, _HEIGHT)
    known += [style.reference[0]] if style.reference is not None else []
    known += [style.floor] if style.floor is not None else []
    y = Scale.nice(min(known), max(known), log=style.log_y)
    all_x = [v for s in series for v in s.x] + [edge for band in style.bands for edge in band[:2]]
    x = Scale(min(all_x), max(all_x), list(style.x_ticks) or even_ticks(min(all_x), max(all_x), 5))
    x.place(14 + CHARACTER * max(len(tick_label(t)) for t in y.ticks) + 14, _WIDTH - 12)
    y.place(_HEIGHT - 40, 46 if style.bands else 34)
    out = [opening(_WIDTH, _HEIGHT, alt, title), text(0, 14, title, "chart-title")]
    out += [*_bands(style.bands, x, y), *_axes(x, y, x_label, y_label), *_reference(style.reference, x, y)]
    for s in series:
        out.extend(_ribbon(s, x, y, style.log_y))
    for s in series:
        out.extend(_polyline(s, x, y, style.log_y))
        if style.markers:
            out.extend(_markers(s, x, y, x_label, style.log_y))
    return "".join([*out, "</svg>"])


def _bands(bands: Sequence[tuple[float, float, str]], x: Scale, y: Scale) -> list[str]:
    out = []
    for index, (start, end, name) in enumerate(bands):
        x0, x1 = x(start), x(end)
        shape = f'x="{x0:.1f}" y="{y.end:.0f}" width="{max(x1 - x0, 0.5):.1f}" height="{y.start - y.end:.0f}"'
        out.append(f'<rect class="band{index % 2}" {shape}/>')
        if x1 - x0 > CHARACTER * len(name) * 0.9:
            out.append(text((x0 + x1) / 2, y.end - 5, name, "band-label", "middle"))
    return out


def _axes(x: Scale, y: Scale, x_label: str, y_label: str) -> list[str]:
    """Grid, ticks and names of both axes."""
    left, right, top, bottom = x.start, x.end, y.end, y.start
    out = []
    for tick in y.ticks:
        out.append(line(left, y(tick), right, y(tick), "grid"))
        out.append(text(left - 6, y(tick) + 4, tick_label(tick), "tick", "end"))
    for tick in x.ticks:
        out.append(text(x(tick), bottom + 16, tick_label(tick), "tick", "middle"))
    out.append(line(left, bottom, right, bottom, "axis"))
    out.append(text((left + right) / 2, _HEIGHT - 6, x_label, "axis-label", "middle"))
    turned = f'transform="translate(11 {(top + bottom) / 2:.0f}) rotate(-90)"'
    return [*out, f'<text class="axis-label" text-anchor="middle" {turned}>{escape(y_label)}</text>']


def _reference(reference: tuple[float, str] | None, x: Scale, y: Scale) -> list[str]:
    if reference is None:
        return []
    level = y(reference[0])
    return [line(x.start, level, x.end, level, "reference"), text(x.end, level - 4, reference[1], "reference-label", "end")]


def _markers(s: Series, x: Scale, y: Scale, x_label: str, log_y: bool) -> list[str]:
    out = []
    for index, value in enumerate(s.y):
        if value is not None and (value > 0 or not log_y):
            low = s.low[index] if index < len(s.low) else None
            high = s.high[index] if index < len(s.high) else None
            said = f"{s.label}, {x_label} {number(s.x[index])}: {spoken(value, low, high)}"
            out.append(marker(x(s.x[index]), y(value), s.slot, said))
    return out


def interval_chart(
    rows: Sequence[Row],
    *,
    title: str,
    x_label: str,
    alt: str,
    reference: tuple[float, str] | None = None,
    limits: tuple[float, float] | None = None,
    width: int = 560,
) -> str:
    """A forest plot: one labelled row per item, its points beside each other with their intervals."""
    values = [v for row in rows for p in row.points for v in (p.value, p.low, p.high) if v is not None]
    if limits is not None:
        values = [min(max(v, limits[0]), limits[1]) for v in values]
    if reference is not None:
        values.append(reference[0])
    if not any(row.points for row in rows):
        return empty_chart(title, alt, width, 80)
    x = Scale.nice(min(values), max(values))
    left, right, top = 12 + CHARACTER * max(len(row.label) for row in rows), width - 14, 34
    heights = [max(22, 8 + 12 * len(row.points)) for row in rows]
    bottom = top + sum(heights)
    height = bottom + 38
    x.place(left, right)
    out = [opening(width, height, alt, title), text(0, 14, title, "chart-title")]
    for index in range(1, len(rows), 2):
        out.append(f'<rect class="band1" x="0" y="{top + sum(heights[:index])}" width="{width}" height="{heights[index]}"/>')
    for tick in x.ticks:
        out.append(line(x(tick), top, x(tick), bottom, "grid"))
        out.append(text(x(tick), bottom + 15, tick_label(tick), "tick", "middle"))
    if reference is not None:
        out.append(line(x(reference[0]), top, x(reference[0]), bottom, "reference"))
        out.append(text(x(reference[0]) + 4, top - 5, reference[1], "reference-label", "start"))
    y = float(top)
    for row, row_height in zip(rows, heights, strict=True):
        out.append(text(left - 8, y + row_height / 2 + 4, row.label, "row-label", "end"))
        if not row.points:
            out.append(text(left + 8, y + row_height / 2 + 4, row.note, "note", "start"))
        offset = y + row_height / 2 - 6 * (len(row.points) - 1)
        for place, point in enumerate(row.points):
            level = offset + 12 * place
            low, high = x.clip(point.low), x.clip(point.high)
            if low is not None and high is not None:
                out.append(f'<line class="whisker s{point.slot}" x1="{x(low):.1f}" y1="{level:.1f}" x2="{x(high):.1f}" y2="{level:.1f}"/>')
            said = f"{row.label}, {point.label}: {spoken(point.value, point.low, point.high)}"
            out.append(marker(x(x.clip(point.value) or point.value), level, point.slot, said))
        y += row_height
    out.append(line(left, bottom, right, bottom, "axis"))
    out.append(text((left + right) / 2, height - 5, x_label, "axis-label", "middle"))
    return "".join([*out, "</svg>"])


def bar_chart(
    rows: Sequence[Row], *, title: str, x_label: str, alt: str, reference: tuple[float, str] | None = None, width: int = 560
) -> str:
    """Horizontal bars from zero, the value written at the end; a row without a point shows its note."""
    points = [row.points[0] for row in rows if row.points]
    if not points:
        return empty_chart(title, alt, width, 80)
    shown = [p.high if p.high is not None else p.value for p in points] + ([reference[0]] if reference else [])
    x = Scale(0.0, max(shown) or 1.0, even_ticks(0.0, max(shown) or 1.0, 5))
    labels = [spoken(p.value, p.low, p.high) for p in points]
    left = 12 + CHARACTER * max(len(row.label) for row in rows)
    right = width - 10 - CHARACTER * max(len(label) for label in labels)
    top, step = 34 if reference else 26, 26
    bottom = top + step * len(rows)
    height = bottom + 36
    x.place(left, right)
    out = [opening(width, height, alt, title), text(0, 14, title, "chart-title")]
    for tick in x.ticks:
        out.append(line(x(tick), top, x(tick), bottom, "grid"))
        out.append(text(x(tick), bottom + 15, tick_label(tick), "tick", "middle"))
    for index, row in enumerate(rows):
        y = top + step * index
        out.append(text(left - 8, y + step / 2 + 4, row.label, "row-label", "end"))
        if not row.points:
            out.append(text(left + 8, y + step / 2 + 4, row.note, "note", "start"))
            continue
        p = row.points[0]
        said = spoken(p.value, p.low, p.high)
        bar = f'<rect class="bar s{p.slot}" x="{left:.1f}" y="{y + 5}" width="{max(x(p.value) - left, 1):.1f}" height="{step - 10}" rx="2">'
        out.append(f"{bar}<title>{escape(f'{row.label}: {said}')}</title></rect>")
        end = x(p.value)
        if p.low is not None and p.high is not None:
            end = x(p.high)
            out.append(line(x(p.low), y + step / 2, end, y + step / 2, "error"))
        out.append(text(end + 6, y + step / 2 + 4, said, "value"))
    if reference is not None:
        out.append(line(x(reference[0]), top, x(reference[0]), bottom, "reference"))
        out.append(text(x(reference[0]) + 4, top - 5, reference[1], "reference-label", "start"))
    out.append(line(left, top, left, bottom, "axis"))
    out.append(text((left + right) / 2, height - 5, x_label, "axis-label", "middle"))
    return "".join([*out, "</svg>"])


def marker_svg(slot: int) -> str:
    """A legend key: the marker of a slot, 12 × 12 px."""
    return f'<svg class="key" width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{marker(6, 6, slot, "")}</svg>'


def _ribbon(s: Series, x: Scale, y: Scale, log_y: bool) -> list[str]:
    usable = [
        (s.x[i], low, high)
        for i, (low, high) in enumerate(zip(s.low, s.high, strict=True))
        if low is not None and high is not None and (low > 0 or not log_y)
    ]
    if len(usable) < 2:
        return []
    path = [f"{x(at):.1f},{y(high):.1f}" for at, _, high in usable] + [f"{x(at):.1f},{y(low):.1f}" for at, low, _ in reversed(usable)]
    return [f'<polygon class="ribbon s{s.slot}" points="{" ".join(path)}"/>']


def _polyline(s: Series, x: Scale, y: Scale, log_y: bool) -> list[str]:
    runs: list[list[str]] = [[]]
    for at, value in zip(s.x, s.y, strict=True):
        if value is None or (log_y and value <= 0):
            runs.append([])
        else:
            runs[-1].append(f"{x(at):.1f},{y(value):.1f}")
    label = escape(s.label)
    return [f'<polyline class="line s{s.slot}" points="{" ".join(run)}"><title>{label}</title></polyline>' for run in runs if len(run) > 1]
