"""Autoregressive rollout: the predictor reads recorded hours, then its own predictions, hour by hour.

Each hour's keys and values are kept, so an hour costs two tokens instead of the whole window; because of the block-causal
mask this equals recomputation (a test holds it to 1e-5).
"""

from __future__ import annotations

import torch
from torch import Tensor

from clinjepa.model.predictor import Predictor


def rollout(
    predictor: Predictor, z_static_BD: Tensor, z_state_BTD: Tensor, z_action_BUD: Tensor, context_hours: int, num_steps: int
) -> tuple[Tensor, Tensor]:
    """Predict `num_steps` hours after `context_hours` recorded ones; differentiable, in the predictor's current mode.

    z_state_BTD: recorded states, of which hours 0..C-1 are read; z_action_BUD: actions of hours 0..U-1, U >= C + num_steps - 1.
    Returns (pred_BHD, hidden_BHH): ẑ of hours C..C+H-1, and the last layer at these hours' state positions. The last of them
    sees its hour's action only when it is given (U >= C + H); else it sees its own state and the past.
    Raises ValueError when hours are missing or positions do not reach.
    """
    last = context_hours + num_steps
    if not 1 <= context_hours <= z_state_BTD.shape[1] or num_steps < 1:
        raise ValueError(f"cannot roll out {num_steps} hours from {context_hours} of {z_state_BTD.shape[1]} given hours")
    if z_action_BUD.shape[1] < last - 1:
        raise ValueError(f"a rollout to hour {last - 1} needs the actions of {last - 1} hours, {z_action_BUD.shape[1]} are given")
    predictor.check_reach(last)
    context = slice(0, context_hours)
    pred, _, cache = predictor(z_static_BD, z_state_BTD[:, context], z_action_BUD[:, context], keep_cache=True)
    state_B1D = pred[:, -1:]
    preds, hiddens = [state_B1D], []
    for hour in range(context_hours, last):
        action = z_action_BUD[:, hour : hour + 1] if hour < z_action_BUD.shape[1] else None
        pred, hidden, cache = predictor(None, state_B1D, action, cache=cache, keep_cache=True)
        hiddens.append(hidden)
        state_B1D = pred
        preds.append(pred)
    return torch.cat(preds[:num_steps], dim=1), torch.cat(hiddens, dim=1)
