"""Fitted linear read-outs of a latent, as they are applied: values of the variables, and whether each is measured.

They are fitted in `decoder` and `measured`. Needs numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinjepa.evaluation.downstream.probe_rows import Standardiser


@dataclass(frozen=True)
class Decoder:
    """Linear read-outs of V variables: weights_DV on standardised latents, bias_V; NaN for a variable that could not be fitted."""

    standardise: Standardiser
    weights_DV: np.ndarray
    bias_V: np.ndarray

    def __call__(self, z_BSD: np.ndarray) -> np.ndarray:
        """Values [..., V] float32 of latents [..., D], in the variables' units."""
        return np.asarray((self.standardise(z_BSD) @ self.weights_DV + self.bias_V).astype(np.float32))


@dataclass(frozen=True)
class MeasuredHead:
    """Logistic read-outs of one horizon: weights_DV and bias_V float64 on standardised latents."""

    standardise: Standardiser
    weights_DV: np.ndarray
    bias_V: np.ndarray

    def __call__(self, z_WD: np.ndarray) -> np.ndarray:
        """Log-odds [W, V] that each variable is measured in the hour of the latents [W, D]."""
        return np.asarray(self.standardise(z_WD).astype(np.float64) @ self.weights_DV + self.bias_V)
