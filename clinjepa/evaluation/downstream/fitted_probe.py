"""A fitted probe: from the features of prediction points to their scores, with nothing of the training points but its numbers.

`linear_probe`, `ridge_probe` and `mlp_probe` fit; this module applies, so it needs numpy and torch only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.probe_rows import LabelScale, Standardiser
from clinjepa.evaluation.finite import finite_scores

Output = Literal["log_odds", "number"]
"""What a probe gives: the log-odds of label 1, or a number in the label's unit."""
LINEAR, MLP = "linear", "mlp"
ROWS_AT_ONCE = 4096
"""Rows of one pass without gradients."""
_STANDARDISER = ("mean", "scale")


@dataclass(frozen=True)
class LinearWeights:
    """A linear function of F standardised features."""

    weights_F: np.ndarray
    """float64."""
    intercept: float

    def __call__(self, z_NF: np.ndarray) -> np.ndarray:
        """Outputs [N] float64 of standardised features."""
        return np.asarray(z_NF @ self.weights_F + self.intercept)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name."""
        return {"weights": torch.from_numpy(self.weights_F), "intercept": torch.tensor([self.intercept], dtype=torch.float64)}


@dataclass(frozen=True)
class MlpWeights:
    """One hidden layer of H units with ReLU on F standardised features; float32."""

    hidden_HF: Tensor
    hidden_bias_H: Tensor
    output_H: Tensor
    output_bias_1: Tensor

    def __call__(self, z_NF: np.ndarray) -> np.ndarray:
        """Outputs [N] float64 of standardised features."""
        weights = (self.hidden_HF, self.hidden_bias_H, self.output_H, self.output_bias_1)
        buffer_BH = torch.empty(ROWS_AT_ONCE, len(self.hidden_bias_H))
        return mlp_outputs(torch.from_numpy(z_NF), weights, buffer_BH).astype(np.float64)

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name."""
        return {"hidden": self.hidden_HF, "hidden_bias": self.hidden_bias_H, "output": self.output_H, "output_bias": self.output_bias_1}


@dataclass(frozen=True)
class FittedProbe:
    """The probe of one task on one input column. Two calls with the same features give the same bits."""

    standardise: Standardiser
    weights: LinearWeights | MlpWeights
    scale: LabelScale | None
    """From standardised labels to the label's unit; None where the labels are 0 or 1."""

    @property
    def kind(self) -> str:
        """`linear` or `mlp`."""
        return LINEAR if isinstance(self.weights, LinearWeights) else MLP

    @property
    def output(self) -> Output:
        """What the scores are."""
        return "log_odds" if self.scale is None else "number"

    @property
    def num_features(self) -> int:
        """F, the number of features of a point."""
        return len(self.standardise.mean_F)

    def __call__(self, x_NF: np.ndarray) -> np.ndarray:
        """Scores [N] float64 of points with features x_NF float32: log-odds, or numbers in the label's unit.

        Raises:
            EvaluationError: The features are not F per point, or a feature or a score is NaN or infinite.
        """
        if x_NF.ndim != 2 or x_NF.shape[1] != self.num_features:
            raise EvaluationError(f"a probe of {self.num_features} features got an array of shape {list(x_NF.shape)}; give [N, F] features")
        finite_scores(x_NF, "a feature of the probe")
        return self.scores(x_NF)

    def scores(self, x_NF: np.ndarray) -> np.ndarray:
        """Like a call, for features [N, F] that were checked already."""
        output_N = self.weights(self.standardise(x_NF))
        if self.scale is None:
            return finite_scores(output_N, f"a score of the {self.kind} probe")
        return finite_scores(self.scale.in_unit(output_N), f"a prediction of the {self.kind} probe")

    def tensors(self) -> dict[str, Tensor]:
        """All numbers by name; `from_tensors` reads them back."""
        scale = {} if self.scale is None else {"label_scale": torch.tensor([self.scale.mean, self.scale.std], dtype=torch.float64)}
        standardiser = (self.standardise.mean_F, self.standardise.scale_F)
        return {
            **dict(zip(_STANDARDISER, map(torch.from_numpy, standardiser), strict=True)),
            **self.weights.tensors(),
            **scale,
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], kind: str, output: Output) -> FittedProbe:
        """A probe from what `tensors` gave.

        Raises:
            ValueError: A tensor is missing, unknown, of another type or shape, or not finite. The message names it.
        """
        num_features, hidden_size = (tensors[name].numel() if name in tensors else 0 for name in ("mean", "hidden_bias"))
        wanted = _wanted(kind, output, num_features, hidden_size)
        if wanted.keys() != tensors.keys():
            raise ValueError(f"its tensors are {', '.join(sorted(tensors))} and not {', '.join(sorted(wanted))}")
        for name, (dtype, shape) in wanted.items():
            if tensors[name].dtype != dtype or tuple(tensors[name].shape) != shape or not bool(torch.isfinite(tensors[name]).all()):
                raise ValueError(f"its {name} is no finite {dtype} of shape {list(shape)}")
        tensors = {name: tensor.clone() for name, tensor in tensors.items()}  # aligned, whatever their places in a file
        mean_F, scale_F = (tensors[name].numpy() for name in _STANDARDISER)
        weights = (
            LinearWeights(tensors["weights"].numpy(), float(tensors["intercept"][0]))
            if kind == LINEAR
            else MlpWeights(*(tensors[name] for name in ("hidden", "hidden_bias", "output", "output_bias")))
        )
        scale = LabelScale(*tensors["label_scale"].tolist()) if output == "number" else None
        return cls(Standardiser(mean_F, scale_F), weights, scale)


def _wanted(kind: str, output: Output, num_features: int, hidden_size: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor of a probe."""
    double, single = torch.float64, torch.float32
    wanted: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {name: (single, (num_features,)) for name in _STANDARDISER}
    if kind == LINEAR:
        wanted |= {"weights": (double, (num_features,)), "intercept": (double, (1,))}
    else:
        wanted |= {"hidden": (single, (hidden_size, num_features)), "output": (single, (hidden_size,))}
        wanted |= {"hidden_bias": (single, (hidden_size,)), "output_bias": (single, (1,))}
    return wanted | ({"label_scale": (double, (2,))} if output == "number" else {})


def mlp_outputs(x_NF: Tensor, weights: Sequence[Tensor], buffer_BH: Tensor) -> np.ndarray:
    """Outputs [N] without dropout, some rows at a time. buffer_BH: memory for the hidden layer, of at least ROWS_AT_ONCE rows."""
    hidden_HF, bias_H, output_H, bias_1 = weights
    parts = []
    for part_BF in x_NF.split(ROWS_AT_ONCE):
        hidden_BH = torch.addmm(bias_H, part_BF, hidden_HF.T, out=buffer_BH[: len(part_BF)]).relu_()
        parts.append(hidden_BH @ output_H + bias_1)
    return np.asarray(torch.cat(parts).numpy())
