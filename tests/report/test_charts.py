"""Charts are drawn from data alone: texts stay texts, equal charts have equal bytes, the page gives the colours."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser

import matplotlib
import pytest

from clinjepa.report.charts.forecast_charts import Fan, FanPoint, ReliabilityBin, ReliabilityCurve, fan_chart, reliability_chart
from clinjepa.report.charts.grids import Cell, HeatRow, cell_map, heat_map, histogram
from clinjepa.report.charts.lines import LineStyle, Series, line_chart, marker_svg
from clinjepa.report.charts.page_svg import VARIABLES
from clinjepa.report.charts.parts import number
from clinjepa.report.charts.rows import Point, Row, bar_chart, interval_chart
from clinjepa.report.charts.timeline import StageSpan, timeline_chart
from clinjepa.report.document import page_style

HOSTILE = ["<script>alert(1)</script>", "$\\frac$", '"><svg onload=alert(1)>', "a\x00\x0bb & c", "]]><b>", "日本"]


def lines(name: str) -> str:
    style = LineStyle(reference=(1.0, name), bands=[(0, 5, name), (5, 10, name)])
    series = [Series(name, 0, [0, 10], [1, 2], [0.5, 1.5], [1.5, 2.5])]
    return line_chart(series, title=name, x_label=name, y_label=name, alt=name, style=style)


def intervals(name: str) -> str:
    rows = [Row(name, [Point(name, 1, 0.5, 0.4, 0.9)]), Row(name, note=name)]
    return interval_chart(rows, title=name, x_label=name, alt=name, reference=(0.5, name))


def fan(name: str) -> str:
    return fan_chart(Fan(name, name, [FanPoint(1, 70, 71, 65, 75, 60, 80), FanPoint(4, 72, 70, 64, 76, 55, 85)]))


CHARTS: dict[str, Callable[[str], str]] = {
    "lines": lines,
    "intervals": intervals,
    "bars": lambda name: bar_chart([Row(name, [Point(name, 0, 3)])], title=name, x_label=name, alt=name, reference=(2.0, name)),
    "heat map": lambda name: heat_map([HeatRow(name), HeatRow(name, [0.1, None, 1], name, name)], title=name, x_label=name, alt=name),
    "tips of cells": lambda name: heat_map([HeatRow(name, [0.1], tips=[name])], title=name, x_label=name, alt=name, scale=(name, name)),
    "cells": lambda name: cell_map([name], [(name, [Cell(name, 0.5, name)])], title=name, alt=name),
    "histogram": lambda name: histogram([3, 0, 1], 10, title=name, x_label=name, alt=name, marks=[(15, name)]),
    "reliability": lambda name: reliability_chart(
        [ReliabilityCurve(name, 0, [ReliabilityBin(0.2, 0.3, 50, 0.1, 0.4)])], title=name, alt=name
    ),
    "fan": fan,
    "timeline": lambda name: timeline_chart([StageSpan(name, 0, 2, 5, name)], title=name, alt=name),
    "nothing": lambda name: line_chart([], title=name, x_label=name, y_label=name, alt=name),
}
EVERY = pytest.mark.parametrize("draw", CHARTS.values(), ids=CHARTS.keys())


class Seen(HTMLParser):
    """Elements, names of attributes, and texts as a browser's HTML parser meets them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts = ""
        self.label = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.label = dict(attrs).get("aria-label") or self.label

    def handle_data(self, data: str) -> None:
        self.texts += data


@EVERY
def test_no_text_of_the_data_becomes_code(draw: Callable[[str], str]) -> None:
    for name in HOSTILE:
        seen = Seen(draw(name))
        assert seen.tags <= {"svg", "g", "defs", "path", "use", "text", "title"}
        allowed = {"class", "role", "viewbox", "style", "aria-label", "d", "id", "href", "x", "y", "transform"}
        assert seen.attributes <= allowed
        assert "\x00" not in seen.texts and "\x0b" not in seen.label


@EVERY
def test_hostile_names_stand_in_the_chart_as_they_are(draw: Callable[[str], str]) -> None:
    seen = Seen(draw("$\\frac$ <b>"))
    assert "$\\frac$ <b>" in seen.texts and "$\\frac$ <b>" in seen.label


@EVERY
def test_equal_charts_have_equal_bytes(draw: Callable[[str], str]) -> None:
    assert draw("a name") == draw("a name")


@EVERY
def test_the_page_gives_every_colour(draw: Callable[[str], str]) -> None:
    drawn = draw("a name")
    assert re.findall(r"#[0-9a-f]{6}\b", re.sub(r'(href|id)="[^"]*"', "", drawn)) == []
    assert set(re.findall(r"var\(--([\w-]+)\)", drawn)) <= set(VARIABLES.values())


@EVERY
def test_a_chart_is_as_wide_as_its_place_and_has_a_text_alternative(draw: Callable[[str], str]) -> None:
    found = re.match(r'<svg class="chart" role="img" viewBox="0 0 ([\d.]+) [\d.]+" style="([^"]*)" aria-label="([^"]*)"', draw("a name"))
    assert found is not None and "a name" in found.group(3) and "max-width" in found.group(2)
    assert ' width="' not in found.group(0)


