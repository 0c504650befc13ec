"""The last transformer layer, computed only where its result is read.

A latent is the state of one place of its text. Below the last layer every place is needed, because later places look at it; of the
last layer only keys and values are. Its queries, its output product and its feed-forward part, most of its work, are done for the
places that are read. With L layers and texts of many tokens about (1 - 2 d k / layer) / L of all products are saved (d: hidden
size, k: size of all keys): nearly a half of a two-layer encoder, 2.6 % of Qwen3-8B.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Layers that are h + attention(norm(h)), then h + mlp(norm(h)), with rotary positions. Others are computed everywhere."""


@dataclass(frozen=True)
class Places:
    """N places of R rows of S tokens, laid out as R rows of Q reading slots."""

    index_N: Tensor
    """Place in the flattened rows."""

    row_N: Tensor
    slot_N: Tensor

    column_RQ: Tensor
    """Column that a slot reads at; 0 for a slot that is left over, so that it has something to attend to."""

    @classmethod
    def of(cls, index_N: Tensor, rows: int, width: int) -> Places:
        row_N = index_N // width
        counts_R = torch.bincount(row_N, minlength=rows)
        order = torch.argsort(row_N, stable=True)
        slot_N = torch.empty_like(row_N)
        slot_N[order] = torch.arange(len(row_N), device=row_N.device) - (counts_R.cumsum(0) - counts_R)[row_N[order]]
        column_RQ = index_N.new_zeros(rows, int(counts_R.max()))
        column_RQ[row_N, slot_N] = index_N % width
        return cls(index_N, row_N, slot_N, column_RQ)


def can_read_at(layer: nn.Module) -> bool:
    """Whether `read_at` knows this layer as it is set up."""
    attention = getattr(layer, "self_attn", None)
    return (
        type(layer).__name__ in KNOWN
        and attention is not None
        and attention.config._attn_implementation == "sdpa"
        and getattr(attention, "sliding_window", None) is None
    )


def read_at(layer: nn.Module) -> None:
    """Let a layer's `forward` take `places`, and return [N, D] for them alone; without, it stays as it was."""
    layer.forward = partial(_forward, layer, layer.forward)  # type: ignore[method-assign]


def _forward(layer: Any, everywhere: Any, hidden_RSD: Tensor, *args: Any, places: Places | None = None, **kwargs: Any) -> Tensor:
    if places is None:
        result: Tensor = everywhere(hidden_RSD, *args, **kwargs)
        return result
    attended_ND = _attention(layer.self_attn, layer.input_layernorm(hidden_RSD), places, kwargs)
    hidden_ND = hidden_RSD.flatten(0, 1)[places.index_N] + attended_ND
    changed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden_ND))
    return hidden_ND + changed


def _attention(attention: Any, normed_RSD: Tensor, places: Places, given: dict[str, Any]) -> Tensor:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb  # type: ignore[attr-defined]
    cos_RSH, sin_RSH = given["position_embeddings"]
    rows, width = normed_RSD.shape[:2]
    q_norm, k_norm = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))
    query_NAH = q_norm(attention.q_proj(normed_RSD.flatten(0, 1)[places.index_N]).unflatten(-1, (-1, attention.head_dim)))
    key_RKSH = k_norm(attention.k_proj(normed_RSD).unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)
    value_RKSH = attention.v_proj(normed_RSD).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    cos_NH, sin_NH = (each.expand(rows, -1, -1).flatten(0, 1)[places.index_N] for each in (cos_RSH, sin_RSH))
    # It turns queries and keys of the same places; here they are of different ones, so each goes with itself.
    query_NAH = rotate(query_NAH, query_NAH, cos_NH, sin_NH)[0]
    key_RKSH = rotate(key_RKSH, key_RKSH, cos_RSH, sin_RSH)[1]
    query_RQAH = query_NAH.new_zeros(*places.column_RQ.shape, *query_NAH.shape[1:])
    query_RQAH = query_RQAH.index_put((places.row_N, places.slot_N), query_NAH)
    attended_RQAH, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
        attention,
        query_RQAH.transpose(1, 2),
        key_RKSH,
        value_RKSH,
        _mask(given.get("attention_mask"), places, width),
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
    )
    projected: Tensor = attention.o_proj(attended_RQAH[places.row_N, places.slot_N].flatten(1))
    return projected


def _mask(mask_R1SS: Tensor | None, places: Places, width: int) -> Tensor:
    """The rows of the attention mask that are read, [R, 1, Q, S]; no mask stands for a causal one."""
    if mask_R1SS is None:
        columns = torch.arange(width, device=places.column_RQ.device)
        return (columns <= places.column_RQ[:, :, None])[:, None]
    rows = torch.arange(len(places.column_RQ), device=places.column_RQ.device)[:, None]
    return mask_R1SS.expand(len(rows), -1, -1, -1)[rows, 0, places.column_RQ][:, None]
