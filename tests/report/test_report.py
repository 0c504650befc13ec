"""report.json says what was found and what was not, and its page shows the same."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any

import pytest

from clinjepa.errors import StoreError
from clinjepa.report.document import NOT_FINITE, build_report, render_html
from clinjepa.report.sections.costs import cost_rows
from clinjepa.report.words import Footnotes, duration, title
from tests.support.data.report_results import OTHER_CODE, extras, figure, results


@cache
def unchanged_page() -> str:
    return render_html(build_report(results()), extras())


def page(changed: dict[str, Any] | None = None, pictures: dict[str, Any] | None = None) -> str:
    if changed is None and pictures is None:
        return unchanged_page()
    return render_html(build_report({**results(), **(changed or {})}), extras() if pictures is None else pictures)


def test_report_is_plain_json_that_reads_back_equal() -> None:
    report = build_report(results())
    assert json.loads(json.dumps(report, allow_nan=False)) == report


def test_report_that_was_built_builds_again() -> None:
    report = build_report(results())
    again = {name: value for name, value in report.items() if name not in ("schema_version", "stage_sharing", "claims")}
    assert build_report(again) == report


def test_stages_that_other_code_made_are_listed_and_told_on_the_page() -> None:
    report = build_report(results())
    assert [(stage["name"], stage["code_digest"]) for stage in report["other_code"]] == [
        ("ingest", OTHER_CODE),
        ("trajectories", OTHER_CODE),
    ]
    told = re.sub(r"<[^>]+>|\s+", " ", page())
    assert re.search(r"2 of them were made by other code than this report's, .* Trajectories \( fedcba98 \)", told, re.IGNORECASE)
    assert "made by other code" not in page(results() | {"other_code": []})


def test_missing_figure_without_a_reason_is_refused() -> None:
    changed = results() | {"geometry": {"sft": {"ratio": None}}}
    with pytest.raises(StoreError, match=r"geometry\.sft lacks reason"):
        build_report(changed)


def test_figure_that_is_a_bare_number_is_refused() -> None:
    with pytest.raises(StoreError, match=r"geometry\.sft\.ratio is not a figure"):
        build_report(results() | {"geometry": {"sft": {"ratio": 1.2}}})


def test_unknown_field_is_named_and_its_value_is_not() -> None:
    with pytest.raises(StoreError, match="unknown fields: geometri") as fault:
        build_report(results() | {"geometri": "a text that must not be told"})
    assert "must not be told" not in str(fault.value)


def test_missing_field_is_named() -> None:
    with pytest.raises(StoreError, match="report lacks versions"):
        build_report({name: value for name, value in results().items() if name != "versions"})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figure_that_is_not_finite_becomes_null_with_a_reason(value: float) -> None:
    report = build_report(results() | {"geometry": {"sft": {"ratio": figure(1.0) | {"value": value}}}})
    assert report["geometry"]["sft"] == {"ratio": None, "reason": NOT_FINITE}


def test_interval_that_is_not_finite_becomes_null_and_the_value_stays() -> None:
    report = build_report(results() | {"geometry": {"sft": {"ratio": figure(1.0) | {"ci95": [0.5, math.nan]}}}})
    assert report["geometry"]["sft"]["ratio"] == figure(1.0, None)


def test_stages_that_two_recipes_use_are_counted_as_shared() -> None:
    sharing = build_report(results())["stage_sharing"]
    assert (sharing["num_stages"], sharing["num_shared"], sharing["num_reused"]) == (11, 3, 2)
    assert sharing["recipes"]["clin_jepa"] == {"num_stages": 5, "num_shared": 3}
    assert sharing["recipes"]["untrained"] == {"num_stages": 2, "num_shared": 0}


def test_page_refers_to_nothing_outside_itself() -> None:
    found = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page()) + re.findall(r"url\(([^)]+)", page())
    assert [target[:40] for target in found if not target.startswith(("#", "data:"))] == []


def test_page_shows_what_each_recipe_cost() -> None:
    text = page()
    assert "What each recipe cost" in text
    assert all(f"<td>{count}</td>" in text for count in ("1,200,000", "98,304", "412,345", "231,000"))


def test_page_has_no_scripts() -> None:
    assert "<script" not in page()


def test_names_are_shown_as_text_and_never_as_markup() -> None:
    html = page({"run": "<img src=x>", "downstream": {"<b>task</b>": results()["downstream"]["in_hospital_death"]}})
    assert "<img src=x>" not in html and "<b>task" not in html and "&lt;b&gt;task" in html


def test_missing_figure_is_a_dash_and_never_a_zero() -> None:
    cell = Footnotes().cell({"ratio": None, "reason": "too few stays"}, "ratio")
    assert cell == '<abbr title="too few stays">–<sup>1</sup></abbr>'


def test_mark_of_a_cut_figure_stands_in_the_line_of_its_value() -> None:
    cell = Footnotes().cell({"auroc": figure(0.7, 0.1, 20), "cut": "history cut to 24 h"}, "auroc")
    assert '<span class="together">0.700<abbr title="history cut to 24 h"><sup>1</sup></abbr></span>' in cell


def test_time_of_a_recipe_has_its_range_over_seeds() -> None:
    one = {"num_steps": 60, "encoder_tokens": 1, "sft_tokens": 1, "latent_tokens": 1, "predictor_tokens": 1}
    rows = cost_rows(
        {"costs": {"sft": {"0": one | {"seconds": 300.0}, "1": one | {"seconds": 100.0}}, "random": {"0": one | {"seconds": 5.0}}}}
    )
    assert [(row.seconds, row.range_seconds) for row in rows] == [(200.0, (100.0, 300.0)), (5.0, None)]


def test_folded_blocks_are_open_in_print() -> None:
    assert "details::details-content { content-visibility: visible" in page().partition("@media print")[2]


def test_equal_reasons_share_a_footnote() -> None:
    notes = Footnotes()
    for reason in ("a", "b", "a"):
        notes.dash(reason)
    assert notes.listing() == '<ol class="footnotes"><li>a</li><li>b</li></ol>'


def test_report_without_any_figure_renders() -> None:
    empty = {"stages": [], "phases": {}, "drift": {}, "geometry": {}, "downstream": {}}
    bare = {name: value for name, value in (results() | empty).items() if name not in ("roundtrip", "forecasts", "timings", "created")}
    assert "not computed in this run" in render_html(build_report(bare), {})


def test_task_that_cannot_be_estimated_says_why_in_its_section() -> None:
    assert re.search(r"Hypoxaemia within 8 h: cannot be estimated here</h3><p class=\"remark\">3 positive patients", page())


def test_picture_that_could_not_be_made_shows_its_reason() -> None:
    assert "12 hours only" in page(pictures={"pictures": {"sft": {"umap": {"points": None, "groups": None, "reason": "12 hours only"}}}})


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "–"), (4.24, "4.2 s"), (61.2, "61 s"), (200, "3 min 20 s"), (3000, "50 min"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    ("name", "shown"), [("hypotension_8h", "Hypotension within 8 h"), ("clin_jepa · mlp", "Clin-JEPA, MLP probe"), ("sft", "SFT, frozen")]
)
def test_names_of_files_get_titles(name: str, shown: str) -> None:
    assert title(name) == shown


def test_forecasts_are_shown_with_coverage_events_and_what_was_cut() -> None:
    told = re.sub(r"<[^>]+>|\s+", " ", page())
    for words in ("48 h ahead are cut", "its rule reads treatments", "Hypotension within 8 h: reliability", "by level", "mmHg"):
        assert words in told
    assert "Forecasts of measured values" not in page({"forecasts": {}})


def test_a_forecast_without_its_coverage_is_refused() -> None:
    found = results()["forecasts"]
    del found["clin_jepa"]["variables"]["map"]["1"]["coverage_90"]
    with pytest.raises(StoreError, match=r"forecasts\.clin_jepa\.variables\.map\.1 lacks coverage_90"):
        build_report(results() | {"forecasts": found})


def test_costs_fans_intervals_tasks_and_stages_are_drawn() -> None:
    labels = re.findall(r'aria-label="([^"]*)"', page())
    for start in (
        "Optimizer steps",
        "Encoder tokens",
        "MAP, patient 1",
        "90 % intervals: coverage",
        "AUROC of every task",
        "Stages of the invocation",
    ):
        assert sum(label.startswith(start) for label in labels) == 1, start


def test_patients_who_may_not_be_shown_have_no_fan_and_the_page_says_so() -> None:
    reason = "Forecasts of single patients are not drawn."
    html = page(pictures={"no_fans": reason})
    assert reason in html and "patient 1" not in html


def test_a_page_of_four_recipes_is_small() -> None:
    assert len(page().encode()) < 1_500_000


def test_hostile_names_in_every_field_of_a_report_make_no_element() -> None:
    name = '"><svg onload=alert(1)><script>'
    found = results()
    stages = [stage | {"name": name} for stage in found["stages"]]
    attrition = [rule | {"rule": name} for rule in found["dataset"]["attrition"]]
    changed = {"stages": stages, "dataset": found["dataset"] | {"attrition": attrition}}
    changed |= {field: {name: found[field]["clin_jepa"]} for field in ("phases", "drift", "geometry", "costs", "forecasts", "added_value")}
    changed |= {"downstream": {name: {name: found["downstream"]["hypotension_8h"]["clin_jepa"]}}}
    html = page(found | changed)
    assert "<script" not in html and "<svg onload" not in html
