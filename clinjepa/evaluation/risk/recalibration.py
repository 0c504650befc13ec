"""Logistic recalibration in every draw of patients: y ~ a + b · log-odds (Cox, Biometrika 45, 1958).

The slope is b; 1 is right, below 1 predictions are too extreme. The intercept is a of the model with b = 1 (calibration-in-the-large;
Steyerberg, Clinical Prediction Models, 2009, chapter 15); 0 is right, above 0 events are more frequent than predicted.

The estimates are exact. In the draws the points are replaced by weights on a grid of log-odds, so a step of Newton's method costs the
grid's nodes and not the points. The weights of a point on its two neighbours keep its mean, and the error is of second order in the
grid's step; both fits start at the estimate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from clinjepa.evaluation.resampling import PatientBootstrap

NUM_NODES = 128
_STEPS = 40
_CONVERGED = 1e-9
_LARGEST_STEP = 5.0


class Recalibration(NamedTuple):
    """Slope and intercept, each [1 + R] with the estimate first; NaN where the model has no finite solution."""

    slope_R: np.ndarray
    intercept_R: np.ndarray


def recalibration(label_N: np.ndarray, log_odds_N: np.ndarray, draws: PatientBootstrap) -> Recalibration:
    """Slope and intercept of a logistic model of the label on the predicted log-odds.

    Args:
        label_N: Labels, 0 or 1.
        log_odds_N: Finite predicted log-odds.
        draws: Resamplings of the patients of the N points.
    """
    one_1N, label_1N, start = np.ones((1, len(label_N))), label_N[None], np.zeros((1, 2))
    slope = _fit(log_odds_N, one_1N, label_1N, start, moves_slope=True)
    offset = _fit(log_odds_N, one_1N, label_1N, start + [0.0, 1.0], moves_slope=False)
    num = len(draws.counts_RP)
    if num == 1:
        return Recalibration(slope[:, 1], offset[:, 0])
    x_M, number_PM, positive_PM = _on_nodes(label_N, log_odds_N, draws)
    number_RM, positive_RM = draws.counts_RP @ number_PM, draws.counts_RP @ positive_PM
    slopes, offsets = np.full(num, np.nan), np.full(num, np.nan)
    if np.isfinite(slope).all():
        found = _fit(x_M, number_RM, positive_RM, np.repeat(slope, num, axis=0), moves_slope=True)[:, 1]
        slopes = found - found[0] + slope[0, 1]
    if np.isfinite(offset).all():
        found = _fit(x_M, number_RM, positive_RM, np.repeat(offset, num, axis=0), moves_slope=False)[:, 0]
        offsets = found - found[0] + offset[0, 0]
    return Recalibration(slopes, offsets)


def _on_nodes(label_N: np.ndarray, log_odds_N: np.ndarray, draws: PatientBootstrap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nodes [M] and, by patient, the weight of points and of positive points on each: two [P, M]. Few distinct log-odds are the nodes."""
    x_M, lower_N = np.unique(log_odds_N, return_inverse=True)
    share_N = np.zeros(len(log_odds_N))
    if len(x_M) > NUM_NODES:
        x_M = np.linspace(x_M[0], x_M[-1], NUM_NODES)
        place_N = np.clip((log_odds_N - x_M[0]) / (x_M[1] - x_M[0]), 0, NUM_NODES - 1)
        lower_N = np.minimum(place_N.astype(np.int64), NUM_NODES - 2)
        share_N = place_N - lower_N
    size = draws.num_patients * len(x_M)
    cell_N = draws.index_N * len(x_M) + lower_N

    def spread(weight_N: np.ndarray) -> np.ndarray:
        above = np.bincount(cell_N + 1, weight_N * share_N, size + 1)[:size]
        return np.asarray((np.bincount(cell_N, weight_N * (1 - share_N), size) + above).reshape(draws.num_patients, len(x_M)))

    return x_M, spread(np.ones(len(log_odds_N))), spread(label_N)


def _fit(x_M: np.ndarray, number_RM: np.ndarray, positive_RM: np.ndarray, start_R2: np.ndarray, *, moves_slope: bool) -> np.ndarray:
    """Newton's method for all rows at once: constant and slope [R, 2]; NaN in rows that do not converge, as for separated classes."""
    found_R2 = np.full_like(start_R2, np.nan)
    rows, now_R2 = np.arange(len(start_R2)), start_R2.copy()
    with np.errstate(all="ignore"):  # a row without a solution ends as NaN
        for _ in range(_STEPS):
            p_RM = 1.0 / (1.0 + np.exp(-(now_R2[:, :1] + now_R2[:, 1:] * x_M)))
            expected_RM = number_RM * p_RM
            gap_RM, curve_RM = positive_RM - expected_RM, expected_RM * (1 - p_RM)
            u_R, a_R = gap_RM.sum(1), curve_RM.sum(1)
            if moves_slope:
                v_R, b_R, c_R = gap_RM @ x_M, curve_RM @ x_M, curve_RM @ x_M**2
                step_R2 = np.stack([c_R * u_R - b_R * v_R, a_R * v_R - b_R * u_R], axis=1) / (a_R * c_R - b_R**2)[:, None]
            else:
                step_R2 = np.stack([u_R / a_R, np.zeros_like(u_R)], axis=1)
            now_R2 = now_R2 + np.clip(step_R2, -_LARGEST_STEP, _LARGEST_STEP)
            done_R = np.abs(step_R2).max(1) < _CONVERGED
            found_R2[rows[done_R]] = now_R2[done_R]
            left_R = ~done_R & np.isfinite(now_R2).all(1)
            if not left_R.any():
                break
            rows, now_R2, number_RM, positive_RM = rows[left_R], now_R2[left_R], number_RM[left_R], positive_RM[left_R]
    return found_R2
