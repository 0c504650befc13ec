"""The page says whether a model uses the actions, and says so only where the interval allows it."""

from __future__ import annotations

from typing import Any

import pytest

from clinjepa.report.document import build_report, render_html
from clinjepa.report.drift_words import action_rows, action_sentences
from tests.support.data.report_results import extras, figure, results


def report(shuffled: dict[str, Any] | None) -> dict[str, Any]:
    found = results()["drift"]["clin_jepa"]["24"]
    return {"drift": {"clin_jepa": {"24": found | {"actions": {"shuffled": {"12": shuffled}}}}}}


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (0.2, 0.1, "it gets worse with another patient's actions (L1 12 h ahead +20.0 %, 95 % +10.0 % to +30.0 %), so it uses them"),
        (0.2, 0.3, "whether it uses the actions cannot be told"),
        (0.001, 0.005, "so it does not use the actions"),
        (0.0, 0.0, "so it does not use the actions"),
        (-0.2, 0.1, "it gets better with another patient's actions"),
        (0.2, None, "cannot be told: there is no interval"),
    ],
)
def test_the_sentence_follows_the_interval(value: float, half: float | None, words: str) -> None:
    assert words in action_sentences(report(figure(value, half)), "24")[0]


def test_without_a_figure_there_is_no_sentence() -> None:
    assert action_sentences(report(None), "24") == [] and action_rows(report(None)) == []


def test_the_page_shows_populations_starts_and_wrong_actions() -> None:
    page = render_html(build_report(results()), extras())
    for words in ("survivors: all at 1 h", "history begins at hour 12", "Does it use the actions?", "recorded, 6 h late", "-5.0 %"):
        assert words in page
