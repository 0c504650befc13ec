"""An LSTM on the hours of a stay. Settings: YAIB (32 to 256 wide, one to three layers), with a higher rate for small data."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from clinjepa.evaluation.baselines.protocol import Baseline, Settings
from clinjepa.evaluation.baselines.sequence_training import DEFAULTS, SPACE, Hours, Sizes, train_sequences


class Lstm(nn.Module):
    """Values, masks and ages of readings through a linear layer and an LSTM."""

    def __init__(self, sizes: Sizes, settings: Settings) -> None:
        super().__init__()
        width, layers, dropout = int(settings["hidden_size"]), int(settings["num_layers"]), float(settings["dropout"])
        self.embed = nn.Sequential(nn.Linear(sizes.num_inputs, width), nn.ReLU(), nn.Dropout(dropout))
        self.core = nn.LSTM(width, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, hours: Hours) -> Tensor:
        out: Tensor = self.core(self.embed(hours.joined()))[0]
        return out


BASELINE = Baseline(
    partial(train_sequences, Lstm),
    docs="LSTM on the hours of a stay, all tasks at once.",
    defaults=DEFAULTS,
    space=SPACE,
    reads=frozenset({"sequences"}),
    together=True,
)
