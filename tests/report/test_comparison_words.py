"""The page says that one method is better than another only where the family-wise test does."""

from __future__ import annotations

from typing import Any

import pytest

from clinjepa.report.comparison_words import answer, comparison_rows
from clinjepa.report.document import build_report, render_html
from tests.support.data.report_results import extras, figure, results


def cell(value: float, half: float | None, p_holm: float | None) -> dict[str, Any]:
    counts = {"num_positive": 30, "num_total": 900, "num_positive_patients": 12}
    return {"difference": figure(value, half), "p_value": p_holm, "p_holm": p_holm, "single_seeds": [value], **counts}


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (cell(0.05, 0.02, 0.01), "higher"),
        (cell(-0.05, 0.02, 0.01), "lower"),
        (cell(0.05, 0.04, 0.2), "cannot be told"),  # the interval alone excludes 0, the family's test does not
        (cell(0.0, 0.0, 1.0), "equal within 0.005"),
        (cell(0.001, 0.003, 0.5), "equal within 0.005"),
        (cell(0.001, 0.03, 0.9), "cannot be told"),
        (cell(0.05, None, None), "cannot be told"),
    ],
)
def test_the_answer_follows_the_adjusted_test_and_the_interval(found: Any, words: str) -> None:
    assert answer(found) == words


def test_the_page_has_the_differences_beside_their_answers() -> None:
    tasks = {"hypotension_8h": {"lightgbm": cell(0.05, 0.02, 0.013)}}
    found = results() | {"comparisons": {"reference": "clin_jepa · linear", "column": "history_only", "tasks": tasks}}
    page = render_html(build_report(found), extras())
    assert "Is the difference real?" in page and "minus Clin-JEPA, linear probe" in page and "higher" in page
    assert comparison_rows(results()) == []
