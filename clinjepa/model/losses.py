"""The training losses: L1 summed over the latent, teacher-forced over all hours, and over a short rollout.

All functions return a sum and its count. The caller divides by the counts of the *global* batch, so that any number of workers gives the
same loss. Source: Clin-JEPA (arXiv 2605.10840, section 5); one rollout start per window is this project's default, one per batch
(`shared`) is the paper's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from clinjepa.model.predictor import Cache, Predictor


class Distance(NamedTuple):
    """How a prediction is compared with its target, over the last dimension."""

    kind: str = "l1"
    """`l1`: summed over D (Clin-JEPA, section 5). `mse`: mean of the squares over D."""

    normalise: str = "none"
    """`layernorm`: both go through a LayerNorm without weights first, which removes their scale (V-JEPA 2-AC, arXiv 2506.09985)."""

    target_gradient: bool = False
    """Let gradients flow into the target too."""

    def __call__(self, pred: Tensor, target: Tensor) -> Tensor:
        """The distance at every position."""
        target = (target if self.target_gradient else target.detach()).to(pred.dtype)
        if self.normalise == "layernorm":
            pred, target = (F.layer_norm(each, each.shape[-1:]) for each in (pred, target))
        return (pred - target).square().mean(-1) if self.kind == "mse" else (pred - target).abs().sum(-1)


L1 = Distance()


def teacher_forcing_loss(pred_BTD: Tensor, target_BTD: Tensor, valid_BT: Tensor, distance: Distance = L1) -> tuple[Tensor, Tensor]:
    """Sum of the distances of ẑ_{t+1} from z_{t+1} over every valid hour t + 1 >= 1.

    Args:
        pred_BTD: the predictor's output, pred[:, t] = ẑ_{t+1}.
        target_BTD: latents of hours 0 to T - 1; no gradient flows into them unless `distance` says so.
        valid_BT: bool, True for hours 0 to length - 1 of each window.
        distance: how an hour is compared with its target.

    Returns:
        (scalar in latent units, number of hours predicted).
    """
    error_BT = distance(pred_BTD[:, :-1], target_BTD[:, 1:])
    counted = valid_BT[:, 1:]
    return error_BT.masked_fill(~counted, 0).sum(), counted.sum()


class TeacherForced(NamedTuple):
    """What the predictor returns for a teacher-forced window with `keep_cache=True`, without the hidden states."""

    pred_BTD: Tensor
    cache: Cache


class RolloutForm(NamedTuple):
    """How a rollout is trained.

    Attributes:
        num_steps: steps of the rollout.
        kind: `native` feeds the model its last prediction, with gradient through the chain. `teacher_forced` feeds it the recorded
            latent; by the block-causal mask, that gives the window's predictions at start + 1 and later.
        distance: how an hour is compared with its target.
    """

    num_steps: int
    kind: str
    distance: Distance = L1


def rollout_loss(
    predictor: Predictor, window: TeacherForced, z_action_BTD: Tensor, target_BTD: Tensor, start_B: Tensor, form: RolloutForm
) -> tuple[Tensor, Tensor]:
    """Sum of the distances of rollout steps 1 to `form.num_steps`, which predict hours start + 1 to start + num_steps.

    Step 1 is the window's prediction at `start`; each further step costs one more hour.

    Args:
        predictor: the predictor.
        window: its output for the teacher-forced window.
        z_action_BTD: actions of the window.
        target_BTD: as in `teacher_forcing_loss`.
        start_B: last recorded hour of each window's rollout; -1 for a window that is too short, which is not counted.
        form: number of steps, their inputs, distance.

    Returns:
        (scalar in latent units, number of windows counted). Losses of the steps are summed; the mean is over windows.

    Raises:
        ValueError: another `form.kind`.
    """
    num_steps, kind, distance = form
    pred_BTD, cache = window
    counted = start_B >= 0
    last = pred_BTD.shape[1] - 1
    begin_B = start_B.clamp(min=0)
    state_B1D = _at(pred_BTD, begin_B)
    if kind == "native":
        cache = cache.up_to(begin_B)
    elif kind != "teacher_forced":
        raise ValueError(f"a rollout is native or teacher_forced, not {kind!r}")
    total = pred_BTD.new_zeros(())
    for step in range(1, num_steps + 1):
        hour_B = (begin_B + step).clamp(max=last)
        if step > 1 and kind == "native":
            state_B1D, _, cache = predictor(None, state_B1D, _at(z_action_BTD, (hour_B - 1).clamp(min=0)), cache=cache, keep_cache=True)
        elif step > 1:
            state_B1D = _at(pred_BTD, (hour_B - 1).clamp(min=0))
        error_B = distance(state_B1D, _at(target_BTD, hour_B))[:, 0]
        total = total + error_B.masked_fill(~counted, 0).sum()
    return total, counted.sum()


def rollout_starts(lengths_B: Tensor, num_steps: int, shared: bool = False) -> Tensor:
    """Draw the last recorded hour k of each window's rollout, uniform in [1, length - 1 - num_steps], from torch's global CPU generator.

    For two steps that is [1, length - 3] (Clin-JEPA, section 5).

    Args:
        lengths_B: hours of each window; windows shorter than num_steps + 2 hours get -1.
        num_steps: steps of the rollout.
        shared: draw one k for all windows that are long enough, in [1, shortest - 1 - num_steps].
    """
    choices_B = (lengths_B - 1 - num_steps).cpu()
    long_enough = choices_B >= 1
    if shared:
        shortest = choices_B[long_enough].min() if bool(long_enough.any()) else choices_B.new_ones(())
        drawn_B = (torch.rand(()) * shortest).long().expand_as(choices_B)
    else:
        drawn_B = (torch.rand(len(choices_B)) * choices_B).long()
    return torch.where(long_enough, drawn_B + 1, -1).to(lengths_B.device)


def _at(sequence_BTD: Tensor, hour_B: Tensor) -> Tensor:
    """[B, 1, D]: each row's latent at its hour."""
    return sequence_BTD[torch.arange(len(hour_B), device=hour_B.device), hour_B][:, None]
