"""The section on risk scores in use: what its tables show, and what stands where a figure is missing."""

from __future__ import annotations

import copy
import re

import pytest

from clinjepa.errors import StoreError
from clinjepa.report.document import build_report, render_html
from clinjepa.report.sections.risk import RiskView
from tests.support.data.report_results import extras, results


def section() -> str:
    page = render_html(build_report(results()), extras())
    return page[page.index('<section id="risk">') :].partition("</section>")[0]


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def test_open_tables_show_the_method_that_comparisons_subtract() -> None:
    report = build_report(results() | {"comparisons": {"reference": "sofa", "column": "history_only", "tasks": {}}})
    view = RiskView(report)
    assert (view.shown_method("hypotension_8h"), view.shown_method("in_hospital_death")) == ("sofa", "clin_jepa · linear")
    assert [row.rate for row in view.alarms("hypotension_8h", all_methods=False)] == ["1"]
    assert len(view.alarms("hypotension_8h", all_methods=True)) == 3


def test_figures_stand_with_their_intervals_and_counts() -> None:
    told = words(section())
    assert "Hypotension within 8 h 0.100 0.0600 to 0.140 0.0300" in told
    assert "1 0.990 0.600 0.560 to 0.640" in told
    assert "No alarms for In-hospital death: predicted once per stay, not hour by hour." in told


def test_a_small_group_is_named_with_its_reason_and_its_name_is_no_markup() -> None:
    markup = section()
    assert "&lt;SICU&gt;" in markup and "<SICU>" not in markup
    assert "3 patients with a positive label; at least 10 are needed" in markup
    assert "no other group is large enough" in markup


def test_a_score_that_is_no_probability_has_the_reason_in_place_of_calibration() -> None:
    assert "the method&#39;s scores order the points and are no probabilities" in section()


def test_report_without_risk_figures_has_no_section() -> None:
    without = {name: value for name, value in results().items() if name != "risk"}
    page = render_html(build_report(without), extras())
    assert 'id="risk"' not in page and "#risk" not in page


def test_a_calibration_without_its_slope_is_refused() -> None:
    changed = results()
    del changed["risk"]["tasks"]["hypotension_8h"]["methods"]["clin_jepa · linear"]["calibration"]["slope"]
    with pytest.raises(StoreError, match="calibration lacks slope"):
        build_report(changed)


def test_every_task_with_probabilities_has_a_reliability_chart() -> None:
    plots = RiskView(results()).reliability_plots()
    assert [plot.methods for plot in plots] == [["clin_jepa · linear"]] * 2
    assert "Hypotension within 8 h: reliability" in plots[0].chart and "predicted 0.450, had the event 0.400 (0.360" in plots[0].chart
    assert section().count(": reliability") == 4  # a label and a heading each


def test_the_compared_method_is_the_other_one_with_the_lowest_brier_score() -> None:
    changed = copy.deepcopy(results())
    methods = changed["risk"]["tasks"]["hypotension_8h"]["methods"]
    for name, brier in (("good", 0.05), ("bad", 0.2)):
        methods[name] = copy.deepcopy(methods["clin_jepa · linear"])
        methods[name]["calibration"]["brier"]["value"] = brier
    plot = RiskView(changed).reliability_plots()[0]
    assert plot.methods == ["clin_jepa · linear", "good"]
