"""Which variables are measured in a coming hour: logistic heads on the rolled-out latent of that hour.

Sampling is informative: who is measured, and what, follows how ill the patient is. The heads are fitted on rollouts of training windows,
their strength is chosen on tuning windows. All variables of a horizon share their inputs, so their heads are one batched problem.
"""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special

from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.forecasts.points.readouts import MeasuredHead

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties on standardised latents that tuning chooses from, by variable."""
_ITERATIONS = 60


def fit_measured(train_WD: np.ndarray, train_WV: np.ndarray, tuning_WD: np.ndarray, tuning_WV: np.ndarray) -> MeasuredHead:
    """The heads of one horizon.

    Args:
        train_WD: Rolled-out latents of the horizon's hour in training windows.
        train_WV: Whether each variable was measured in that hour (bool).
        tuning_WD: The same of tuning windows.
        tuning_WV: The same.
    """
    standardise = Standardiser.fit(train_WD)
    x_WD, tuning_WD = (standardise(part).astype(np.float64) for part in (train_WD, tuning_WD))
    number = train_WV.shape[1]
    best_V, best_DV, best_bias_V = np.full(number, np.inf), np.zeros((x_WD.shape[1], number)), np.zeros(number)
    for penalty in PENALTIES:
        weights_DV, bias_V = _fit(x_WD, train_WV.astype(np.float64), penalty)
        loss_V = _loss(tuning_WD @ weights_DV + bias_V, tuning_WV).mean(0)
        better_V = loss_V < best_V
        best_V = np.where(better_V, loss_V, best_V)
        best_DV, best_bias_V = np.where(better_V, weights_DV, best_DV), np.where(better_V, bias_V, best_bias_V)
    return MeasuredHead(standardise, best_DV, best_bias_V)


def _fit(x_WD: np.ndarray, y_WV: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [D, V] and constants [V] of the penalised mean log-loss, summed over variables."""
    shape = (x_WD.shape[1] + 1, y_WV.shape[1])

    def loss_and_slope(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_DV, bias_V = flat.reshape(shape)[:-1], flat.reshape(shape)[-1]
        logits_WV = x_WD @ weights_DV + bias_V
        gap_WV = (scipy.special.expit(logits_WV) - y_WV) / len(y_WV)
        loss = _loss(logits_WV, y_WV).sum() / len(y_WV) + 0.5 * penalty * (weights_DV**2).sum()
        slope_DV = np.concatenate([x_WD.T @ gap_WV + penalty * weights_DV, gap_WV.sum(0)[None]])
        return float(loss), slope_DV.ravel()

    share_V = np.clip(y_WV.mean(0), 1e-3, 1 - 1e-3)
    start_DV = np.zeros(shape)
    start_DV[-1] = np.log(share_V) - np.log1p(-share_V)
    found = scipy.optimize.minimize(loss_and_slope, start_DV.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": _ITERATIONS})
    return found.x.reshape(shape)[:-1], found.x.reshape(shape)[-1]


def _loss(logits_WV: np.ndarray, y_WV: np.ndarray) -> np.ndarray:
    return np.asarray(np.logaddexp(0.0, logits_WV) - y_WV * logits_WV)
