"""The stages of a grid with axes: equal to those of its points set by hand, shared where they may be, and cheap to plan."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from clinjepa.config import Config, load_config
from clinjepa.curriculum.recipes import Budget, load_recipe
from clinjepa.errors import ConfigError
from clinjepa.storage import Folder
from pipelines.graph import stage as stages_of_graph
from pipelines.graph.artifacts import content_key
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.results.plan_record import plan_record

SMALL = load_config("tests/e2e/small.yaml")


def grid(axes: dict[str, Any], recipes: tuple[str, ...] = ("clin_jepa",), seeds: tuple[int, ...] = (0,), **more: Any) -> Config:
    raw = SMALL.model_dump(mode="json")
    raw["grid"] |= {"axes": axes, "recipes": list(recipes), "seeds": list(seeds), "max_trials": 1000}
    for section, values in more.items():
        raw[section] |= values
    return Config.model_validate(raw)


def built(axes: dict[str, Any], recipes: tuple[str, ...] = ("clin_jepa",), seeds: tuple[int, ...] = (0,), **more: Any) -> Experiment:
    return build_experiment(grid(axes, recipes, seeds, **more), "content")


def test_a_point_has_the_keys_of_the_same_settings_made_by_hand() -> None:
    by_axis = built({"curriculum.encoder_lr": [1e-4, 1e-3]}).trials[0]
    by_hand = built({}, curriculum={"encoder_lr": 1e-4}).trials[0]
    assert [stage.key for stage in by_axis.stages] == [stage.key for stage in by_hand.stages]
    assert (by_axis.name, by_hand.name) == ("clin_jepa · encoder_lr=0.0001, seed 0", "clin_jepa, seed 0")


def test_points_share_what_their_values_do_not_change() -> None:
    experiment = built({"curriculum.ema_momentum": [0.3, 0.4]}, ("clin_jepa", "no_alignment"), seeds=(0, 1))
    assert len(experiment.trials) == 8
    count = Counter(stage.kind for stage in experiment.stages)
    # The momentum is in the key of every phase: no phase is shared between its values; the data, bases and SFT are.
    assert (count["ingest"], count["baselines"], count["base"], count["sft"]) == (1, 1, 2, 2)
    joint = next(stage for stage in experiment.trials[0].phases if stage.settings["phase"]["name"] == "joint")
    assert {trial.recipe for trial in experiment.users[joint.key]} == {"clin_jepa", "no_alignment"}
    assert joint.label == "joint · ema_momentum=0.3 · seed 0"


def test_an_axis_over_the_data_makes_data_of_their_own() -> None:
    experiment = built({"windows.stride_hours": [6, 12]})
    assert len(experiment.data) == 2 and experiment.data[0].ingest is experiment.data[1].ingest
    assert [data.trajectories.label for data in experiment.data] == ["trajectories · stride_hours=6", "trajectories · stride_hours=12"]
    assert experiment.trials[1].data is experiment.data[1]


def test_an_axis_that_changes_nothing_in_a_recipe_is_refused_with_both_trials() -> None:
    with pytest.raises(ConfigError) as refusal:
        built({"sft.learning_rate": [1e-4, 1e-3]}, ("clin_jepa", "untrained"))
    assert "untrained · learning_rate=0.0001, seed 0 and untrained · learning_rate=0.001, seed 0" in str(refusal.value)
    assert "sft.learning_rate changes nothing in recipe untrained; take the recipe out" in str(refusal.value)


def test_two_recipes_that_do_the_same_are_refused(tmp_path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(
        "encoder_start: untrained\nphases: [{name: predictor, trains: [predictor], shares: [warmup, joint, alignment, finalization]}]\n"
    )
    with pytest.raises(ConfigError, match="untrained, seed 0 and mine, seed 0 .* same key: recipes untrained and mine do the same"):
        built({}, ("untrained", str(own)))


def test_shares_along_an_axis_that_do_not_add_up_are_refused_and_not_rescaled() -> None:
    with pytest.raises(ConfigError, match="add up to 1.1, not to 1"):
        built({"curriculum.shares.joint": [0.35, 0.45]})


def test_a_grid_of_500_trials_is_planned_with_work_in_proportion_to_its_stages(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    axes = {"curriculum.encoder_lr": {"low": 1e-5, "high": 1e-3, "num": 25, "scale": "log"}, "curriculum.rollout_steps": [1, 2, 3, 4, 5]}
    config = grid(axes, ("clin_jepa", "no_alignment"), (0, 1)).model_copy(update={"storage": str(tmp_path)})
    counted: Counter[str] = Counter()

    def counting_key(value: Any) -> str:
        counted["keys"] += 1
        return content_key(value)

    names, exists = Folder.names, Folder.exists
    monkeypatch.setattr(stages_of_graph, "content_key", counting_key)
    monkeypatch.setattr(Folder, "names", lambda folder, *name: counted.update(["requests"]) or names(folder, *name))
    monkeypatch.setattr(Folder, "exists", lambda folder, *name: counted.update(["requests"]) or exists(folder, *name))
    plan = plan_record(config)
    assert plan.grid is not None and plan.grid.num_trials == 500
    assert plan.grid.num_stages == len({stage.key for stage in plan.stages}) < plan.grid.num_alone
    assert counted["keys"] < 40 * 500, "every stage of a trial is hashed a fixed number of times"
    assert counted["requests"] < 600, "what has not begun costs one listing a kind, not a request a stage"
    assert plan.grid.encoder_tokens is not None and plan.grid.encoder_tokens_alone is not None
    assert 0 < plan.grid.encoder_tokens < plan.grid.encoder_tokens_alone


RECIPES = ("clin_jepa", "no_alignment", "no_warmup", "naive", "vjepa2_ac", "hybrid", "value_decode", "value_aux")


def test_a_budget_of_encoder_tokens_gives_every_recipe_the_tokens_of_clin_jepa() -> None:
    budget = Budget(10_000, SMALL.curriculum.shares, state_share=0.75)

    def passes(recipe: str) -> float:
        """Passes of a window's tokens through the encoder in all steps: trained texts twice, an EMA target's states once, text terms."""
        loaded = load_recipe(recipe)
        found = 0.0
        for phase, steps in zip(loaded.phases, budget.steps(loaded), strict=True):
            texts = any(term.term == "next_token" for term in phase.loss)
            found += steps * (2 * phase.trains_encoder + texts + 0.75 * (phase.target == "ema"))
        return found

    assert {recipe: round(passes(recipe) / passes("clin_jepa"), 3) for recipe in RECIPES} == dict.fromkeys(RECIPES, 1.0)
    assert budget.total(load_recipe("clin_jepa")) == 10_000 and budget.total(load_recipe("naive")) < 6_000
    assert budget.total(load_recipe("sft")) == 10_000, "a frozen encoder uses no tokens to match"


def test_a_budget_of_steps_gives_every_recipe_equal_steps() -> None:
    budget = Budget(10_000, SMALL.curriculum.shares)
    assert {sum(budget.steps(load_recipe(recipe))) for recipe in RECIPES} == {10_000}
