"""Where a class of transformers keeps its layers and its final norm."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from torch import nn

from clinjepa.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FINAL_NORMS = (
    "norm",
    "final_layernorm",
    "final_layer_norm",
    "final_norm",
    "ln_f",
    "norm_f",
    "ln_out",
    "layer_norm",
    "embedding_norm",
    "layernorm",
)
"""Names of the norm after the last layer. An encoder with `latent_from: pre_norm` is tried when it is built (`encoding/trial.py`)."""

_KEPT = ("index_topk", "keep_window_size")
"""Settings of transformers' classes that say how many keys of a row a place attends to."""
_COMPRESSED = ("compress_rates", "indexer_compress_ratio", "index_kpool", "index_block_size")
"""Settings of classes that compress keys in blocks of a row."""

_POSITIONS = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings|positions_embed|position_embedding)$")


def inner_of(causal: PreTrainedModel) -> nn.Module:
    """The model without its output layer: token ids -> hidden states."""
    inner: nn.Module = causal.base_model
    # A few classes name another attribute than they have (Llama 4); then `base_model` is the whole model.
    if inner is causal:
        inner = getattr(causal, "model", inner)
    return inner


def inner_name(causal: PreTrainedModel) -> str:
    """The name of `inner_of` inside the causal language model, with its dot."""
    inner = inner_of(causal)
    return next((f"{name}." for name, module in causal.named_modules() if module is inner and name), "")


def longest_text(causal: PreTrainedModel) -> int | None:
    """Tokens of the longest text that the class can encode beside others; None for no limit.

    Learned positions end at some place. Rotary frequencies of type `dynamic` and `longrope` change, for all texts of a pass, once one of
    them is longer than those that the model was first trained with.
    """
    config = causal.config.get_text_config()
    trained: int | None = getattr(config, "max_position_embeddings", None)
    if any(isinstance(module, nn.Embedding) and _POSITIONS.search(name) for name, module in causal.named_modules()):
        return trained
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    limits: list[int | None] = []
    for each in (rotary, *(value for value in rotary.values() if isinstance(value, dict))):
        if each.get("rope_type", each.get("type")) in ("dynamic", "longrope"):
            limits.append(
                each.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None) or trained
            )
    return min((limit for limit in limits if limit), default=None)


def longest_shared_row(causal: PreTrainedModel) -> int | None:
    """Places of the longest row that texts may share; None for no limit.

    Llama 4 scales the queries of some layers by the place in the row, not by the position in the text (arXiv 2501.19399). The scale is 1 in
    the first `floor_scale` - 1 places.
    """
    config = causal.config.get_text_config()
    first: int | None = getattr(config, "floor_scale", None)
    return first - 1 if first is not None and getattr(config, "attn_temperature_tuning", False) else None


def most_keys(causal: PreTrainedModel) -> int | None:
    """Places of the longest row in which every place attends to all keys that it may; None for no limit.

    Sparse attention chooses keys among those of the whole row: the best `index_topk` (DeepSeek-V3.2, GLM-DSA, HY-V4) or `keep_window_size`
    (Doge). Among equal scores the choice follows the length of the row, also where only unused places were added. Classes that compress
    keys in blocks of the row (DeepSeek-V4, MiniMax-M3) have no such row: 0. Rows longer than this hold one text without unused places.
    """
    config = causal.config.get_text_config()
    if any(getattr(config, name, None) for name in _COMPRESSED):
        return 0
    kept = [getattr(config, name, None) for name in _KEPT]
    return min((keys for keys in kept if isinstance(keys, int) and keys > 0), default=None)


def list_of_layers(inner: nn.Module) -> nn.ModuleList:
    """The list of transformer layers, of the text part where there are several. Raises ConfigError if the model keeps none."""
    for part in (*_text_parts(inner), inner):
        for module in part.modules():
            if isinstance(module, nn.ModuleList):
                return module
    raise ConfigError(f"{type(inner).__name__} keeps its layers in no list; this model class is not supported")


def final_norm(inner: nn.Module) -> nn.Module:
    """The norm after the last layer. Raises ConfigError if it has no known name."""
    for part in (inner, *_text_parts(inner)):
        for name in _FINAL_NORMS:
            if isinstance(norm := getattr(part, name, None), nn.Module):
                return norm
    raise ConfigError(f"{type(inner).__name__} has no final norm that is known; set encoder.latent_from=post_norm")


def _text_parts(inner: nn.Module) -> list[nn.Module]:
    parts = (getattr(inner, name, None) for name in ("language_model", "text_model", "decoder"))
    return [part for part in parts if isinstance(part, nn.Module)]
