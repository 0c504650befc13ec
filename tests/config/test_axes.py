"""Axes of a grid: which points they make, how these are called, and what is refused in one line before anything runs."""

from __future__ import annotations

from typing import Any

import pytest

from clinjepa.config import Config, load_config
from clinjepa.config.axes import grid_points, in_words, short_names
from clinjepa.errors import ConfigError


def config(axes: dict[str, Any], **grid: Any) -> Config:
    return Config(grid={"axes": axes, "recipes": ["clin_jepa"], **grid})


def test_without_axes_there_is_one_point_without_a_name() -> None:
    (point,) = grid_points(config({}))
    assert (point.values, point.name) == ({}, "")


def test_crossed_axes_give_every_combination_and_zipped_ones_pairs() -> None:
    axes = {"curriculum.encoder_lr": [1e-5, 3e-5], "curriculum.rollout_steps": [1, 2]}
    crossed = [tuple(point.values.values()) for point in grid_points(config(axes))]
    assert crossed == [(1e-5, 1), (1e-5, 2), (3e-5, 1), (3e-5, 2)]
    zipped = grid_points(config(axes, combine="zipped"))
    assert [tuple(point.values.values()) for point in zipped] == [(1e-5, 1), (3e-5, 2)]
    assert zipped[1].name == "encoder_lr=3e-05 · rollout_steps=2"


def test_a_point_is_the_configuration_with_these_values_and_without_axes() -> None:
    (_, second) = grid_points(config({"evaluation.downstream.probe.hidden_size": [64, 128]}))
    assert second.config == config({}).model_copy(
        update={"evaluation": Config(evaluation={"downstream": {"probe": {"hidden_size": 128}}}).evaluation}
    )


def test_the_weight_of_a_term_is_an_axis() -> None:
    points = grid_points(config({"curriculum.term_weights.rollout": [0.5, 1]}))
    assert [point.config.curriculum.term_weights for point in points] == [{"rollout": 0.5}, {"rollout": 1.0}]


def test_a_range_is_even_in_its_scale_and_whole_between_whole_ends() -> None:
    def values(**axis: Any) -> list[Any]:
        return [point.values["curriculum.encoder_lr"] for point in grid_points(config({"curriculum.encoder_lr": axis}))]

    assert values(low=0.1, high=0.3, num=3) == [0.1, 0.2, 0.3]
    assert values(low=1e-5, high=1e-3, num=3, scale="log") == [1e-5, 1e-4, 1e-3]
    whole = grid_points(config({"curriculum.rollout_steps": {"low": 1, "high": 8, "num": 4, "scale": "log"}}))
    assert [point.values["curriculum.rollout_steps"] for point in whole] == [1, 2, 4, 8]


def test_names_are_the_shortest_ends_that_differ_and_stay_when_a_value_is_added() -> None:
    names = short_names(["encoder.num_layers", "predictor.num_layers", "curriculum.encoder_lr"])
    assert list(names.values()) == ["encoder.num_layers", "predictor.num_layers", "encoder_lr"]
    before = [point.name for point in grid_points(config({"curriculum.encoder_lr": [1e-5, 3e-5]}))]
    after = [point.name for point in grid_points(config({"curriculum.encoder_lr": [1e-6, 1e-5, 3e-5]}))]
    assert after[1:] == before
    assert [in_words(value) for value in ("context", True, None, [6, 12], 1e-5)] == ["context", "true", "null", "[6, 12]", "1e-05"]


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no setting": ({"curriculum.encoder_l": [1, 2]}, {}, "curriculum.encoder_l is no setting; did you mean curriculum.encoder_lr"),
    "no section": ({"encoder_lr": [1, 2]}, {}, "encoder_lr is no setting; did you mean curriculum.encoder_lr"),
    "too deep": ({"curriculum.encoder_lr.low": [1, 2]}, {}, "curriculum.encoder_lr.low is no setting"),
    "a section": ({"curriculum": [1, 2]}, {}, "curriculum is a section; name one of its settings: num_steps"),
    "no result": ({"execution.num_workers": [1, 2]}, {}, "execution.num_workers changes no result"),
    "no result inside": ({"source.path": ["a", "b"]}, {}, "source.path changes no result"),
    "of the grid": ({"grid.seeds": [[0], [1]]}, {}, "grid.seeds belongs to the grid itself"),
    "one value": ({"curriculum.encoder_lr": [1e-5]}, {}, "has the value 1e-05 only and changes nothing"),
    "no value": ({"curriculum.encoder_lr": []}, {}, "has no value"),
    "twice": ({"curriculum.encoder_lr": [1e-5, 1e-5]}, {}, "has 1e-05 twice"),
    "rounded to one": ({"curriculum.rollout_steps": {"low": 1, "high": 2, "num": 3}}, {}, "has 2 twice"),
    "seeds twice": ({}, {"seeds": [0, 1, 0]}, "grid.seeds holds 0 twice"),
    "no num": ({"curriculum.encoder_lr": {"low": 0.1, "high": 1.0}}, {}, "range without num"),
    "refused value": ({"curriculum.ema_momentum": [0.9, 2]}, {}, "curriculum.ema_momentum=2: Input should be less than 1"),
    "inconsistent": ({"encoder.num_heads": [2, 5]}, {}, "encoder.hidden_size must be a multiple of num_heads"),
    "lengths": (
        {"curriculum.encoder_lr": [0.1, 0.2], "curriculum.rollout_steps": [1, 2, 3]},
        {"combine": "zipped"},
        "curriculum.encoder_lr has 2, curriculum.rollout_steps has 3 values",
    ),
    "too many": (
        {"curriculum.encoder_lr": [0.1, 0.2], "curriculum.rollout_steps": [1, 2, 3]},
        {"seeds": [0, 1], "max_trials": 11},
        "1 recipes x 2 seeds x 6 points of grid.axes = 12 trials, more than grid.max_trials=11",
    ),
}


@pytest.mark.parametrize(("axes", "grid", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_an_axis_that_cannot_be_used_is_refused_in_one_line(axes: dict[str, Any], grid: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        grid_points(config(axes, **grid))
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_range_that_goes_backwards_is_refused_when_the_configuration_is_read() -> None:
    with pytest.raises(ConfigError, match="low must be below high"):
        load_config("tests/e2e/small.yaml", ["grid.axes={curriculum.encoder_lr: {low: 1, high: 0, num: 3}}"])
