"""A headline figure is shown with its interval and its patients, and the page says when the patients are too few."""

from __future__ import annotations

import re
from typing import Any

import pytest

from clinjepa.curriculum.recipes import load_recipe
from clinjepa.report.document import build_report, render_html
from clinjepa.report.headline import MIN_PATIENTS, Headline, cautions, risk_headline
from clinjepa.report.size_words import size_words
from clinjepa.report.words import recipe_words
from tests.support.data.report_results import RECIPES, extras, figure, results

ENOUGH, ONE_LESS = figure(0.2, 0.1, MIN_PATIENTS), figure(0.2, 0.1, MIN_PATIENTS - 1)


def sufficient() -> dict[str, Any]:
    """Results whose every headline figure has MIN_PATIENTS held-out patients or more."""
    found = results()
    found["geometry"]["clin_jepa"]["ratio"] = figure(1.9, 0.4, MIN_PATIENTS)
    del found["downstream"]["hypoxaemia_8h"]
    return found


def page(found: dict[str, Any]) -> str:
    return render_html(build_report(found), extras())


def headline(found: dict[str, Any] | None, reason: str = "") -> Headline:
    return Headline("Rollout drift", "L1 48 h ahead", found, reason, 0.0, in_percent=True)  # type: ignore[arg-type]  # as read from JSON


def test_a_tile_shows_value_interval_patients_and_seeds() -> None:
    tile = headline(figure(-0.185, 0.1, 18)).tile()
    assert (tile.value, tile.interval, tile.basis) == ("-18.5 %", "95 %: -28.5 % to -8.5 %", "18 patients, 1 seed")
    assert "95 %: -28.5 % to -8.5 %" in re.sub(
        r"<[^>]+>",
        " ",
        page(results() | {"drift": {"clin_jepa": {"24": results()["drift"]["clin_jepa"]["24"] | {"drift": figure(-0.185, 0.1, 18)}}}}),
    )


@pytest.mark.parametrize("half", [0.3, None])
def test_a_value_whose_interval_does_not_allow_it_is_no_headline(half: float | None) -> None:
    tile = headline(figure(-0.185, half, 18)).tile()
    assert tile.value == "no clear change" and tile.detail == "L1 48 h ahead; estimate -18.5 %"


def test_a_tile_without_a_figure_shows_the_reason() -> None:
    tile = headline(None, "1 matched pair").tile()
    assert (tile.value, tile.detail, tile.interval) == ("–", "1 matched pair", "")


def test_a_tile_without_an_interval_names_that() -> None:
    assert headline(figure(0.1, None)).tile().interval == "no 95 % interval"


def test_no_notice_where_every_headline_figure_has_enough_patients() -> None:
    assert cautions(build_report(sufficient()), "clin_jepa", "24") == []
    assert "Too few patients" not in page(sufficient())


@pytest.mark.parametrize("found", [ONE_LESS, None])
@pytest.mark.parametrize("name", ["drift", "geometry", "task"])
def test_notice_where_one_headline_figure_has_too_few_patients_or_is_missing(name: str, found: dict[str, Any] | None) -> None:
    changed = sufficient()
    missing = {} if found else {"reason": "too few stays"}
    if name == "drift":
        changed["drift"]["clin_jepa"]["24"] |= {"drift": found, **missing}
    elif name == "geometry":
        changed["geometry"]["clin_jepa"] |= {"ratio": found, **missing}
    else:
        cell = {"auroc": found, "auprc": found, "num_positive": 3, "num_total": 9, **missing}
        changed["downstream"]["hypotension_8h"] = {"clin_jepa · linear": {"history_only": cell}}
    assert len(cautions(build_report(changed), "clin_jepa", "24")) == 1
    text = page(changed)
    assert "Too few patients for conclusions." in text and text.index("too-few") < text.index('id="run"')


