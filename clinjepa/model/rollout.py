"""Autoregressive rollout: the predictor reads recorded hours, then its own predictions, hour by hour.

Keys and values of earlier hours are cached, so an hour costs two tokens instead of the whole window. With the block-causal mask this
equals recomputation (tested to 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinjepa.model.predictor import Predictor


def rollout(
    predictor: Predictor, z_static_BD: Tensor, z_state_BTD: Tensor, z_action_BUD: Tensor, context_hours: int, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Predict `num_steps` hours after `context_hours` recorded ones; differentiable, in the predictor's current mode.

    Args:
        predictor: the predictor.
        z_static_BD: static latents.
        z_state_BTD: recorded states; hours 0 to C - 1 are read.
        z_action_BUD: actions of hours 0 to U - 1, U >= C + H - 1.
        context_hours: C, at least 1.
        num_steps: H, at least 1.

    Returns:
        (pred_BHD, hidden_BHH): predictions of hours C to C + H - 1 in latent units, and the last layer's output at these hours' state
        positions. The last of these attends to its hour's action only if it is given (U >= C + H).

    Raises:
        ValueError: hours are missing, or the window is longer than the learned positions or the windows of the training.
    """
    last = context_hours + num_steps
    if not 1 <= context_hours <= z_state_BTD.shape[1] or num_steps < 1:
        raise ValueError(f"cannot roll out {num_steps} hours from {context_hours} of {z_state_BTD.shape[1]} given hours")
    if z_action_BUD.shape[1] < last - 1:
        raise ValueError(f"a rollout to hour {last - 1} needs the actions of {last - 1} hours, {z_action_BUD.shape[1]} are given")
    predictor.check_reach(last)
    context = slice(0, context_hours)
    pred, _, cache = predictor(z_static_BD, z_state_BTD[:, context], z_action_BUD[:, context], keep_cache=True)
    if not torch.is_grad_enabled():
        cache = cache.with_room(num_steps)
    state_B1D = pred[:, -1:]
    preds, hiddens = [state_B1D], []
    for hour in range(context_hours, last):
        action = z_action_BUD[:, hour : hour + 1] if hour < z_action_BUD.shape[1] else None
        pred, hidden, cache = predictor(None, state_B1D, action, cache=cache, keep_cache=True)
        hiddens.append(hidden)
        state_B1D = pred
        preds.append(pred)
    return torch.cat(preds[:num_steps], dim=1), torch.cat(hiddens, dim=1)
