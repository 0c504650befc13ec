"""The paper's claims are judged by intervals: held, did not hold, or cannot be told, and never by a value alone."""

from __future__ import annotations

from typing import Any

import pytest

from clinjepa.report.document import build_report, render_html
from clinjepa.report.sections.claims import Claim, apart, judged_claims, side
from tests.support.data.report_results import extras, figure, results

FULL = {"clin_jepa": (-0.2, 0.05), "vjepa2_ac": (0.3, 0.1), "sft": (0.2, 0.1), "untrained": (0.1, 0.1)}
RATIOS = {"clin_jepa": (4.8, 0.5), "vjepa2_ac": (2.6, 0.5), "sft": (1.0, 0.3), "untrained": (1.1, 0.3)}
MEANS = {"vjepa2_ac · linear": (-0.03, 0.01), "sft · linear": (-0.04, 0.01), "untrained · linear": (-0.2, 0.02), "lightgbm": (-0.02, 0.01)}


def world(**changed: dict[str, tuple[float, float | None]]) -> list[Claim]:
    """The claims of a world in which all three hold, with some figures changed: name -> (value, half of the interval)."""
    drift, ratios, means = (base | changed.get(name, {}) for name, base in (("drift", FULL), ("ratios", RATIOS), ("means", MEANS)))
    context = {name: {"24": {"drift": figure(*values), "h_max": 48, "horizons": {}}} for name, values in drift.items()}
    for name, found in context.items():
        found["24"]["horizons"] = {"48": {"change_of_prediction": figure(*drift[name])}}
    mean = {name: {"difference": figure(*values), "p_value": 0.01, "num_tasks": 3} for name, values in means.items()}
    return judged_claims(
        {
            "headline_context": 24,
            "drift": context,
            "geometry": {name: {"ratio": figure(*values)} for name, values in ratios.items()},
            "comparisons": {"reference": "clin_jepa · linear", "mean": mean},
        }
    )


def verdicts(claims: list[Claim]) -> list[str]:
    return [claim["verdict"] for claim in claims]


def test_the_paper_s_own_figures_hold() -> None:
    assert verdicts(world()) == ["held"] * 3


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"drift": {"clin_jepa": (0.2, 0.05)}}, ["did not hold", "held", "held"]),  # the error grows
        ({"drift": {"clin_jepa": (-0.2, 0.3)}}, ["cannot be told here", "held", "held"]),  # the interval includes no change
        ({"drift": {"clin_jepa": (-0.2, None)}}, ["cannot be told here", "held", "held"]),
        ({"drift": {"untrained": (-0.5, 0.1)}}, ["did not hold", "held", "held"]),  # the untrained encoder drifts less
        ({"drift": {"untrained": (-0.22, 0.1)}}, ["cannot be told here", "held", "held"]),
        ({"ratios": {"vjepa2_ac": (4.6, 0.5)}}, ["held", "cannot be told here", "held"]),
        ({"ratios": {"clin_jepa": (0.5, 0.2)}}, ["held", "did not hold", "held"]),
        ({"means": {"lightgbm": (0.02, 0.01)}}, ["held", "held", "did not hold"]),  # trees are better
        ({"means": {"lightgbm": (-0.002, 0.002)}}, ["held", "held", "did not hold"]),  # no better than trees by 0.005
        ({"means": {"sft · linear": (-0.02, 0.03)}}, ["held", "held", "cannot be told here"]),
    ],
)
def test_a_changed_figure_changes_its_claim_alone(changed: dict[str, Any], found: list[str]) -> None:
    assert verdicts(world(**changed)) == found


def test_a_recipe_of_the_paper_that_was_not_run_cannot_be_told() -> None:
    report = build_report(results())
    assert verdicts(report["claims"]) == ["did not hold", "cannot be told here", "cannot be told here"]
    questions = {part["question"]: part["measured"] for part in report["claims"][1]["parts"]}
    assert questions["Is the ratio above that of V-JEPA 2-AC style?"] == "V-JEPA 2-AC style was not run"


def test_few_patients_allow_no_answer() -> None:
    report = {"drift": {}, "geometry": {"clin_jepa": {"ratio": figure(3.0, 0.5, 29)}, "sft": {"ratio": figure(1.0, 0.1, 29)}}}
    parts = judged_claims(report)[1]["parts"]
    assert {part["verdict"] for part in parts} == {"cannot be told here"} and "29 patients, 30 are needed" in parts[0]["measured"]


def test_sides_follow_the_ends_of_the_interval() -> None:
    assert side(figure(1.0, 0.5), 0.4, above=True) == "held" and side(figure(1.0, 0.5), 1.6, above=True) == "did not hold"
    assert side(figure(1.0, 0.5), 1.4, above=True) == "cannot be told here" == side(None, 0.0, above=True)
    assert apart(figure(1.0, 0.2), figure(2.0, 0.2), above=False) == "held"
    assert apart(figure(1.0, 0.2), figure(2.0, 0.2), above=True) == "did not hold"
    assert apart(figure(1.0, 0.6), figure(2.0, 0.6), above=True) == "cannot be told here"


def test_a_training_seed_on_the_other_side_leaves_a_question_open() -> None:
    agreed, torn = figure(1.0, 0.5) | {"seeds": [0.9, 1.1]}, figure(1.0, 0.5) | {"seeds": [0.3, 1.7]}
    assert side(agreed, 0.4, above=True) == "held" and side(torn, 0.4, above=True) == "cannot be told here"
    assert (
        apart(figure(2.0, 0.2), agreed, above=True) == "held" and apart(figure(2.0, 0.2), torn | {"ci95": [0.9, 1.1]}, above=True) == "held"
    )
    assert apart(figure(1.6, 0.05), torn | {"ci95": [0.9, 1.1]}, above=True) == "cannot be told here"


def test_drift_is_compared_with_curricula_without_a_phase_and_the_words_say_that_it_is_unpaired() -> None:
    drift = {name: {"24": {"drift": figure(value, 0.05), "h_max": 24}} for name, value in (("clin_jepa", -0.2), ("no_alignment", -0.1))}
    part = next(part for part in judged_claims({"drift": drift, "geometry": {}})[0]["parts"] if "without alignment" in part["question"])
    assert part["question"] == "Does it drift less than without alignment?" and part["verdict"] == "cannot be told here"
    assert part["measured"].endswith("the two intervals side by side, no paired interval")


def test_the_page_answers_in_words() -> None:
    page = render_html(build_report(results()), extras())
    claims = page[page.index('id="claims"') : page.index('id="run"')]
    assert "Do deteriorating patients move further than stable ones (onset of hypotension within 24 h)?" in claims
    assert claims.count("cannot be told here") == 2 and "did not hold" in claims


def test_a_recipe_that_was_run_without_a_figure_says_why() -> None:
    report = build_report(results())
    report["geometry"]["vjepa2_ac"] = {"ratio": None, "reason": "only 3 stays have an onset"}
    questions = {part["question"]: part["measured"] for part in judged_claims(report)[1]["parts"]}
    assert questions["Is the ratio above that of V-JEPA 2-AC style?"] == "V-JEPA 2-AC style has no figure: only 3 stays have an onset"
