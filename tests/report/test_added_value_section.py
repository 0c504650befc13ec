"""The section on what the latent adds: its sentences follow the stated rule, and missing figures have their reason."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest

from clinjepa.errors import StoreError
from clinjepa.report.document import build_report, render_html
from clinjepa.report.sections.added_value import AddedValueView, answer
from tests.support.data.report_results import figure, results

_NO_RISK = results()["risk"] | {"tasks": {}}


def section(changed: dict[str, Any] | None = None) -> str:
    page = unchanged_page() if changed is None else page_of(results() | changed)
    return page[page.index('<section id="added-value">') :].partition("</section>")[0]


@cache
def unchanged_page() -> str:
    return page_of(results())


def page_of(found: dict[str, Any]) -> str:
    """A page without the evaluations whose charts take long to draw."""
    return render_html(build_report({**found, "forecasts": {}, "drift": {}, "geometry": {}, "downstream": {}, "risk": _NO_RISK}), {})


def words(markup: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", markup))


@pytest.mark.parametrize(
    ("interval", "p_holm", "said"),
    [
        ([0.01, 0.05], 0.01, "adds"),
        ([0.01, 0.05], 0.2, "cannot_tell"),
        ([-0.01, 0.05], 0.2, "cannot_tell"),
        ([-0.02, 0.005], 0.4, "adds_no_more"),
        ([0.001, 0.004], 0.01, "adds_no_more"),
        ([-0.09, -0.02], 0.01, "adds_no_more"),
        (None, None, "cannot_tell"),
    ],
)
def test_an_answer_follows_the_interval_and_the_adjusted_p(interval: list[float] | None, p_holm: float | None, said: str) -> None:
    assert answer({"auroc": figure(0.0) | {"ci95": interval}, "p_holm": p_holm}) == said
    assert answer({"auroc": None, "p_holm": None}) == "cannot_tell"


def test_every_task_has_one_sentence() -> None:
    told = AddedValueView(build_report(results())).sentences("clin_jepa")
    basis = "118 patients, 100 % of the training patients."
    assert told == [
        f"Hypotension within 8 h: the latent adds to the features. AUROC of both minus that of the features 0.0300 (0.0100 to 0.0500), "
        f"adjusted p 0.0100, {basis}",
        f"In-hospital death: the latent does not add more than 0.005 to the features. AUROC of both minus that of the features "
        f"-0.0200 (-0.0400 to 0), adjusted p 0.0100, {basis}",
        "Hypoxaemia within 8 h: whether the latent adds something cannot be told: "
        "3 patients with a positive label in train; at least 10 are needed.",
    ]
    assert all(sentence in words(section()).replace("&#39;", "'") for sentence in told)


def test_a_share_that_is_too_small_interrupts_the_curve_and_has_its_reason() -> None:
    markup = section()
    assert "1 patients with a positive label in 1 % of the training patients; 2 are needed" in markup
    label = re.search(r'aria-label="(Hypotension within 8 h: AUROC by share of patients[^"]*)"', markup)
    assert label is not None and "hand-made features: 0.680 (0.640 to 0.720) at 10 %, 0.700 (0.660 to 0.740) at 100 %" in label.group(1)
    assert markup.count("<svg") >= 2 and "Hypoxaemia within 8 h: AUROC by share" not in markup


def test_tables_show_counts_differences_and_what_is_not_fitted() -> None:
    told = words(section())
    assert "Hypotension within 8 h 56 10 % 12 LightGBM 0.680" in told
    assert "logistic regression is not fitted on features and latents together" in told
    assert "AUROC: untrained encoder" in told and "AUPRC: Clin-JEPA" in told


def test_a_report_without_gradient_boosting_says_so() -> None:
    changed = results()["added_value"]
    for recipe in changed.values():
        for task in recipe["tasks"].values():
            for share in task["shares"].values():
                share["methods"].pop("lightgbm")
                share["differences"].pop("lightgbm")
    markup = section({"added_value": changed})
    assert "cannot be told: gradient boosting was not fitted" in markup and "By share of the training patients: LightGBM" not in markup


def test_a_run_whose_headline_recipe_has_no_figures_shows_another() -> None:
    changed = {"added_value": {"untrained": results()["added_value"]["untrained"]}}
    assert "untrained encoder: models on hand-made features" in words(section(changed))


def test_report_without_the_evaluation_has_no_section() -> None:
    without = {name: value for name, value in results().items() if name != "added_value"}
    page = page_of(without)
    assert 'id="added-value"' not in page and "#added-value" not in page


def test_a_missing_difference_without_a_reason_is_refused() -> None:
    changed = results()
    del changed["added_value"]["clin_jepa"]["tasks"]["hypoxaemia_8h"]["shares"]["1"]["differences"]["lightgbm"]["both"]["reason"]
    with pytest.raises(StoreError, match=r"differences\.lightgbm\.both lacks reason"):
        build_report(changed)
