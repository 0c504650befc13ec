"""Activation checkpointing: which activations a layer keeps for its backward pass, and which it computes again.

| setting | kept of a layer | computed again |
|---|---|---|
| `none` | everything autograd saves | nothing |
| `selective` | results of the base's matrix products and of attention | norms, rotary positions, activations, casts, adapters |
| `full` | the layer's input | the whole layer: one more forward |

Results are equal bit for bit. The layer's `forward` is wrapped, not the layer, so FSDP2's hooks stay outside: a layer is gathered once
for its backward pass, which includes the recomputation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from clinjepa.errors import ConfigError

CHOICES = ("none", "selective", "full")

_ATEN = torch.ops.aten
_PRODUCTS = {_ATEN.mm.default: (0, 1), _ATEN.addmm.default: (1, 2)}
_ATTENTION = {
    getattr(_ATEN, name).default
    for name in (
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
    )
}


def recompute_in_backward(layers: Iterable[nn.Module], what: str, narrow: int, before: Callable[[], None] | None = None) -> None:
    """Set activation checkpointing of layers. Call once, before sharding. Forwards without a graph are unchanged.

    Args:
        layers: the layers.
        what: one of CHOICES (table above).
        narrow: `selective` computes matrix products again if one side has at most this many columns (an adapter's rank): they are cheap.
        before: called before a layer is computed again, to restore the state of its first forward.

    Raises:
        ConfigError: `what` is not one of CHOICES.
    """
    if what not in CHOICES:
        raise ConfigError(f"encoder.activation_checkpointing={what!r} is not one of {', '.join(CHOICES)}")
    if what == "none":
        return
    contexts = partial(create_selective_checkpoint_contexts, partial(_policy, narrow)) if what == "selective" else noop_context_fn
    for layer in layers:
        layer.forward = partial(_forward, layer.forward, before, contexts)


def _forward(forward: Callable[..., Any], before: Callable[[], None] | None, contexts: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)

    def again(*args: Any, **kwargs: Any) -> Any:
        if before is not None:
            before()
        return forward(*args, **kwargs)

    return checkpoint(again, *args, use_reentrant=False, context_fn=contexts, **kwargs)


def _policy(narrow: int, _: Any, operation: Any, *args: Any, **__: Any) -> CheckpointPolicy:
    if operation in _ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    if operation in _PRODUCTS:
        left, right = (args[place] for place in _PRODUCTS[operation])
        if min(left.shape[-1], right.shape[-1]) > narrow:
            return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
