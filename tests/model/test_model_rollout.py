"""A cached rollout is what recomputing the whole window at every hour gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clinjepa.model.predictor import Cache, Predictor, build_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec

DIM, CONTEXT, STEPS = 12, 4, 5


def predictor(mode: str = "absolute") -> Predictor:
    spec = PredictorSpec(latent_dim=DIM, hidden_size=32, num_layers=3, num_heads=4, ffn_size=48, max_hours=10, mode=mode)
    return build_predictor(spec, 0).eval()


def latents(num_actions: int = CONTEXT + STEPS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(*shape, DIM, generator=generator) for shape in ((3,), (3, CONTEXT), (3, CONTEXT + STEPS)))[:2] + (
        torch.randn(3, CONTEXT + STEPS, DIM, generator=generator)[:, :num_actions],
    )


def recomputed(model: Predictor, z_static: Tensor, z_state: Tensor, z_action: Tensor) -> tuple[Tensor, Tensor]:
    for hour in range(CONTEXT, CONTEXT + STEPS):
        pred, _ = model(z_static, z_state, z_action[:, :hour])
        z_state = torch.cat([z_state, pred[:, -1:]], dim=1)
    _, hidden = model(z_static, z_state, z_action[:, : CONTEXT + STEPS])
    return z_state[:, CONTEXT:], hidden[:, CONTEXT:]


@pytest.mark.parametrize("mode", ["absolute", "residual"])
def test_cached_predictions_equal_recomputation(mode: str) -> None:
    model, inputs = predictor(mode), latents()
    torch.testing.assert_close(rollout(model, *inputs, CONTEXT, STEPS)[0], recomputed(model, *inputs)[0], rtol=1e-5, atol=1e-5)


def test_cached_hidden_states_equal_recomputation() -> None:
    model, inputs = predictor(), latents()
    torch.testing.assert_close(rollout(model, *inputs, CONTEXT, STEPS)[1], recomputed(model, *inputs)[1], rtol=1e-5, atol=1e-5)


def test_gradient_through_a_cached_rollout_equals_recomputation() -> None:
    model, (z_static, z_state, z_action) = predictor(), latents()
    gradients = []
    for roll in (lambda s: rollout(model, z_static, s, z_action, CONTEXT, STEPS)[0], lambda s: recomputed(model, z_static, s, z_action)[0]):
        leaf = z_state.clone().requires_grad_(True)
        gradients.append(torch.autograd.grad(roll(leaf)[:, -1].abs().sum(), leaf)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_the_last_hours_action_changes_no_prediction() -> None:
    model = predictor()
    with_it, without = rollout(model, *latents(), CONTEXT, STEPS), rollout(model, *latents(CONTEXT + STEPS - 1), CONTEXT, STEPS)
    assert torch.equal(with_it[0], without[0])
    assert torch.equal(with_it[1][:, :-1], without[1][:, :-1])


def test_missing_actions_are_refused() -> None:
    with pytest.raises(ValueError, match="needs the actions of 8 hours, 7 are given"):
        rollout(predictor(), *latents(CONTEXT + STEPS - 2), CONTEXT, STEPS)


def test_a_context_longer_than_what_was_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="from 5 of 4 given hours"):
        rollout(predictor(), *latents(), CONTEXT + 1, 2)


def two_hours(model: Predictor, cache: Cache, z_action: Tensor, first: Tensor) -> Tensor:
    """Two more hours after the context from a cache."""
    states = [first]
    for hour in (CONTEXT, CONTEXT + 1):
        pred, _, cache = model(None, states[-1], z_action[:, hour : hour + 1], cache=cache, keep_cache=True)
        states.append(pred)
    return torch.cat(states[1:], dim=1)


@torch.no_grad()
def test_hours_written_in_place_equal_joined_ones_also_with_repeated_rows_and_hidden_hours() -> None:
    model, (z_static, z_state, z_action) = predictor(), latents()
    pred, _, cache = model(z_static, z_state, z_action[:, :CONTEXT], keep_cache=True)
    for shown in (cache, cache.up_to(torch.tensor([1, 2, CONTEXT - 1]))):
        joined = two_hours(model, shown, z_action, pred[:, -1:])
        other = two_hours(model, shown, z_action.flip(0), pred[:, -1:])
        together = two_hours(model, shown.with_room(2, times=2), torch.cat([z_action, z_action.flip(0)]), pred[:, -1:].repeat(2, 1, 1))
        torch.testing.assert_close(together, torch.cat([joined, other]), rtol=1e-5, atol=1e-6)
        assert not torch.allclose(joined, other)
        assert torch.equal(two_hours(model, shown, z_action, pred[:, -1:]), joined), "a copy with room leaves its cache as it was"


@torch.no_grad()
def test_hours_hidden_after_room_was_made_stay_hidden() -> None:
    model, (z_static, z_state, z_action) = predictor(), latents()
    pred, _, cache = model(z_static, z_state, z_action[:, :CONTEXT], keep_cache=True)
    last = torch.tensor([1, 2, 2])
    early, late = cache.up_to(last).with_room(2), cache.with_room(2).up_to(last)
    torch.testing.assert_close(two_hours(model, early, z_action, pred[:, -1:]), two_hours(model, late, z_action, pred[:, -1:]))


@torch.no_grad()
def test_more_hours_than_there_is_room_for_are_an_error() -> None:
    model, (z_static, z_state, z_action) = predictor(), latents()
    pred, _, cache = model(z_static, z_state, z_action[:, :CONTEXT], keep_cache=True)
    with pytest.raises(RuntimeError):
        two_hours(model, cache.with_room(1), z_action, pred[:, -1:])
