"""The page shows the spread over training seeds apart from the intervals, and names recipes that end with the same encoder."""

from __future__ import annotations

from typing import Any

from clinjepa.report.document import build_report, render_html
from clinjepa.report.headline import Headline
from clinjepa.report.sections.training_seeds import SeedRow, same_encoders, seed_rows
from clinjepa.report.words import title
from tests.support.data.report_results import extras, results


def _stage(name: str, key: str, *recipes: str) -> dict[str, Any]:
    return {"name": name, "key": key, "recipes": list(recipes)}


def test_the_page_has_a_row_per_figure_with_the_value_of_each_seed() -> None:
    given = results()
    methods = given["downstream"]["hypotension_8h"]
    method = next(name for name in methods if name.startswith("clin_jepa"))
    cell = methods[method]["history_only"]
    cell["auroc"] = cell["auroc"] | {"value": 0.61, "ci95": [0.5, 0.7], "num_seeds": 2, "seeds": [0.58, 0.64]}
    report = build_report(given)
    assert seed_rows(report, "24") == [
        SeedRow("Hypotension within 8 h, AUROC", title(method), "0.610", "0.580, 0.640", "0.0600"),
    ]
    page = render_html(report, extras())
    assert "Every 95 % interval on this page is over patients" in page and "Spread over training seeds" in page
    assert "0.640; the interval is over patients alone" in page
    assert seed_rows(build_report(results()), "24") == []


def test_recipes_with_the_geometry_stages_of_an_earlier_one_have_its_encoder() -> None:
    recipes = ("clin_jepa", "no_alignment", "sft")
    stages = [
        _stage("latents · seed 0", "x", *recipes),  # of the encoder that all start from
        _stage("geometry · seed 0", "a", "clin_jepa", "no_alignment"),
        _stage("geometry · seed 1", "b", "clin_jepa", "no_alignment"),
        _stage("geometry · seed 0", "c", "sft"),
    ]
    report = {"phases": dict.fromkeys(recipes, {}), "stages": stages}
    assert same_encoders(report) == {"no_alignment": "clin_jepa"}
    apart = [*stages[:2], _stage("geometry · seed 1", "b", "clin_jepa"), _stage("geometry · seed 1", "d", "no_alignment"), stages[3]]
    assert same_encoders(report | {"stages": apart}) == {}


def test_a_headline_needs_seeds_on_one_side() -> None:
    figure: Any = {"value": -0.1, "ci95": [-0.2, -0.05], "num_patients": 120, "num_seeds": 2}
    agreed, torn = ({**figure, "seeds": seeds} for seeds in ([-0.15, -0.05], [-0.3, 0.1]))
    assert Headline("Drift", "", agreed, "", 0.0, in_percent=True).tile().value == "-10.0 %"
    tile = Headline("Drift", "", torn, "", 0.0, in_percent=True).tile()
    assert tile.value == "no clear change" and tile.basis == "120 patients, 2 seeds: -30.0 %, +10.0 %"
