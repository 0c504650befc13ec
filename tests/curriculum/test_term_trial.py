"""A recipe's own terms are tried before anything runs: what fails, or is NaN, is refused in one line with recipe, phase and term."""

from __future__ import annotations

import pytest
import torch

from clinjepa.curriculum.recipes import parse_recipe
from clinjepa.curriculum.steps.term_trial import try_own_terms
from clinjepa.errors import ConfigError

RECIPE = """
encoder_start: sft
terms: own.py
phases:
  - {name: warmup, trains: [predictor], target: online, rollout: native, shares: [warmup]}
  - name: joint
    trains: TRAINS
    target: ema
    ema_moves: true
    shares: [joint, alignment, finalization]
    loss:
      - {term: teacher_forcing, weight: 1.0}
      - {term: own, weight: 2.0}
"""
HEAD = """
import torch
from torch import nn
from clinjepa.curriculum.terms import loss_term
"""


def recipe(tmp_path, body: str, mark: str = 'counts="hours", docs="x"', trains: str = "[encoder, predictor]"):
    (tmp_path / "own.py").write_text(f"{HEAD}\n@loss_term({mark})\ndef own(inputs):\n    return {body}\n")
    return parse_recipe(RECIPE.replace("TRAINS", trains), "mine", tmp_path)


ENCODER = 'counts="hours", docs="x", reads=("encoder",)'
WORKING = {
    "latents": ("inputs.z_state_BTD.square().sum()", ENCODER),
    "predictions": (
        "(inputs.predictions[1].pred_BTD - inputs.target_BTD).square().masked_fill(~inputs.valid_BT[..., None], 0).sum()",
        'counts="hours", docs="x"',
    ),
    "values": (
        "torch.where(inputs.hour_values.measured_BTV, inputs.hour_values.values_BTV, 0.0).sum()",
        'counts="hours", docs="x", reads=("encoder", "values")',
    ),
    "statistic": ("inputs.z_state_BTD.sum((0, 1))", f"{ENCODER}, of_sums=lambda sums, count: (sums / count).square().sum()"),
    "norms of padding": ("torch.linalg.vector_norm(inputs.z_state_BTD[:, 1:] - inputs.z_state_BTD[:, :-1], dim=-1).sum()", ENCODER),
}


@pytest.mark.parametrize("kind", WORKING)
def test_terms_that_work_pass_and_leave_the_generator_alone(tmp_path, kind) -> None:
    made, before = recipe(tmp_path, *WORKING[kind]), torch.random.get_rng_state()
    try_own_terms(made)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_term_with_a_head_is_tried_with_it(tmp_path) -> None:
    mark = 'counts="hours", docs="x", reads=("encoder",), head=lambda sizes: nn.Linear(sizes.latent_dim, 1)'
    try_own_terms(recipe(tmp_path, "inputs.require_head()(inputs.z_state_BTD).sum()", mark, "[encoder, predictor, own]"))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("inputs.z_states_BTD.sum()", r"recipe mine, phase joint: term own fails with AttributeError in line 8 of its file"),
        ("inputs.z_state_BTD.view(7, 7)", "fails with RuntimeError in line 8"),
        ("inputs.z_state_BTD", r"returns \(3, 72, 8\); it must return a scalar"),
        ("inputs.z_state_BTD.log().sum()", "term own is NaN or infinite on random latents; guard its divisions"),
        ("inputs.z_state_BTD.sum() / 0.0", "term own is NaN or infinite"),
        ("inputs.z_state_BTD.square().sum(-1).sqrt().sum()", "the gradient of term own is NaN or infinite"),
    ],
)
def test_what_fails_is_refused_with_recipe_phase_and_term(tmp_path, body, said) -> None:
    with pytest.raises(ConfigError, match=said):
        try_own_terms(recipe(tmp_path, body, 'counts="hours", docs="x", reads=("encoder",)'))


def test_a_recipe_without_own_terms_is_not_tried(tmp_path) -> None:
    text = RECIPE.replace("terms: own.py\n", "").replace("      - {term: own, weight: 2.0}\n", "").replace("TRAINS", "both")
    try_own_terms(parse_recipe(text, "plain", tmp_path))
