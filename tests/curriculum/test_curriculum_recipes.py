"""Recipes are data: what they say is checked with one line each, and every recipe spends the same budget."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clinjepa.curriculum.recipes import LossTerm, Phase, load_recipe, load_recipes, parse_recipe, phase_steps, recipe_names
from clinjepa.curriculum.recipes.phases import DEFAULT_LOSS, ROLLOUT_WEIGHT
from clinjepa.curriculum.settings import CurriculumSettings
from clinjepa.errors import ConfigError
from tests.support.training.curriculum_jobs import CURRICULUM

SHARES = {"warmup": 0.24, "joint": 0.35, "alignment": 0.17, "finalization": 0.24}
PROJECT = {
    *("clin_jepa", "no_warmup", "no_alignment", "vjepa2_ac", "sft", "untrained", "random", "naive"),
    *("layernorm_targets", "sigreg", "chained", "hybrid", "token_aux", "value_decode", "value_aux"),
}


def steps_of(recipe: str, num_steps: int, **shares: float) -> list[int]:
    return phase_steps(load_recipe(recipe), num_steps, {**SHARES, **shares})


def test_the_recipes_of_the_paper_and_the_candidates_are_there():
    assert set(recipe_names()) >= PROJECT


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


def test_a_phase_without_a_loss_of_its_own_has_that_of_the_method_and_the_key_it_always_had():
    joint = load_recipe("clin_jepa").phases[1]
    assert [(term.term, term.weight) for term in joint.loss] == [("teacher_forcing", 1.0), ("rollout", ROLLOUT_WEIGHT)]
    plain = {"name": "joint", "trains": "both", "target": "ema", "rollout": "teacher_forced", "ema_moves": True}
    assert joint.to_json() == plain and Phase.from_json(plain) == joint


def test_a_loss_that_says_what_the_default_says_has_the_same_key():
    said = [{"term": "teacher_forcing", "weight": 1}, {"term": "rollout", "weight": ROLLOUT_WEIGHT}]
    assert recipe_of({"loss": said}).phases[0].to_json() == recipe_of({}).phases[0].to_json()


def test_a_phase_is_read_back_from_its_json_form():
    for name in recipe_names():
        for phase in load_recipe(name).phases:
            assert Phase.from_json(phase.to_json()) == phase


def test_masked_refinement_has_the_baseline_s_sizes_and_a_momentum_that_rises_to_1():
    recipe = load_recipe("vjepa2_ac")
    refinement, predictor = recipe.phases
    options = refinement.loss[0].options
    assert (options["masked"], options["num_layers"], options["hidden_size"], options["ffn_size"]) == (0.4, 3, 512, 2048)
    settings = recipe.curriculum(CurriculumSettings.from_json(CURRICULUM), refinement)
    assert [settings.momentum(done, 4) for done in range(4)] == pytest.approx([0.996, 0.997, 0.998, 0.999])
    assert recipe.curriculum(settings, predictor) == settings and (refinement.schedule, predictor.schedule) == ("own", "own")


@pytest.mark.parametrize("name", recipe_names())
@pytest.mark.parametrize("num_steps", [12, 97, 11776])
def test_every_recipe_spends_exactly_the_budget(name, num_steps):
    assert sum(steps_of(name, num_steps)) == num_steps


def test_without_alignment_its_budget_goes_to_finalization():
    with_alignment = steps_of("clin_jepa", 1000)
    without = steps_of("no_alignment", 1000)
    assert without == [with_alignment[0], with_alignment[1], with_alignment[2] + with_alignment[4]]


def test_the_encoder_of_every_trained_recipe_of_one_kind_gets_the_same_steps():
    joint = steps_of("clin_jepa", 1000)[1]
    candidates = ("layernorm_targets", "sigreg", "chained", "hybrid", "token_aux", "value_aux")
    assert {steps_of(name, 1000)[1] for name in candidates} == {joint} == {steps_of("vjepa2_ac", 1000)[0]}
    decode, _, refined, *_ = steps_of("value_decode", 1000)
    assert decode + refined == joint and decode == refined


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"warmup": 0}, "the part of share warmup is 0; give a number over 0 and up to 1"),
        ({"warmup": 1.5}, "the part of share warmup is 1.5"),
        ({"warmup": True}, "the part of share warmup is True"),
        ({3: 0.5}, "shares is a list of names in curriculum.shares, or parts of them"),
    ],
)
def test_a_part_of_a_share_is_over_0_and_up_to_1(shares, message):
    with pytest.raises(ConfigError, match=message):
        recipe_of({"shares": shares})


def test_phases_may_divide_a_share():
    recipe = recipe_of({"shares": {"warmup": 0.25, "joint": 1}}, PHASE | {"name": "b", "shares": {"warmup": 0.75}})
    assert phase_steps(recipe, 100, {"warmup": 0.4, "joint": 0.6}) == [70, 30]


@pytest.mark.parametrize("num_steps", range(20, 120, 7))
def test_recipes_with_equal_first_phases_give_them_equal_steps(num_steps):
    first_two = [steps_of(name, num_steps)[:2] for name in ("clin_jepa", "no_alignment")]
    assert first_two[0] == first_two[1]


def test_each_phase_is_within_a_step_of_its_share():
    for steps, share in zip(steps_of("clin_jepa", 97), [0.24, 0.35, 0.17, 0.0, 0.24], strict=True):
        assert abs(steps - share * 97) <= 1


def test_a_phase_that_would_get_no_step_is_refused():
    with pytest.raises(ConfigError, match="alignment would get 0 of 10"):
        steps_of("clin_jepa", 10, alignment=0.001, warmup=0.409)


@pytest.mark.parametrize("change", [{"joint": 0.36}, {"joint": 0.2}, {"joint": -0.35, "warmup": 0.94}], ids=["over", "under", "negative"])
def test_shares_that_do_not_add_up_to_1_are_refused_and_not_rescaled(change):
    with pytest.raises(ConfigError, match=r"curriculum.shares add up to .* not to 1, or one is negative"):
        steps_of("clin_jepa", 100, **change)


def test_an_unknown_share_is_named():
    with pytest.raises(ConfigError, match="lacks joint"):
        phase_steps(load_recipe("clin_jepa"), 100, {"warmup": 1, "alignment": 1, "finalization": 1})


def test_a_share_that_no_phase_has_is_named():
    with pytest.raises(ConfigError, match="recipe clin_jepa: no phase has the share extra .* give the name to one of its phases"):
        phase_steps(load_recipe("clin_jepa"), 100, {**SHARES, "extra": 0.1, "warmup": 0.14})


def test_an_unknown_recipe_names_those_there_are():
    with pytest.raises(ConfigError, match="there are chained, clin_jepa, .* a file's name ends in .yaml"):
        load_recipe("clin-jepa")


PHASE = {"name": "a", "trains": ["predictor"], "shares": ["warmup"]}
JOINT = {"name": "a", "trains": ["encoder", "predictor"], "target": "ema", "ema_moves": True, "shares": ["joint"]}
TERM = {"term": "teacher_forcing", "weight": 1.0}


def recipe_of(change: dict, *further: dict, start: str = "sft", first: dict = PHASE):
    return parse_recipe(yaml.safe_dump({"encoder_start": start, "phases": [first | change, *further]}), "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"trains": "decoder"}, "recipe mine, phase a: trains is 'decoder'; allowed: nothing, predictor, encoder, both, or a list"),
        ({"trains": ["predictor", "extra"]}, "trains extra, which is no head of its loss; none of its terms has a head"),
        ({"trains": ["head"]}, "a head is trained with the encoder or the predictor"),
        ({"target": "ema", "rollout": "native"}, "one space"),
        ({"target": "ema"}, "its target does not exist yet; put a phase with trains: both and ema_moves: true before it"),
        ({"trains": "both"}, "collapses; set target: ema, add a term that prevents it"),
        ({"rollout": "chained"}, r"chained needs trains: \[encoder, predictor\] and target: ema"),
        ({"target_gradient": True}, "target_gradient needs a trained encoder"),
        ({"target_gradient": 1}, "target_gradient is 1; expected a value of type bool"),
        ({"shares": []}, "needs shares"),
        ({"shares": "warmup"}, "shares is a list of names"),
        ({"speed": 3}, "unknown speed; it has name, trains, target"),
        ({"loss": [TERM | {"term": "teacher"}]}, "there is no loss term 'teacher'; there are teacher_forcing, rollout,"),
        ({"loss": [TERM, TERM]}, "two terms of the loss are called teacher_forcing"),
        ({"loss": [{"term": "teacher_forcing"}]}, "needs term and weight"),
        ({"loss": [TERM | {"weight": -1}]}, "the weight of teacher_forcing is -1"),
        ({"loss": [TERM | {"weight": float("nan")}]}, "the weight of teacher_forcing is nan"),
        ({"loss": [TERM | {"weight": "curriculum.encoder_lr"}]}, "give a number of at least 0, or curriculum.rollout_weight"),
        ({"loss": [TERM | {"distance": "l3"}]}, "term teacher_forcing: distance is 'l3'; allowed: l1, mse"),
        ({"loss": [TERM | {"hours": 3}]}, "unknown option hours; it has distance"),
        ({"loss": [{"term": "sigreg", "weight": 0.1}]}, "term sigreg trains the encoder, which is frozen here"),
        ({"loss": [{"term": "value_decode", "weight": 1}]}, "term value_decode trains the encoder, which is frozen here"),
        ({"trains": "both", "loss": [{"term": "value_decode", "weight": 1}]}, "has a head that nothing trains; add value_decode to trains"),
        ({"loss": [{"term": "latent_ahead", "weight": 1, "hours": 4}]}, "has a head that nothing trains; add latent_ahead to trains"),
        ({"loss": [{"term": "latent_ahead", "weight": 1, "hours": 0}]}, "hours is 0; it must be greater than 0"),
        ({"loss": [{"term": "latent_ahead", "weight": 1, "hours": 2.5}]}, "hours is 2.5; expected a value like 4"),
        ({"settings": {"global_batch": 8}}, "unknown global_batch; it has predictor_lr"),
        ({"settings": {"ema_momentum": [0.9]}}, "give one number, or"),
        ({"settings": {"ema_momentum": 1.5}}, "ema_momentum is 1.5; expected a number from 0 to 1"),
        ({"settings": {"rollout_steps": 1.5}}, "rollout_steps is 1.5"),
        ({"schedule": "mine"}, "schedule is 'mine'; allowed: 'shared', 'own'"),
    ],
)
def test_a_phase_that_cannot_work_is_refused_in_one_line_with_recipe_and_phase(change, message):
    with pytest.raises(ConfigError, match=message) as raised:
        recipe_of(change)
    assert str(raised.value).startswith("recipe mine, phase a") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "encoder_start: warm\nphases: [{name: a, trains: predictor, shares: [warmup]}]",
            "encoder_start is 'warm'; allowed: untrained, random, sft",
        ),
        ("encoder_start: sft\nphases: []", "phases is a non-empty list"),
        ("encoder_start: sft", "lacks phases"),
        ("- a", "expected a mapping with encoder_start, phases, terms"),
        ("encoder_start: {", "is not valid YAML"),
        ("encoder_start: sft\nphases: [{trains: predictor}]", "phase 0 lacks name"),
        ("encoder_start: sft\nterms: missing.py\nphases: [{name: a, trains: predictor, shares: [warmup]}]", "terms: there is no file"),
        ("encoder_start: sft\nterms: 3\nphases: [{name: a, trains: predictor, shares: [warmup]}]", "terms is 3; give the Python file"),
    ],
)
def test_a_recipe_file_that_cannot_work_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as raised:
        parse_recipe(text, "mine")
    assert str(raised.value).startswith("recipe mine") and "\n" not in str(raised.value)


def test_phases_that_do_not_fit_each_other_are_refused():
    sync = {"name": "sync", "trains": []}
    encoder = JOINT | {"name": "b", "trains": ["encoder", "masked_latents"], "loss": [{"term": "masked_latents", "weight": 1}]}
    for further, message in (
        ([PHASE], "two phases have the same name"),
        ([PHASE | {"name": "b"}], "the phases get 2 of the share warmup, not 1"),
        ([PHASE | {"name": "b", "shares": {"joint": 0.4}}], "the phases get 0.4 of the share joint, not 1"),
        ([sync], "phase sync: its target does not exist yet"),
        ([encoder], "phase b: it would leave the predictor in another encoder's space"),
    ):
        with pytest.raises(ConfigError, match=message):
            recipe_of({}, *further)
    with pytest.raises(ConfigError, match="no phase trains the predictor"):
        recipe_of({}, first=encoder)


def test_a_target_that_is_no_longer_kept_is_no_target():
    alone = JOINT | {"name": "b", "target": "online", "ema_moves": False, "may_collapse": True, "shares": ["warmup"]}
    aligned = PHASE | {"name": "c", "target": "ema", "shares": ["alignment"]}
    recipe_of({}, aligned, first=JOINT)
    with pytest.raises(ConfigError, match="phase c: its target does not exist yet"):
        recipe_of({}, alone, aligned, first=JOINT)


def test_a_collapse_may_be_accepted_or_prevented():
    recipe_of({"trains": "both", "may_collapse": True})
    recipe_of({"trains": "both", "loss": [TERM, {"term": "sigreg", "weight": 0.1}]})


def test_weights_by_name_replace_those_of_the_file():
    phase = recipe_of({}).phases[0]
    assert phase.with_weights({"other": 2.0}) is phase
    assert phase.with_weights({"rollout": 0.3}).loss == (DEFAULT_LOSS[0], LossTerm("rollout", 0.3, "rollout", DEFAULT_LOSS[1].options))


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_that_is_no_number_of_at_least_0_is_refused(weight):
    with pytest.raises(ConfigError, match=f"curriculum.term_weights: the weight of rollout is {weight}; give a number of at least 0"):
        recipe_of({}).phases[0].with_weights({"rollout": weight})


def test_a_users_recipe_is_called_like_its_file_and_may_not_have_a_name_twice(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"encoder_start": "untrained", "phases": [PHASE]}))
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump({"encoder_start": "untrained", "phases": [PHASE]}))
    assert [recipe.name for recipe in load_recipes(["clin_jepa", str(tmp_path / "mine.yaml")])] == ["clin_jepa", "mine"]
    with pytest.raises(ConfigError, match="two recipes called sft"):
        load_recipes(["sft", str(tmp_path / "sft.yaml")])
    with pytest.raises(ConfigError, match=r"recipe .*gone.yaml: there is no file"):
        load_recipe(str(tmp_path / "gone.yaml"))
    (tmp_path / "a b.yaml").write_text("x")
    with pytest.raises(ConfigError, match="use letters, digits"):
        load_recipe(str(tmp_path / "a b.yaml"))
