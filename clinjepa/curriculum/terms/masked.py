"""Masked-JEPA refinement of the encoder: latents of hidden hours from the visible ones, by a predictor that is thrown away.

After the V-JEPA 2-AC style baseline of Clin-JEPA (arXiv 2605.10840): 40 % of a window's hours are masked, state and action together, at
least two stay visible; three cross-attention layers; L1. Which hours are drawn, and that states alone are predicted, are this project's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clinjepa.curriculum.terms.inputs import HeadSizes, TermInputs
from clinjepa.curriculum.terms.table import num_masked
from clinjepa.errors import ConfigError
from clinjepa.model.losses import Distance


def masked_latents(inputs: TermInputs, masked: float, **sizes: int) -> Tensor:
    """Sum of the L1 distances of the state latents of masked hours."""
    hidden_BT = masked_hours(inputs.valid_BT, masked)
    visible_BT = inputs.valid_BT & ~hidden_BT
    pred_BTD = inputs.require_head()(inputs.z_static_BD, inputs.z_state_BTD, inputs.z_action_BTD, visible_BT)
    return Distance("l1", "none")(pred_BTD, inputs.target_BTD).masked_fill(~hidden_BT, 0).sum()


def masked_hours(valid_BT: Tensor, share: float) -> Tensor:
    """bool [B, T]: hours to hide, drawn uniformly in every window from torch's global CPU generator."""
    valid = valid_BT.cpu()
    drawn_BT = torch.rand(valid.shape).masked_fill(~valid, 2.0)
    rank_BT = drawn_BT.argsort(dim=1).argsort(dim=1)
    count_B = torch.from_numpy(num_masked(valid.sum(dim=1).numpy(), share))
    return (rank_BT < count_B[:, None]).to(valid_BT.device)


def masked_predictor(sizes: HeadSizes, masked: float, num_layers: int, hidden_size: int, num_heads: int, ffn_size: int) -> nn.Module:
    """The throw-away predictor. Raises ConfigError when the heads do not divide the width."""
    if hidden_size % num_heads:
        raise ConfigError(f"term masked_latents: hidden_size={hidden_size} is not a multiple of num_heads={num_heads}; change one")
    return MaskedPredictor(sizes, num_layers, hidden_size, num_heads, ffn_size)


class MaskedPredictor(nn.Module):
    """For every hour a query that is its position alone reads the visible hours' latents by cross-attention."""

    def __init__(self, sizes: HeadSizes, num_layers: int, hidden_size: int, num_heads: int, ffn_size: int) -> None:
        super().__init__()
        self.static_in = nn.Linear(sizes.latent_dim, hidden_size)
        self.state_in = nn.Linear(sizes.latent_dim, hidden_size)
        self.action_in = nn.Linear(sizes.latent_dim, hidden_size)
        self.positions = nn.Parameter(torch.randn(sizes.max_hours + 2, hidden_size) * 0.02)
        self.query = nn.Parameter(torch.randn(hidden_size) * 0.02)
        self.layers = nn.ModuleList([_CrossLayer(hidden_size, num_heads, ffn_size) for _ in range(num_layers)])
        self.out = nn.Linear(hidden_size, sizes.latent_dim)

    def forward(self, z_static_BD: Tensor, z_state_BTD: Tensor, z_action_BTD: Tensor, visible_BT: Tensor) -> Tensor:
        """pred_BTD: the state latent of every hour, from the static text and the visible hours; for masked hours it is a prediction."""
        batch, hours, _ = z_state_BTD.shape
        place_TH = self.positions[:hours]
        hidden = ~visible_BT[..., None]
        states = self.state_in(z_state_BTD.masked_fill(hidden, 0)) + place_TH
        actions = self.action_in(z_action_BTD.masked_fill(hidden, 0)) + place_TH
        memory_BNH = torch.cat([self.static_in(z_static_BD)[:, None], states, actions], dim=1)
        seen_BN = torch.cat([visible_BT.new_ones(batch, 1), visible_BT, visible_BT], dim=1)
        x_BTH = (self.query + place_TH).expand(batch, -1, -1)
        for layer in self.layers:
            x_BTH = layer(x_BTH, memory_BNH, seen_BN[:, None, None])
        pred_BTD: Tensor = self.out(x_BTH).clone()  # an FSDP2 unit must not return a view
        return pred_BTD


class _CrossLayer(nn.Module):
    """Pre-norm cross-attention and feed-forward."""

    def __init__(self, hidden_size: int, num_heads: int, ffn_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query_norm, self.memory_norm, self.ffn_norm = (nn.LayerNorm(hidden_size) for _ in range(3))
        self.query_in = nn.Linear(hidden_size, hidden_size)
        self.memory_in = nn.Linear(hidden_size, 2 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.ffn_in = nn.Linear(hidden_size, ffn_size)
        self.ffn_out = nn.Linear(ffn_size, hidden_size)

    def forward(self, x_BTH: Tensor, memory_BNH: Tensor, seen: Tensor) -> Tensor:
        """One layer; seen: bool, broadcastable to [B, heads, T, N]."""
        query = self.query_in(self.query_norm(x_BTH)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for part in self.memory_in(self.memory_norm(memory_BNH)).chunk(2, dim=-1)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        x_BTH = x_BTH + self.attention_out(mixed.transpose(1, 2).flatten(2))
        added: Tensor = self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x_BTH))))
        return x_BTH + added
