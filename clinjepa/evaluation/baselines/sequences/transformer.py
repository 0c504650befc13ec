"""A causal Transformer on the hours of a stay. Settings: HiRID-ICU-Benchmark (one head and layer) and YAIB (up to 8 heads, 3 layers)."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from clinjepa.evaluation.baselines.protocol import Baseline, Settings
from clinjepa.evaluation.baselines.sequence_training import DEFAULTS, SPACE, Hours, Sizes, train_sequences


class Transformer(nn.Module):
    """A linear layer, sinusoidal positions, and pre-norm layers in which an hour attends to itself and to earlier ones."""

    def __init__(self, sizes: Sizes, settings: Settings) -> None:
        super().__init__()
        width, dropout = int(settings["hidden_size"]), float(settings["dropout"])
        self.embed = nn.Linear(sizes.num_inputs, width)
        layer = nn.TransformerEncoderLayer(
            width, int(settings["num_heads"]), 2 * width, dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, int(settings["num_layers"]), nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, hours: Hours) -> Tensor:
        x_BTH = self.embed(hours.joined())
        mask_TT = nn.Transformer.generate_square_subsequent_mask(x_BTH.shape[1])
        out: Tensor = self.layers(x_BTH + _positions(x_BTH.shape[1], x_BTH.shape[2]), mask=mask_TT, is_causal=True)
        return out


def _positions(num_hours: int, width: int) -> Tensor:
    """Sines and cosines of the hour [T, H] (Vaswani et al. 2017)."""
    rate_F = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    angle_TF = torch.arange(num_hours).unsqueeze(1) * rate_F
    return torch.stack([angle_TF.sin(), angle_TF.cos()], dim=2).flatten(1)


BASELINE = Baseline(
    partial(train_sequences, Transformer),
    docs="Causal Transformer on the hours of a stay, all tasks at once.",
    defaults={**DEFAULTS, "num_heads": 4, "num_layers": 2},
    space=SPACE,
    reads=frozenset({"sequences"}),
    together=True,
)