def test_notice_counts_tasks_and_names_the_fewest_patients() -> None:
    cell = {"num_positive": 3, "num_total": 9}
    tasks = {
        "a": {"clin_jepa · linear": {"history_only": {"auroc": None, "auprc": None, "reason": "few", **cell}}},
        "b": {"clin_jepa · linear": {"history_only": {"auroc": figure(0.6, 0.1, 45), "auprc": None, "reason": "few", **cell}}},
        "c": {"clin_jepa · linear": {"history_only": {"auroc": figure(0.6, 0.1, 60), "auprc": None, "reason": "few", **cell}}},
    }
    found = cautions(build_report(sufficient() | {"downstream": tasks}), "clin_jepa", "24")
    assert found == ["Risk tasks: 1 of 3 cannot be estimated; the others rest on 45 held-out patients or more"]


@pytest.mark.parametrize(("value", "included"), [(0.05, True), (0.2, False)])
def test_notice_names_an_interval_that_includes_no_change(value: float, included: bool) -> None:
    caution = headline(figure(value, 0.1, 20)).caution()
    assert caution is not None and ("includes no change (0 %)" in caution) == included


def test_a_recipe_of_a_user_is_described_by_its_phases() -> None:
    found = results()
    found["drift"]["mine"] = found["drift"]["clin_jepa"]
    shown = render_html(build_report(found), extras() | {"recipes": {"mine": load_recipe("clin_jepa")}})
    words = recipe_words(load_recipe("clin_jepa"))
    assert "alignment: predictor on the EMA target&#39;s latents, teacher-forced, the target follows" in shown
    assert words.startswith("Starts from the encoder after next-token fine-tuning. warmup: ") and "hard sync: the target is set" in words


def test_every_built_in_recipe_has_words() -> None:
    for name in RECIPES:
        assert recipe_words(load_recipe(name)).endswith(".")


def against_baselines(**values: float) -> dict[str, Any]:
    mean = {name: {"difference": figure(value, 0.05, 80), "p_value": 0.01, "num_tasks": 2} for name, value in values.items()}
    return {"comparisons": {"reference": "clin_jepa · linear", "mean": mean}}


def test_risk_tile_is_the_recipe_minus_the_best_baseline() -> None:
    tile = risk_headline(against_baselines(logistic=0.1, lightgbm=0.2, **{"sft · linear": 0.9}), "clin_jepa").tile()
    assert (tile.value, tile.interval, tile.basis) == ("-0.200", "95 %: -0.250 to -0.150", "80 patients, 1 seed")
    assert "minus LightGBM" in tile.detail and "2 tasks" in tile.detail


def test_risk_tile_needs_an_interval_on_one_side_of_zero() -> None:
    assert risk_headline(against_baselines(lightgbm=0.02), "clin_jepa").tile().value == "no clear difference"


@pytest.mark.parametrize("found", [{}, against_baselines(), against_baselines(**{"sft · linear": 0.1})])
def test_risk_tile_without_a_baseline_is_a_dash(found: dict[str, Any]) -> None:
    assert risk_headline(found, "clin_jepa").tile().value == "–"


def test_size_is_that_of_the_configuration() -> None:
    own = "encoder: {model: null, num_layers: 2, hidden_size: 112}\npredictor: {num_layers: 4, hidden_size: 128}"
    models = "encoder of 2 layers × 112 wide, predictor of 4 layers × 128 wide"
    training = "30 to 60 optimizer steps, seeds per recipe: 2, 350 training stays"
    assert size_words(own, [(60, 2), (30, 2)], 350) == f"Trained: {models}, {training}."
    assert size_words("encoder: {model: some/model}", [], None) == "Trained: encoder some/model."
    assert size_words("", [(60, 2)], 350) == ""


def test_page_names_the_size_and_a_verdict_of_few_patients_is_one_of_a_small_run() -> None:
    drift = results()["drift"]["clin_jepa"]["24"]
    few = results() | {"drift": {"clin_jepa": {"24": drift | {"drift": figure(0.5, 0.1, 40)}}}}
    text = render_html(build_report(few), extras() | {"config_yaml": "encoder: {model: null, num_layers: 2, hidden_size: 112}"})
    assert "encoder of 2 layers" in text
    assert "<b>did not hold in this small run</b>" in text and "<b>did not hold</b>" not in text
