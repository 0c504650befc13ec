"""The section on tasks whose labels are numbers: every method and input has its row, and what is missing has its reason."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from clinjepa.errors import StoreError
from clinjepa.report.document import build_report, render_html
from clinjepa.report.sections.numbers import NumberView
from tests.support.data.report_results import results

COMPARED = {"reference": "clin_jepa · linear", "column": "history_only", "tasks": {}, "mean": {}}


def page_of(changed: dict[str, Any]) -> str:
    """A page without the evaluations whose charts take long to draw."""
    quick = {"forecasts": {}, "drift": {}, "geometry": {}, "downstream": {}, "added_value": {}, "risk": results()["risk"] | {"tasks": {}}}
    return render_html(build_report({**results(), **quick, "comparisons": COMPARED, **changed}), {})


@cache
def section() -> str:
    page = page_of({})
    return page[page.index('<section id="numbers">') :].partition("</section>")[0]


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


def test_a_task_has_its_title_unit_and_a_row_for_every_method_and_input() -> None:
    told = words(section())
    assert "Mean MAP of the next 8 hours, mmHg" in told and "MAE, mmHg" in told
    assert section().count("<tr") == 1 + 3 * 3 + 1
    assert "Clin-JEPA, linear probe history only 4.00 3.70 to 4.30 0.400 0.360 to 0.440 410 118 reference" in told
    assert "MLP probe history only 3.80 3.50 to 4.10 0.440 0.400 to 0.480 410 118 -0.200 -0.350 to -0.0500" in told
    assert "ridge regression, hand-made features history only 4.40" in told
    assert '<div class="table dense">' in section()


def test_a_task_without_a_figure_has_its_reason_in_place_of_a_table() -> None:
    told = words(section())
    assert "Median creatinine of the second day: cannot be estimated here 7 patients with a label in train; at least 10 are needed" in told


def test_a_missing_figure_in_a_table_has_its_reason() -> None:
    cell = {"mae": None, "r2": None, "unit": "mmHg", "num_total": 410, "reason": "the data lack what gru reads"}
    numbers = results()["regression"]["map_8h"]
    del numbers["untrained · linear"]["history_only"]["mae_difference"]
    page = page_of({"regression": {"map_8h": {**numbers, "gru": {"history_only": cell}}}})
    assert "<li>the data lack what gru reads</li>" in page and "<li>the reference has no predictions of this task</li>" in page


def test_a_run_without_such_tasks_has_no_section() -> None:
    page = page_of({"regression": {}})
    assert 'id="numbers"' not in page and 'href="#numbers"' not in page
    assert 'href="#numbers"' in page_of({})
    assert NumberView({}).tasks == {}


def test_a_null_figure_needs_a_reason_and_a_cell_its_unit() -> None:
    numbers = results()["regression"]
    del numbers["creatinine_day_2"]["ridge"]["history_only"]["reason"]
    with pytest.raises(StoreError, match="lacks reason"):
        build_report(results() | {"regression": numbers})
    numbers = results()["regression"]
    del numbers["map_8h"]["ridge"]["history_only"]["unit"]
    with pytest.raises(StoreError, match="lacks unit"):
        build_report(results() | {"regression": numbers})
