"""A temporal convolutional network on the hours of a stay (Bai et al. 2018, arXiv 1803.01271): dilated causal convolutions, residual."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from clinjepa.evaluation.baselines.protocol import Baseline, Choice, Settings
from clinjepa.evaluation.baselines.sequence_training import DEFAULTS, SPACE, Hours, Sizes, train_sequences


class _Block(nn.Module):
    """Two causal convolutions with the same dilation, and the input added."""

    def __init__(self, width: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.padding = (kernel - 1) * dilation
        self.first = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.second = nn.Conv1d(width, width, kernel, dilation=dilation)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BHT: Tensor) -> Tensor:
        y_BHT = self.dropout(F.relu(self.first(F.pad(x_BHT, (self.padding, 0)))))
        y_BHT = self.dropout(F.relu(self.second(F.pad(y_BHT, (self.padding, 0)))))
        return F.relu(x_BHT + y_BHT)


class Tcn(nn.Module):
    """A linear layer and blocks of dilation 1, 2, 4 …; `kernel_size` 3 and 4 blocks see 61 h."""

    def __init__(self, sizes: Sizes, settings: Settings) -> None:
        super().__init__()
        width, dropout = int(settings["hidden_size"]), float(settings["dropout"])
        self.embed = nn.Linear(sizes.num_inputs, width)
        kernel, blocks = int(settings["kernel_size"]), int(settings["num_blocks"])
        self.blocks = nn.Sequential(*(_Block(width, kernel, 2**place, dropout) for place in range(blocks)))

    def forward(self, hours: Hours) -> Tensor:
        out: Tensor = self.blocks(self.embed(hours.joined()).transpose(1, 2)).transpose(1, 2)
        return out


BASELINE = Baseline(
    partial(train_sequences, Tcn),
    docs="Temporal convolutional network on the hours of a stay, all tasks at once.",
    defaults={**DEFAULTS, "kernel_size": 3, "num_blocks": 4},
    space={**{name: dist for name, dist in SPACE.items() if name != "num_layers"}, "num_blocks": Choice((3, 4, 5))},
    reads=frozenset({"sequences"}),
    together=True,
)