@EVERY
def test_no_setting_of_matplotlib_is_left_behind_or_read(draw: Callable[[str], str]) -> None:
    with matplotlib.rc_context({"font.size": 30, "axes.linewidth": 9, "svg.fonttype": "path"}):
        other = draw("a name")
        assert matplotlib.rcParams["svg.fonttype"] == "path" and matplotlib.rcParams["font.size"] == 30
    assert other == draw("a name")


def test_the_colours_of_charts_are_those_of_the_style_sheet_for_light_screens() -> None:
    light = page_style().partition("@media")[0]
    named = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", light))
    assert {variable: named[variable] for variable in VARIABLES.values()} == {variable: colour for colour, variable in VARIABLES.items()}


def test_a_line_is_interrupted_where_a_value_is_missing() -> None:
    drawn = line_chart([Series("a", 0, [1, 2, 3, 4, 5], [1, 2, None, 2, 1])], title="t", x_label="x", y_label="y", alt="")
    line = re.search(r'<g class="tip"><title>a</title><path d="([^"]+)"', drawn)
    assert line is not None and line.group(1).count("M") == 2
    assert drawn.count("<use") == 4


def test_every_marker_has_a_tip_with_its_value_and_interval() -> None:
    drawn = line_chart([Series("a", 0, [1, 6], [1.5, 2.0], [1.0, 1.5], [2.0, 2.5])], title="t", x_label="hours", y_label="y", alt="")
    assert re.findall(r"<use[^>]*><title>([^<]+)</title>", drawn) == ["a, hours 1: 1.50 (1.00 to 2.00)", "a, hours 6: 2.00 (1.50 to 2.50)"]


def test_values_beyond_the_limits_are_drawn_at_the_edge() -> None:
    drawn = interval_chart([Row("a", [Point("p", 0, 9.0, 1.0, 50.0)])], title="t", x_label="x", alt="", limits=(0.0, 2.0))
    width = float(re.search(r'viewBox="0 0 (\d+)', drawn).group(1))  # type: ignore[union-attr]  # every chart has one
    assert all(0 <= float(x) <= width for x in re.findall(r'<use[^>]* x="([-\d.]+)"', drawn))


def test_a_reliability_curve_shows_every_bin_with_its_interval_and_number() -> None:
    bins = [ReliabilityBin(0.1, 0.05, 40, 0.0, 0.2), ReliabilityBin(0.5, 0.6, 12)]
    drawn = reliability_chart([ReliabilityCurve("model", 2, bins)], title="t", alt="")
    assert re.findall(r"<use[^>]*><title>([^<]+)</title>", drawn) == [
        "model: predicted 0.100, had the event 0.0500 (0 to 0.200), n = 40",
        "model: predicted 0.500, had the event 0.600, n = 12",
    ]


def test_a_fan_without_intervals_shows_the_forecast_and_the_measured_values() -> None:
    drawn = fan_chart(Fan("MAP", "mmHg", [FanPoint(1, 70, 71, None, None, None, None), FanPoint(4, 72, 70, None, None, None, None)]))
    assert re.findall(r"<use[^>]*><title>([^<]+)</title>", drawn) == [
        "1 h ahead: measured 70, forecast 71",
        "4 h ahead: measured 72, forecast 70",
    ]


def test_a_heat_map_shades_by_value_and_leaves_the_unknown_empty() -> None:
    drawn = heat_map([HeatRow("Vitals"), HeatRow("MAP", [1.0, 0.05, 0.0, None, 0.55, 0.55])], title="t", x_label="h", alt="a")
    cells = [part for part in re.findall(r'<path d="([^"]+)" style="fill:var\(--s0\)(?:;opacity:([\d.]+))?"', drawn)][10:]
    assert sorted(opacity or "1" for _, opacity in cells) == ["0.1", "0.6", "1"]


def test_a_histogram_has_a_column_per_bin_that_is_not_empty() -> None:
    assert re.findall(r"<title>([^<]+)", histogram([4, 0, 1], 10, title="t", x_label="x", alt="a")) == ["0 to 9: 4", "20 to 29: 1"]


def test_a_legend_key_is_small_and_hidden_from_readers_of_texts() -> None:
    assert marker_svg(3).startswith('<svg class="key" width="12" height="12" aria-hidden="true"')


@pytest.mark.parametrize(
    ("value", "written"),
    [(0, "0"), (37412, "37,412"), (0.5, "0.500"), (1.9234, "1.92"), (123.4, "123"), (0.0421, "0.0421"), (-0.5, "-0.500"), (2e-5, "2e-05")],
)
def test_figures_are_written_with_three_digits_and_counts_exactly(value: float, written: str) -> None:
    assert number(value) == written


def test_each_stage_of_the_timeline_has_one_line() -> None:
    names = [f"downstream · no_alignment with a long name · seed {seed}" for seed in range(3)]
    drawn = timeline_chart([StageSpan(name, 0, 2, 5, "") for name in names], title="", alt="stages")
    assert all(f">{name}</text>" in drawn for name in names)


def test_a_logarithmic_axis_is_named() -> None:
    def chart(most: float) -> str:
        style = LineStyle(log_y=True)
        return line_chart([Series("a", 0, [0, 1], [1, most])], title="", x_label="h", y_label="L1", alt="", style=style)

    assert ">L1, log scale</text>" in chart(100) and ">L1</text>" in chart(2)
