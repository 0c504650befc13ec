"""MAE, RMSE, MASE and Spearman of forecasts for many variables at once, all from one bootstrap over patients.

MASE is the MAE over that of the last value carried forward, on the same rows: below 1 is better than doing nothing (after Hyndman and
Koehler, International Journal of Forecasting 22, 2006, with the naive forecast of the same horizon). Spearman's draws correlate the ranks
among all rows, weighted by how often a patient is drawn.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from clinjepa.evaluation.resampling import PatientBootstrap, ratio


def totals(draws: PatientBootstrap, values_WX: np.ndarray) -> np.ndarray:
    """Sum over rows of each column, NaN as 0, in the estimate and in every draw: [1 + R, X]."""
    sums_PX = np.zeros((draws.num_patients, values_WX.shape[1]))
    np.add.at(sums_PX, draws.index_N, np.nan_to_num(values_WX.astype(np.float64)))
    return np.asarray(draws.counts_RP @ sums_PX)


def mean_draws(draws: PatientBootstrap, values_WX: np.ndarray) -> np.ndarray:
    """Mean over the rows that have a value [1 + R, X]."""
    return ratio(totals(draws, values_WX), totals(draws, np.isfinite(values_WX)))


def spearman_draws(draws: PatientBootstrap, forecast_WX: np.ndarray, observed_WX: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation [1 + R, X] over the rows that have both; NaN where one of them is constant."""
    both_WX = np.isfinite(forecast_WX) & np.isfinite(observed_WX)
    x_WX, y_WX = (_centred_ranks(np.where(both_WX, values_WX, np.nan)) for values_WX in (forecast_WX, observed_WX))
    number, x, y, xx, yy, xy = (totals(draws, part) for part in (both_WX, x_WX, y_WX, x_WX**2, y_WX**2, x_WX * y_WX))
    with np.errstate(divide="ignore", invalid="ignore"):
        variance = (xx - x**2 / number) * (yy - y**2 / number)
        return np.asarray(np.where(variance > 1e-9, (xy - x * y / number) / np.sqrt(np.maximum(variance, 1e-300)), np.nan))


def _centred_ranks(values_WX: np.ndarray) -> np.ndarray:
    ranks_WX = rankdata(values_WX, axis=0, nan_policy="omit")
    with np.errstate(invalid="ignore"):
        number_X = np.isfinite(values_WX).sum(0)
        return np.asarray(ranks_WX - (number_X + 1) / 2)
