"""When each stage waited and computed, on one axis of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from clinjepa.report.charts.drawing import (
    CENTRED,
    Margins,
    drawing,
    number_axis,
    slot_colour,
    ticks_between,
    width_of,
)
from clinjepa.report.charts.lines import empty_chart
from clinjepa.report.charts.rows import left_of, row_axes

_WIDTH, _ROW = 620, 19


class StageSpan(NamedTuple):
    """One stage; times in seconds since the first stage began. Between `ready` (its inputs were finished) and `start` it waited."""

    label: str
    ready: float
    start: float
    end: float
    tip: str


def timeline_chart(spans: Sequence[StageSpan], *, title: str, alt: str) -> str:
    """A row per stage, its label in one line: a bar from its start to its end, and a thin line for the time that it waited."""
    if not spans:
        return empty_chart(title, alt, _WIDTH)
    last = max(span.end for span in spans)
    unit, of = ("hours", 3600) if last >= 7200 else ("minutes", 60) if last >= 300 else ("seconds", 1)
    left = 12 + max(width_of(span.label) for span in spans)
    with drawing(title, alt, _WIDTH, _ROW * len(spans) + 46) as chart:
        axes = row_axes(chart, Margins(left, 4, 16, 42), _ROW * len(spans))
        axes.set_xlim(0, last / of or 1)
        number_axis(axes, "x", ticks_between(0, last / of, 6), grid=True)
        chart.text(left + (_WIDTH - 16 - left) / 2, chart.body - 8, f"{unit} since the first stage began", CENTRED)
        for place, span in enumerate(spans):
            y = _ROW * (place + 0.5)
            left_of(axes, y, span.label)
            if span.start > span.ready:
                axes.plot([span.ready / of, span.start / of], [y, y], color=slot_colour(1), linewidth=4, solid_capstyle="butt", zorder=2)
            width = max((span.end - span.start) / of, last / of / 400)
            bar = axes.barh(y, width, 12, left=span.start / of, color=slot_colour(0), linewidth=0)
            chart.tip(bar[0], [span.tip])
        return chart.svg()
