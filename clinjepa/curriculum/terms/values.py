"""The term that reads the hour's measured values back from the latent of its state text.

The latent of a text is that of its last token. The other losses do not make it hold the values that the text names. This term trains a
linear head to read them from the latent, so that the encoder keeps them. Normalisation and clipping: `clinjepa/trajectory/hour_values.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinjepa.curriculum.terms.inputs import HeadSizes, TermInputs

RAREST = 0.01
"""With `balance: variables`, a variable measured in a smaller share of the hours weighs as one measured in this share. With `values`, the
divisor, which is the mean number of measured variables in an hour, is at least this."""


def value_decode(inputs: TermInputs, distance: str, balance: str) -> Tensor:
    """Sum over hours of the weighted distances of the head's output from the measured values.

    The weights of the variables measured in an hour add up to 1 on average.

    Args:
        inputs: The micro-batch; its latents z_state_BTD enter the head, which returns decoded_BTV.
        distance: `huber` (threshold 1 standard deviation) or `mse`. The table of terms allows no other; any but `huber` means `mse`.
        balance: `values` or `variables`: what the mean is over (`_weights`).

    Returns:
        A scalar; the caller divides it by the hours of the global batch.
    """
    values = inputs.hour_values
    decoded_BTV = inputs.require_head()(inputs.z_state_BTD)
    if distance == "huber":
        error_BTV = F.huber_loss(decoded_BTV, values.values_BTV, reduction="none")
    else:
        error_BTV = (decoded_BTV - values.values_BTV).square()
    error_BTV = error_BTV * _weights(values.rate_V, balance)
    return error_BTV.masked_fill(~values.measured_BTV, 0).sum()


def value_head(sizes: HeadSizes, distance: str, balance: str) -> nn.Module:
    """A linear map from a state's latent to the normalised values of its hour, [B, T, D] → [B, T, V]; the options change nothing in it.

    Args:
        sizes: Width D of a latent and number V of the variables.
        distance: `huber` or `mse`.
        balance: `values` or `variables`.

    Returns:
        The layer, with weights that are drawn.
    """
    return nn.Linear(sizes.latent_dim, sizes.num_values)


def _weights(rate_V: Tensor, balance: str) -> Tensor:
    """By variable: `values` makes the term the mean over measured values, `variables` the mean over variables of their means."""
    if balance == "values":
        return torch.ones_like(rate_V) / rate_V.sum().clamp(min=RAREST)
    return 1 / (rate_V.clamp(min=RAREST) * (rate_V > 0).sum().clamp(min=1))
