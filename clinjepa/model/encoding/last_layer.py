"""The last transformer layer, computed only at the places whose result is read.

A latent is the hidden state at one place of its text. Layers below the last are needed at every place, because later places attend to
them; of the last layer, only keys and values are. Its queries, output product and feed-forward part, most of its work, are computed
for the places that are read. With L layers and texts of many tokens this saves about (1 - 2 d k / layer) / L of all products (d: hidden
size, k: size of all keys): nearly half of a two-layer encoder, 2.6 % of Qwen3-8B.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

KNOWN = ("LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
"""Classes that compute h + attention(norm(h)), then h + mlp(norm(h)), with rotary positions. Others are computed everywhere."""


@dataclass(frozen=True)
class Places:
    """N places of R rows of S tokens, laid out as R rows of Q reading slots."""

    index_N: Tensor
    """Place in the flattened rows."""

    row_N: Tensor
    slot_N: Tensor

    column_RQ: Tensor
    """Column that a slot reads; 0 for an unused slot, so that it attends to something."""

    @classmethod
    def of(cls, index_N: Tensor, rows: int, width: int) -> Places:
        """The places `index_N` of flattened rows of `width` tokens."""
        row_N = index_N // width
        counts_R = torch.bincount(row_N, minlength=rows)
        order = torch.argsort(row_N, stable=True)
        slot_N = torch.empty_like(row_N)
        slot_N[order] = torch.arange(len(row_N), device=row_N.device) - (counts_R.cumsum(0) - counts_R)[row_N[order]]
        column_RQ = index_N.new_zeros(rows, int(counts_R.max()))
        column_RQ[row_N, slot_N] = index_N % width
        return cls(index_N, row_N, slot_N, column_RQ)


def can_read_at(layer: nn.Module) -> bool:
    """Whether `read_at` supports this layer and its attention."""
    attention = getattr(layer, "self_attn", None)
    return (
        type(layer).__name__ in KNOWN
        and attention is not None
        and attention.config._attn_implementation == "sdpa"
        and getattr(attention, "sliding_window", None) is None
    )


def read_at(layer: nn.Module) -> None:
    """Let a layer's `forward` accept `places` and return [N, D] for these only; without `places` it is unchanged."""
    layer.forward = partial(_forward, layer, layer.forward)


def _forward(layer: Any, everywhere: Any, hidden_RSD: Tensor, *args: Any, places: Places | None = None, **kwargs: Any) -> Tensor:
    if places is None:
        result: Tensor = everywhere(hidden_RSD, *args, **kwargs)
        return result
    mask = kwargs.get("attention_mask")
    attended_ND = _attention(layer.self_attn, layer.input_layernorm(hidden_RSD), places, kwargs["position_embeddings"], mask)
    hidden_ND = hidden_RSD.flatten(0, 1)[places.index_N] + attended_ND
    changed: Tensor = layer.mlp(layer.post_attention_layernorm(hidden_ND))
    return hidden_ND + changed


def _attention(attention: Any, normed_RSD: Tensor, places: Places, rotation_RSH: tuple[Tensor, Tensor], mask_R1SS: Tensor | None) -> Tensor:
    """Output of the attention at the places, [N, D]. rotation_RSH: cosine and sine of the rotary positions."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    rotate = sys.modules[type(attention).__module__].apply_rotary_pos_emb
    cos_RSH, sin_RSH = rotation_RSH
    rows, width = normed_RSD.shape[:2]
    q_norm, k_norm = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))
    query_NAH = q_norm(attention.q_proj(normed_RSD.flatten(0, 1)[places.index_N]).unflatten(-1, (-1, attention.head_dim)))
    key_RKSH = k_norm(attention.k_proj(normed_RSD).unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)
    value_RKSH = attention.v_proj(normed_RSD).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    cos_NH, sin_NH = (each.expand(rows, -1, -1).flatten(0, 1)[places.index_N] for each in (cos_RSH, sin_RSH))
    # The function rotates queries and keys of the same places; here they differ, so each is rotated with itself.
    query_NAH = rotate(query_NAH, query_NAH, cos_NH, sin_NH)[0]
    key_RKSH = rotate(key_RKSH, key_RKSH, cos_RSH, sin_RSH)[1]
    query_RQAH = query_NAH.new_zeros(*places.column_RQ.shape, *query_NAH.shape[1:])
    query_RQAH = query_RQAH.index_put((places.row_N, places.slot_N), query_NAH)
    attended_RQAH, _ = ALL_ATTENTION_FUNCTIONS["sdpa"](
        attention,
        query_RQAH.transpose(1, 2),
        key_RKSH,
        value_RKSH,
        _mask(mask_R1SS, places, width),
        dropout=attention.attention_dropout if attention.training else 0.0,
        scaling=attention.scaling,
    )
    projected: Tensor = attention.o_proj(attended_RQAH[places.row_N, places.slot_N].flatten(1))
    return projected


def _mask(mask_R1SS: Tensor | None, places: Places, width: int) -> Tensor:
    """Rows of the attention mask at the places read, [R, 1, Q, S]; None stands for a causal mask."""
    if mask_R1SS is None:
        columns = torch.arange(width, device=places.column_RQ.device)
        return (columns <= places.column_RQ[:, :, None])[:, None]
    rows = torch.arange(len(places.column_RQ), device=places.column_RQ.device)[:, None]
    return mask_R1SS.expand(len(rows), -1, -1, -1)[rows, 0, places.column_RQ][:, None]
