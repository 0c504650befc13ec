"""Next-token cross-entropy from hidden states, for a bounded number of logits at a time.

The loss is that of the model's class in transformers. Most classes apply the output layer alone; some scale or cap the logits or transform
the states first (Gemma 2, Granite, Cohere, BERT). For these the class computes the logits itself, from states that are computed once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clinjepa.model.encoding.layers import inner_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.utils.generic import ModelOutput

_LOGITS_AT_ONCE = 1 << 26
"""Largest number of logits in memory at a time in next-token training (256 MiB in fp32)."""


class ClassLogits(nn.Module):
    """The logits of hidden states as the model's class computes them: its `forward` runs with its layers replaced by given states."""

    def __init__(self, causal: PreTrainedModel, output_type: type[ModelOutput]) -> None:
        super().__init__()
        # Not submodules: they stay with the encoder.
        self._causal, self._output_type = (causal,), output_type

    def forward(self, hidden_ND: Tensor) -> Tensor:
        """Logits [N, V] of states [N, D] after the final norm."""
        (causal,) = self._causal
        inner: Any = inner_of(causal)
        own = inner.__dict__.get("forward")
        inner.forward = lambda *_, **__: self._output_type(last_hidden_state=hidden_ND[None])
        try:
            ids_1N = torch.zeros(1, len(hidden_ND), dtype=torch.int64, device=hidden_ND.device)
            logits: Tensor = cast(Any, causal)(input_ids=ids_1N, use_cache=False).logits[0]
        finally:
            del inner.forward
            if own is not None:
                inner.forward = own
        return logits


def next_token_loss(head: nn.Module, num_tokens: int, hidden_LD: Tensor, labels_L: Tensor) -> Tensor:
    """Cross-entropy in nats, summed over labelled places.

    Args:
        head: the output layer, or `ClassLogits`.
        num_tokens: number of logits of a place.
        hidden_LD: states after the final norm.
        labels_L: the token to predict at each place; -100 for none.
    """
    labelled = labels_L != -100
    hidden, labels = hidden_LD[labelled], labels_L[labelled]

    def loss_of(hidden: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(head(hidden).float(), labels, reduction="sum")

    places = max(1, _LOGITS_AT_ONCE // num_tokens)
    if len(labels) <= places:
        return loss_of(hidden, labels)
    parts = [checkpoint(loss_of, h, y, use_reentrant=False) for h, y in zip(hidden.split(places), labels.split(places), strict=True)]
    return torch.stack(parts).sum()
