"""A recipe's own loss terms, called once on random latents before anything runs: a fault of the function costs seconds, not a sweep."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from clinjepa.curriculum.recipes.phases import Phase, Recipe
from clinjepa.curriculum.steps.loss import PhaseTerm, phase_term
from clinjepa.curriculum.terms.inputs import HeadSizes, HourNumbers, TermInputs
from clinjepa.errors import ConfigError
from clinjepa.model.losses import TeacherForced, rollout_starts
from clinjepa.model.predictor import build_predictor
from clinjepa.model.specs import PredictorSpec

_HOURS = (72, 40, 9)
"""Of the windows that a term is tried on."""

_DIM, _NUM_VALUES, _ROLLOUT_STEPS = 8, 5, 4
_SPEC = PredictorSpec(latent_dim=_DIM, hidden_size=16, num_layers=1, num_heads=2, ffn_size=32, dropout=0.0, attention_dropout=0.0)


def try_own_terms(recipe: Recipe, where: str | None = None) -> None:
    """Call every term that the recipe's own file defines, forward and backward, as each of its phases uses it.

    Args:
        recipe: any recipe; one without a file of terms takes no time.
        where: the recipe in messages; None: its name.

    Raises:
        ConfigError: a term fails, returns another shape, or it or its gradient is NaN or infinite on latents from a normal distribution.
    """
    if recipe.terms_source is None:
        return
    table = recipe.terms
    with torch.random.fork_rng(devices=[]):
        for phase in recipe.phases:
            for each in phase.loss:
                if each.term in table.own:
                    torch.manual_seed(0)
                    place = f"{where or f'recipe {recipe.name}'}, phase {phase.name}"
                    _try(phase_term(each, table.own[each.term], 1.0), phase, place)


def _try(term: PhaseTerm, phase: Phase, where: str) -> None:
    inputs, trained = _inputs(phase)
    if term.make_head is not None:
        head = term.make_head(HeadSizes(_DIM, _SPEC.hidden_size, _SPEC.max_hours, _NUM_VALUES), **term.options)
        inputs, trained = replace(inputs, head=head), [*trained, *head.parameters()]
    sums = term.sums(inputs, where)
    value = sums if term.of_sums is None else term.of_sums(sums, sum(_HOURS), **term.options)
    _check_finite(value, f"{where}: term {term.name} is")
    if value.requires_grad:
        for gradient in torch.autograd.grad(value, trained, allow_unused=True):
            if gradient is not None:
                _check_finite(gradient, f"{where}: the gradient of term {term.name} is")


def _check_finite(values: Tensor, what: str) -> None:
    if not torch.isfinite(values).all():
        raise ConfigError(f"{what} NaN or infinite on random latents; guard its divisions, logarithms and roots, as by clamp(min=…)")


def _inputs(phase: Phase) -> tuple[TermInputs, list[Tensor]]:
    """A micro-batch as the phase makes it, and what gradients flow into."""
    hours_B = torch.tensor(_HOURS)
    valid_BT = torch.arange(max(_HOURS))[None] < hours_B[:, None]
    z_static_BD = torch.randn(len(_HOURS), _DIM)
    z_state_BTD, z_action_BTD, target_BTD = (torch.randn(*valid_BT.shape, _DIM).masked_fill(~valid_BT[..., None], 0) for _ in range(3))
    trained = [z.requires_grad_() for z in (z_static_BD, z_state_BTD, z_action_BTD)] if phase.trains_encoder else []
    if phase.target == "online":
        target_BTD = z_state_BTD if phase.target_gradient else z_state_BTD.detach()
    measured_BTV = (torch.rand(*valid_BT.shape, _NUM_VALUES) < 0.5) & valid_BT[..., None]
    inputs = TermInputs(
        valid_BT=valid_BT,
        z_static_BD=z_static_BD,
        z_state_BTD=z_state_BTD,
        z_action_BTD=z_action_BTD,
        target_BTD=target_BTD,
        start_B=rollout_starts(hours_B, _ROLLOUT_STEPS),
        rollout=phase.rollout,
        rollout_steps=_ROLLOUT_STEPS,
        step_seed=0,
        values=HourNumbers(torch.randn(measured_BTV.shape) * measured_BTV, measured_BTV, torch.full((_NUM_VALUES,), 0.5)),
    )
    if not phase.trains_predictor:
        return inputs, trained
    predictor = build_predictor(_SPEC, seed=0)
    pred_BTD, hidden_BTH, cache = predictor(z_static_BD, z_state_BTD, z_action_BTD, valid_BT, keep_cache=True)
    window = TeacherForced(pred_BTD, cache)
    return replace(inputs, predictor=predictor, window=window, hidden_BTH=hidden_BTH), [*trained, *predictor.parameters()]
