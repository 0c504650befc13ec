"""Calibration of probabilities: Brier score, expected calibration error, slope and intercept, reliability curve.

Every figure has draws of one bootstrap over patients. Sources: Brier (Monthly Weather Review 78, 1950); expected calibration error over
bins with equally many predictions (Nixon et al., Measuring calibration in deep learning, 2019); slope and calibration-in-the-large from a
logistic model of the outcome on the log-odds (Cox, Biometrika 45, 1958; Steyerberg, Clinical Prediction Models, 2009, chapter 15).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clinjepa.evaluation.resampling import PatientBootstrap, ratio

NUM_BINS = 10
_STEPS = 30
_CHUNK_CELLS = 4_000_000
_CONVERGED = 1e-6


class Bins(NamedTuple):
    """Bins with about equally many predictions: mean prediction, share of events and number of rows of each [B], and the rows' bins [N]."""

    predicted_B: np.ndarray
    observed_B: np.ndarray
    number_B: np.ndarray
    index_N: np.ndarray


def reliability(label_N: np.ndarray, probability_N: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """The reliability curve; equal predictions are never divided, so there may be fewer bins."""
    edges = np.unique(np.quantile(probability_N, np.arange(1, num_bins) / num_bins))
    index_N = np.searchsorted(edges, probability_N, side="left")
    _, index_N = np.unique(index_N, return_inverse=True)
    number_B = np.bincount(index_N)
    return Bins(np.bincount(index_N, weights=probability_N) / number_B, np.bincount(index_N, weights=label_N) / number_B, number_B, index_N)


def brier_draws(label_N: np.ndarray, probability_N: np.ndarray, draws: PatientBootstrap) -> np.ndarray:
    """Mean squared difference of probability and outcome [1 + R], the estimate first."""
    every_N = np.ones(len(label_N), dtype=bool)
    return ratio(draws.total((probability_N - label_N) ** 2, every_N), draws.total(np.ones(len(label_N)), every_N))


def ece_draws(label_N: np.ndarray, probability_N: np.ndarray, draws: PatientBootstrap) -> np.ndarray:
    """Expected calibration error [1 + R]: mean over rows of |mean prediction − share of events| of their bin, in the bins of all rows."""
    index_N = reliability(label_N, probability_N).index_N
    gaps = [np.abs(draws.total(probability_N - label_N, index_N == number)) for number in range(index_N.max() + 1)]
    return ratio(np.sum(gaps, axis=0), draws.total(np.ones(len(label_N)), np.ones(len(label_N), dtype=bool)))


def slope_draws(label_N: np.ndarray, probability_N: np.ndarray, draws: PatientBootstrap) -> tuple[np.ndarray, np.ndarray]:
    """(slope, intercept), each [1 + R]. Probabilities lie inside (0, 1).

    Slope: coefficient of the log-odds in a logistic model of the outcome; 1 is right, below 1 predictions are too extreme. Intercept: the
    constant of the model whose coefficient is 1 (calibration-in-the-large); 0 is right, above 0 events are more frequent than predicted.
    NaN where the model has no finite solution.
    """
    logit_N = np.log(probability_N) - np.log1p(-probability_N)
    slopes, intercepts = [], []
    rows = max(1, _CHUNK_CELLS // len(label_N))
    for begin in range(0, len(draws.counts_RP), rows):
        weights_RN = draws.counts_RP[begin : begin + rows][:, draws.index_N]
        slopes.append(_slope(label_N, logit_N, weights_RN))
        intercepts.append(_intercept(label_N, logit_N, weights_RN))
    return np.concatenate(slopes), np.concatenate(intercepts)


def _slope(label_N: np.ndarray, logit_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """Newton's method for all draws at once; NaN where it does not converge, as for classes that the log-odds separate."""
    constant_R, slope_R, step_R = np.zeros(len(weights_RN)), np.ones(len(weights_RN)), np.full(len(weights_RN), np.inf)
    with np.errstate(all="ignore"):  # a draw without a solution ends as NaN
        for _ in range(_STEPS):
            p_RN = _expit(constant_R[:, None] + slope_R[:, None] * logit_N)
            curve_RN, gap_RN = weights_RN * p_RN * (1 - p_RN), weights_RN * (label_N - p_RN)
            a_R, b_R, c_R = curve_RN.sum(1), curve_RN @ logit_N, curve_RN @ logit_N**2
            u_R, v_R = gap_RN.sum(1), gap_RN @ logit_N
            det_R = a_R * c_R - b_R**2
            step_R = (a_R * v_R - b_R * u_R) / det_R
            constant_R = constant_R + np.clip((c_R * u_R - b_R * v_R) / det_R, -5, 5)
            slope_R = slope_R + np.clip(step_R, -5, 5)
    return np.where(np.abs(step_R) < _CONVERGED, slope_R, np.nan)


def _intercept(label_N: np.ndarray, logit_N: np.ndarray, weights_RN: np.ndarray) -> np.ndarray:
    """The same with the slope held at 1."""
    constant_R, step_R = np.zeros(len(weights_RN)), np.full(len(weights_RN), np.inf)
    with np.errstate(all="ignore"):
        for _ in range(_STEPS):
            p_RN = _expit(constant_R[:, None] + logit_N)
            step_R = (weights_RN * (label_N - p_RN)).sum(1) / (weights_RN * p_RN * (1 - p_RN)).sum(1)
            constant_R = constant_R + np.clip(step_R, -5, 5)
    return np.where(np.abs(step_R) < _CONVERGED, constant_R, np.nan)


def _expit(x: np.ndarray) -> np.ndarray:
    return np.asarray(1.0 / (1.0 + np.exp(-x)))
