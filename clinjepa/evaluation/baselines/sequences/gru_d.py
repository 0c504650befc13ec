"""GRU-D (Che et al. 2018, arXiv 1606.01865): a GRU in which missing values decay to the mean and the state decays with time.

The age of a reading is 0 in an hour with a reading. Values are standardised, so the mean is 0.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clinjepa.evaluation.baselines.protocol import Baseline, Settings
from clinjepa.evaluation.baselines.sequence_training import DEFAULTS, SPACE, Hours, Sizes, train_sequences


class GruD(nn.Module):
    """One layer. The decay of an input has one weight and one bias per variable; that of the state is a linear layer of all ages."""

    def __init__(self, sizes: Sizes, settings: Settings) -> None:
        super().__init__()
        self.width = int(settings["hidden_size"])
        self.input_rate_V = nn.Parameter(torch.ones(sizes.num_variables))
        self.input_bias_V = nn.Parameter(torch.zeros(sizes.num_variables))
        self.state_rate = nn.Linear(sizes.num_variables, self.width)
        self.cell = nn.GRUCell(2 * sizes.num_variables + sizes.num_others, self.width)

    def forward(self, hours: Hours) -> Tensor:
        """The states [B, T, hidden_size]."""
        decay_BTV = torch.exp(-F.relu(hours.since_BTV * self.input_rate_V + self.input_bias_V))
        value_BTV = torch.where(hours.seen_BTV > 0, hours.value_BTV, decay_BTV * hours.value_BTV)
        inputs_BTI = torch.cat([value_BTV, hours.seen_BTV, hours.other_BTO], dim=-1)
        keep_BTH = torch.exp(-F.relu(self.state_rate(hours.since_BTV)))
        state_BH = inputs_BTI.new_zeros(inputs_BTI.shape[0], self.width)
        states = []
        for inputs_BI, keep_BH in zip(inputs_BTI.unbind(1), keep_BTH.unbind(1), strict=True):
            state_BH = self.cell(inputs_BI, keep_BH * state_BH)
            states.append(state_BH)
        return torch.stack(states, dim=1)


BASELINE = Baseline(
    partial(train_sequences, GruD),
    docs="GRU-D on the hours of a stay, all tasks at once.",
    defaults=DEFAULTS,
    space={name: dist for name, dist in SPACE.items() if name != "num_layers"},
    reads=frozenset({"sequences"}),
    together=True,
)
