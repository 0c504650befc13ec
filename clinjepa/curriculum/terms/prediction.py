"""Terms that compare the predictor's outputs with target latents (Clin-JEPA, arXiv 2605.10840, section 5).

`latent_ahead` is after the multi-horizon form that EHRJEPA's authors report.
"""

from __future__ import annotations

from torch import Tensor, nn

from clinjepa.curriculum.terms.inputs import HeadSizes, TermInputs
from clinjepa.model.losses import Distance, RolloutForm, rollout_loss, teacher_forcing_loss


def teacher_forcing(inputs: TermInputs, distance: str, normalise: str) -> Tensor:
    """Sum of the distances of ẑ_{t+1} from z_{t+1} over all valid hours t + 1 >= 1."""
    _, window, _ = inputs.predictions
    return teacher_forcing_loss(window.pred_BTD, inputs.target_BTD, inputs.valid_BT, _distance(distance, normalise))[0]


def rollout(inputs: TermInputs, distance: str, normalise: str) -> Tensor:
    """Sum of the distances of the steps of one rollout in each window."""
    predictor, window, _ = inputs.predictions
    kind = "native" if inputs.rollout == "chained" else inputs.rollout
    measure = _distance(distance, normalise)
    form = RolloutForm(inputs.rollout_steps, kind, measure)
    return rollout_loss(predictor, window, inputs.z_action_BTD, inputs.target_BTD, inputs.start_B, form)[0]


def latent_ahead(inputs: TermInputs, hours: int, distance: str, normalise: str) -> Tensor:
    """Sum of the distances of the head's output at hour t from z_{t + hours}."""
    *_, hidden_BTH = inputs.predictions
    if hidden_BTH.shape[1] <= hours:
        # The head takes part in the backward pass of every micro-batch, as sharded modules must.
        return inputs.require_head()(hidden_BTH[:, :1]).sum() * 0.0
    pred_BUD = inputs.require_head()(hidden_BTH[:, :-hours])
    error_BU = _distance(distance, normalise)(pred_BUD, inputs.target_BTD[:, hours:])
    return error_BU.masked_fill(~inputs.valid_BT[:, hours:], 0).sum()


def latent_head(sizes: HeadSizes, hours: int, distance: str, normalise: str) -> nn.Module:
    """A linear map from the predictor's hidden state to a latent."""
    return nn.Linear(sizes.hidden_size, sizes.latent_dim)


def _distance(kind: str, normalise: str) -> Distance:
    """The inputs' targets are detached already where the phase wants no gradient into them."""
    return Distance(kind, normalise, target_gradient=True)
