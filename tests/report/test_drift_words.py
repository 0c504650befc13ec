"""The page says whether a model uses the actions, and says so only where the interval allows it."""

from __future__ import annotations

from typing import Any

import pytest

from clinjepa.errors import StoreError
from clinjepa.report.document import build_report, render_html
from clinjepa.report.drift_words import action_rows, action_sentences, action_versions, dose_rows, dose_sentences
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


def with_doses(cell: dict[str, Any]) -> dict[str, Any]:
    """Results in which doses times 4 were measured at the headline context of one recipe."""
    found = results()
    at = found["drift"]["clin_jepa"]["24"]
    at["actions"]["other_doses"] = {"12": figure(0.03, 0.01)}
    at["other_doses"] = {"factor": 4.0, "num_hours": 900, "num_changed": 300, "num_unread": 2, "horizons": {"12": cell}}
    return found


@pytest.mark.parametrize(
    ("value", "half", "words"),
    [
        (
            0.2,
            0.1,
            "it gets worse with doses times 4 (L1 12 h ahead +20.0 %, 95 % +10.0 % to +30.0 %; 1,234 windows with a dose), so it uses them",
        ),
        (0.2, 0.3, "whether it uses the doses cannot be told (L1 12 h"),
        (
            0.0,
            0.0,
            "doses times 4 change nothing (L1 12 h ahead +0.0 %, 95 % +0.0 % to +0.0 %; 1,234 windows with a dose), so",
        ),
        (-0.2, 0.1, "it gets better with doses times 4"),
        (0.2, None, "whether it uses the doses cannot be told: there is no interval"),
    ],
)
def test_the_sentence_on_doses_follows_the_interval_over_the_windows_with_a_dose(value: float, half: float | None, words: str) -> None:
    assert words in dose_sentences(with_doses({"change": figure(value, half), "num_windows": 1234}), "24")[0]


def test_without_enough_windows_the_sentence_on_doses_gives_the_reason() -> None:
    cell = {"change": None, "num_windows": 3, "reason": "fewer than 5 patients have a dose between the history and this horizon"}
    (said,) = dose_sentences(with_doses(cell), "24")
    assert said == f"Clin-JEPA: whether it uses the doses cannot be told: {cell['reason']}."
    assert "cannot be told: fewer than 5 patients have a dose" in render_html(build_report(with_doses(cell)), extras())


def test_the_page_has_the_doses_only_where_they_were_measured() -> None:
    cell = {"change": figure(0.2, 0.1), "num_windows": 1234}
    page = render_html(build_report(with_doses(cell)), extras())
    for words in ("Does it use the doses?", "Doses times", "recorded, other doses", "1,234 windows with a dose"):
        assert words in page
    plain = render_html(build_report(results()), extras())
    assert "use the doses" not in plain and "other doses" not in plain
    assert dose_rows(results()) == [] and "other_doses" not in action_versions(results())


def test_a_missing_figure_on_doses_needs_a_reason() -> None:
    with pytest.raises(StoreError, match="lacks reason"):
        build_report(with_doses({"change": None, "num_windows": 3}))
