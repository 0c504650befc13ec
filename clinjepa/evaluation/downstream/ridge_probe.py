"""Ridge regression of one task for several penalties, from one eigendecomposition.

Objective of a penalty p per row, as in scikit-learn with alpha = p · n: Σ (y − x·w − b)² + p · n · |w|² over the n training rows, intercept
b free. The features are a task's standardised ones. Of the n × F matrix the smaller Gram matrix is decomposed: F × F, which is summed over
blocks of rows, or n × n where there are fewer rows than features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from clinjepa.evaluation.downstream.probe_rows import ProbeTask, Standardiser

_ROWS_AT_ONCE = 8192
"""Training rows that are standardised and multiplied at once."""
_DTYPE = torch.float64


def fit_ridge(x_NF: np.ndarray, task: ProbeTask, standardise: Standardiser, penalties: Sequence[float]) -> np.ndarray:
    """Coefficients [S, F + 1] of a task in its standardised features, one row per penalty, the intercept last.

    Args:
        x_NF: Finite features of all points.
        task: Training rows and labels.
        standardise: Standardisation of the task.
        penalties: Positive penalties per training row.
    """
    y_N = torch.from_numpy(task.train_y_N).to(_DTYPE)
    mean_y = y_N.mean()
    added_S = torch.tensor(penalties, dtype=_DTYPE) * len(y_N)
    if len(y_N) < x_NF.shape[1]:
        z_NF = _standardised(x_NF, task.train_N, standardise)
        mean_F = z_NF.mean(0)
        z_NF -= mean_F
        weights_FS = z_NF.T @ _solutions(z_NF @ z_NF.T, y_N - mean_y, added_S)
    else:
        gram_FF, moment_F, mean_F = _moments(x_NF, task.train_N, standardise, y_N - mean_y)
        weights_FS = _solutions(gram_FF, moment_F, added_S)
    return np.asarray(torch.cat([weights_FS.T, (mean_y - mean_F @ weights_FS)[:, None]], dim=1).numpy())


def _solutions(gram_KK: Tensor, right_K: Tensor, added_S: Tensor) -> Tensor:
    """x [K, S] of (gram + a) x = right for every a."""
    value_K: Tensor
    vector_KK: Tensor
    value_K, vector_KK = torch.linalg.eigh(gram_KK)
    # Rounding makes eigenvalues of 0 slightly negative.
    inverse_KS = 1.0 / (value_K.clamp(min=0.0)[:, None] + added_S)
    return vector_KK @ ((vector_KK.T @ right_K)[:, None] * inverse_KS)


def _moments(x_NF: np.ndarray, rows_N: np.ndarray, standardise: Standardiser, centred_y_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the rows' standardised features: Gram matrix of their deviations from the mean [F, F], products with the labels [F], mean [F]."""
    num_features = x_NF.shape[1]
    gram_FF = torch.zeros(num_features, num_features, dtype=_DTYPE)
    moment_F, sum_F = torch.zeros(num_features, dtype=_DTYPE), torch.zeros(num_features, dtype=_DTYPE)
    for begin in range(0, len(rows_N), _ROWS_AT_ONCE):
        block = slice(begin, begin + _ROWS_AT_ONCE)
        z_BF = _standardised(x_NF, rows_N[block], standardise)
        gram_FF.addmm_(z_BF.T, z_BF)
        moment_F += z_BF.T @ centred_y_N[block]
        sum_F += z_BF.sum(0)
    mean_F = sum_F / len(rows_N)
    return gram_FF - len(rows_N) * torch.outer(mean_F, mean_F), moment_F, mean_F


def _standardised(x_NF: np.ndarray, rows_N: np.ndarray, standardise: Standardiser) -> Tensor:
    return torch.from_numpy(standardise(x_NF[rows_N])).to(_DTYPE)
