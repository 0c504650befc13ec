"""Every value of every choice that a recipe may make changes the key of a stage."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from clinjepa.config.axes import grid_points
from clinjepa.curriculum.recipes import EncoderStart, Phase, Recipe, load_recipe
from clinjepa.errors import ConfigError
from pipelines.graph.experiment import build_experiment
from pipelines.graph.trial_stages import TrialBuilder
from tests.support.training.finished_training import small_config

CHOICES = {
    field.name: get_args(get_type_hints(Phase)[field.name]) or (False, True)
    for field in fields(Phase)
    if field.name not in ("name", "heads", "loss")
}
PHASE = Phase("joint", trains="both", target="ema", rollout="teacher_forced", ema_moves=True)


def last_key(root: Path, recipe: Recipe, *overrides: str) -> str:
    """Key of the last phase of a recipe."""
    config = small_config(root, *overrides)
    experiment = build_experiment(config, "0" * 16)
    builder = TrialBuilder(config, experiment.data[0], lambda stage: stage, grid_points(config)[0])
    return builder.trial(recipe, 0).phases[-1].key


def test_the_choices_are_those_of_the_recipes() -> None:
    assert set(CHOICES) == {"trains", "target", "rollout", "ema_moves", "target_gradient", "schedule"}


@pytest.mark.parametrize("overrides", [(), ("encoder.init=pretrained", "encoder.model=public/model")], ids=["made_here", "public"])
def test_every_start_of_the_encoder_changes_a_key(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = load_recipe("clin_jepa")
    starts = [start for start in get_args(EncoderStart) if start != "run" and (overrides or start != "random")]  # run: a finished one
    keys = [last_key(tmp_path, replace(recipe, encoder_start=start), *overrides) for start in starts]
    assert len(set(keys)) == len(starts) >= 2


def test_random_weights_of_an_encoder_that_is_made_here_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe random: with encoder.init=config .* use the recipe untrained"):
        last_key(tmp_path, load_recipe("random"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_a_phase_changes_a_key(tmp_path: Path, choice: str) -> None:
    keys = []
    for value in CHOICES[choice]:
        second = replace(PHASE, name="second", **{choice: value})
        first, shares = ("joint", "alignment", "warmup", "finalization"), ()
        if second.trains != "nothing":
            first, shares = first[:1], first[1:]
        parts = tuple(dict.fromkeys(names, 1.0) for names in (first, shares))
        keys.append(last_key(tmp_path, Recipe("two", "sft", (PHASE, second), parts)))
    assert len(set(keys)) == len(CHOICES[choice]) >= 2
