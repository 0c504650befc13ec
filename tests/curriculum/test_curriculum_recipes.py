"""Recipes are data: what they say is checked, and every recipe spends the same budget."""

from __future__ import annotations

import pytest

from clinjepa.curriculum.recipes import load_recipe, parse_recipes, phase_steps, recipe_names
from clinjepa.errors import ConfigError

SHARES = {"warmup": 0.24, "joint": 0.35, "alignment": 0.17, "finalization": 0.24}


def steps_of(recipe: str, num_steps: int, **shares: float) -> list[int]:
    return phase_steps(load_recipe(recipe), num_steps, {**SHARES, **shares})


def test_clin_jepa_has_the_five_phases_of_the_method_in_order():
    phases = load_recipe("clin_jepa").phases
    described = [(p.name, p.trains, p.target, p.rollout, p.ema_moves) for p in phases]
    assert described == [
        ("warmup", "predictor", "online", "native", False),
        ("joint", "both", "ema", "teacher_forced", True),
        ("alignment", "predictor", "ema", "teacher_forced", True),
        ("hard_sync", "nothing", "online", "native", False),
        ("finalization", "predictor", "online", "native", False),
    ]


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("num_steps", [8, 97, 11776])
def test_every_recipe_spends_exactly_the_budget(name, num_steps):
    assert sum(steps_of(name, num_steps)) == num_steps


def test_without_alignment_its_budget_goes_to_finalization():
    with_alignment = steps_of("clin_jepa", 1000)
    without = steps_of("no_alignment", 1000)
    assert without == [with_alignment[0], with_alignment[1], with_alignment[2] + with_alignment[4]]


@pytest.mark.parametrize("num_steps", range(20, 120, 7))
def test_recipes_with_equal_first_phases_give_them_equal_steps(num_steps):
    first_two = [steps_of(name, num_steps)[:2] for name in ("clin_jepa", "no_alignment")]
    assert first_two[0] == first_two[1]


def test_each_phase_is_within_a_step_of_its_share():
    for steps, share in zip(steps_of("clin_jepa", 97), [0.24, 0.35, 0.17, 0.0, 0.24], strict=True):
        assert abs(steps - share * 97) <= 1


def test_a_phase_that_would_get_no_step_is_refused():
    with pytest.raises(ConfigError, match="alignment would get 0 of 10"):
        steps_of("clin_jepa", 10, alignment=0.001)


def test_an_unknown_share_is_named():
    with pytest.raises(ConfigError, match="lacks joint"):
        phase_steps(load_recipe("clin_jepa"), 100, {"warmup": 1, "alignment": 1, "finalization": 1})


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match="clin_jepa, no_alignment"):
        load_recipe("clin-jepa")


PHASE = "{name: a, trains: predictor, target: online, rollout: native, ema_moves: false, shares: [warmup]}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace('trains: predictor', 'trains: decoder')}]}}", "trains is 'decoder'"),
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace('target: online', 'target: ema')}]}}", "one space"),
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace('trains: predictor', 'trains: both')}]}}", "collapses"),
        (f"r: {{encoder_start: sft, phases: [{PHASE}, {PHASE.replace('name: a', 'name: b')}]}}", "given to two phases"),
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace(', ema_moves: false', '')}]}}", "needs exactly"),
        (f"r: {{encoder_start: warm, phases: [{PHASE}]}}", "encoder_start is 'warm'"),
        (f"r: {{encoder_start: random, phases: [{PHASE}]}}", "encoder_start is 'random'; allowed: untrained, sft"),
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace('[warmup]', '[]')}]}}", "needs shares"),
        (f"r: {{encoder_start: sft, phases: [{PHASE.replace(', shares: [warmup]', '')}]}}", "needs the fields of a phase and shares"),
        ("r: {encoder_start: sft, phases: []}", "non-empty"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_its_fault(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_recipes(text)
