"""The page shows every cohort that can be estimated, names the headline's and its rule, and says why the others are missing."""

from __future__ import annotations

import re

from clinjepa.report.document import build_report, render_html
from clinjepa.report.headline import headlines
from clinjepa.report.sections.geometry import cohort_rows, headline_words, missing_cohorts, pictures, ratio_chart, unknown_ratios
from clinjepa.report.words import cohort_title
from tests.support.data.report_results import extras, results


def section() -> str:
    page = render_html(build_report(results()), extras())
    return page[page.index('id="geometry"') : page.index('id="downstream"')]


def test_rows_have_the_headline_cohort_first_and_every_recipe() -> None:
    rows = cohort_rows(build_report(results()))
    assert [(row.cohort, row.recipe) for row in rows if row.estimable] == [
        ("onset of hypotension within 24 h", recipe) for recipe in ("clin_jepa", "no_alignment", "sft")
    ]
    assert [row.is_headline for row in rows] == [True] * 3 + [False] * 3


def test_cohorts_without_a_ratio_are_named_with_their_reasons() -> None:
    assert missing_cohorts(build_report(results())) == [
        "SOFA + 2 within 24 h: not for source CinC 2012",
        "death in hospital: 2 matched pairs last 12 h beyond t0; at least 5 are needed",
    ]


def test_the_headline_s_tile_and_the_section_name_the_cohort_and_its_rule() -> None:
    report = build_report(results())
    assert "(onset of hypotension within 24 h, 12 h)" in headlines(report, "clin_jepa", "24")[1].about
    words = headline_words(report)
    assert words.startswith("Headline cohort: onset of hypotension within 24 h (") and "31 pairs without a common patient" in words
    assert words.endswith("Rule: the cohort with the most pairs.") and "Rule: the cohort with the most pairs." in section()


def test_the_section_shows_all_figures_of_a_cohort_and_the_space() -> None:
    text = re.sub(r"<[^>]+>|\s+", " ", section())
    for shown in ("1.92", "0.024", "0.546", "0.31", "11.5", "Moves farther in", "Isotropy", "Cohorts that cannot be estimated here"):
        assert shown in text


def test_each_recipe_has_both_pictures_with_the_paths_in_words() -> None:
    shown = pictures(extras())
    assert [(one.recipe, one.kind) for one in shown[:2]] == [("clin_jepa", "UMAP"), ("clin_jepa", "PCA")]
    assert all(one.src is not None and one.src.startswith("data:image/png") for one in shown)
    assert "paths of the centres of deteriorating and stable stays; 43 % of the variance" in shown[1].alt


def test_an_interval_without_a_near_end_does_not_press_the_others_together() -> None:
    report = results()
    report["geometry"]["sft"]["cohorts"]["onset_within_24h:hypotension_8h"]["ratio"]["ci95"] = [0.2, 19.0]
    chart = ratio_chart(build_report(report), dict.fromkeys(report["geometry"], 0))
    ticks = [float(tick) for tick in re.findall(r"<text[^>]*>([\d.]+)</text>", chart)]
    assert len(ticks) >= 3 and max(ticks) <= 4.0


def test_a_ratio_without_an_interval_is_not_drawn_but_listed_with_its_reason() -> None:
    report = results()
    cohort = report["geometry"]["sft"]["cohorts"]["onset_within_24h:hypotension_8h"]
    cohort["ratio"] = cohort["ratio"] | {"value": 0.0, "ci95": None}
    report["geometry"]["no_alignment"]["cohorts"]["onset_within_24h:hypotension_8h"] |= {"ratio": None, "reason": "noise"}
    built = build_report(report)
    chart = ratio_chart(built, dict.fromkeys(report["geometry"], 0))
    assert "Clin-JEPA" in chart and "SFT" not in chart and "without alignment" not in chart
    assert unknown_ratios(built) == [
        "onset of hypotension within 24 h: without alignment: noise; SFT, frozen: not known: its 95 % interval cannot be given"
    ]
    rows = [row for row in cohort_rows(built) if row.estimable]
    assert [row.recipe for row in rows] == ["clin_jepa", "no_alignment", "sft"] and rows[2].cell["ratio"] is None
    page = render_html(built, extras())
    assert "Ratios that are not known, and not drawn: onset of hypotension within 24 h" in page


def test_an_interval_over_a_factor_of_100_is_no_ratio() -> None:
    report = results()
    report["geometry"]["sft"]["cohorts"]["onset_within_24h:hypotension_8h"]["ratio"]["ci95"] = [0.2, 900.0]
    assert "more than a factor of 100" in unknown_ratios(build_report(report))[0]


def test_names_of_cohorts_are_words() -> None:
    assert cohort_title("sofa_2_within_24h") == "SOFA + 2 within 24 h"
    assert cohort_title("onset_within_24h:severe_hyperlactataemia_8h") == "onset of severe hyperlactataemia within 24 h"
