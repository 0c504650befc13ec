"""The pieces that the report's SVG charts are drawn from: axes, marks and written figures."""

from __future__ import annotations

import math
from html import escape

CHARACTER = 6.3  # width of one character at 11 px, in px


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
    """A position on an axis, without trailing zeros."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


class Scale:
    """Data to pixels along one axis."""

    def __init__(self, low: float, high: float, ticks: list[float], log: bool = False) -> None:
        self.low, self.high, self.ticks, self.log = low, high if high > low else low + 1, ticks, log
        self.start, self.end = 0.0, 1.0

    @classmethod
    def nice(cls, low: float, high: float, log: bool = False) -> Scale:
        if log and high / low >= 8:
            ticks = [m * 10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1) for m in (1, 3)]
            inside = [t for t in ticks if low / 1.01 <= t <= high * 1.01]
            return cls(low / 1.15, high * 1.15, inside or [low, high], log=True)
        if high - low < 1e-9 * max(abs(high), 1e-9):
            pad = abs(high) * 0.1 or 1.0
            low, high = low - pad, high + pad
        ticks = even_ticks(low, high, 5)
        step = ticks[1] - ticks[0] if len(ticks) > 1 else high - low
        return cls(min(low, ticks[0]) - 0.08 * step, max(high, ticks[-1]) + 0.08 * step, ticks)

    def place(self, start: float, end: float) -> None:
        self.start, self.end = start, end

    def clip(self, value: float | None) -> float | None:
        return None if value is None else min(max(value, self.low), self.high)

    def __call__(self, value: float) -> float:
        if self.log:
            share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def even_ticks(low: float, high: float, count: int) -> list[float]:
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def marker(x: float, y: float, slot: int, said: str) -> str:
    tip = f"<title>{escape(said)}</title>" if said else ""
    shape = slot % 4
    if shape == 0:
        return f'<circle class="mark s{slot}" cx="{x:.1f}" cy="{y:.1f}" r="4">{tip}</circle>'
    outlines: dict[int, list[tuple[float, float]]] = {
        1: [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2: [(0, -5), (5, 4), (-5, 4)],
        3: [(0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)],
    }
    corners = outlines[shape]
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon class="mark s{slot}" points="{points}">{tip}</polygon>'


def spoken(value: float, low: float | None, high: float | None) -> str:
    return number(value) if low is None or high is None else f"{number(value)} ({number(low)}–{number(high)})"


def opening(width: int, height: float, alt: str, title: str) -> str:
    label = escape(f"{title}. {alt}", quote=True)
    return f'<svg class="chart" role="img" viewBox="0 0 {width} {height:.0f}" style="max-width:{width}px" aria-label="{label}">'


def empty_chart(title: str, alt: str, width: int, height: int) -> str:
    said = text(width / 2, height / 2 + 8, "nothing to draw: every value is missing", "note", "middle")
    return opening(width, height, alt, title) + text(0, 14, title, "chart-title") + said + "</svg>"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
