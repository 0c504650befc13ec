"""Values of an hour from its latent: one ridge regression per variable, fitted on recorded hours of training patients.

Source of the protocol: Clin-JEPA's released probes (one hour's latent → the same hour's values, then applied to rolled-out latents). An
hour is a row of a variable only where the variable was measured in it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import scipy.linalg

from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.evaluation.forecasts.points.readouts import Decoder
from clinjepa.evaluation.space import Latents, gather_hours, sample_hours

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties per row that tuning chooses from by the mean absolute error, on standardised latents."""
CLIPPED_PERCENTILES = (1.0, 99.0)
"""Targets are clipped at these percentiles of the training hours when a regression is fitted, never when it is chosen or scored."""
MIN_TUNING_HOURS = 20


def fit_decoder(latents: Latents, measurements: Measurements, stays: pa.Table, num_hours: int, seed: int) -> Decoder:
    """The decoder of all variables of `measurements`.

    Args:
        latents: Latents of the stays.
        measurements: Values of the hours of these stays.
        stays: Stays of train and tuning with stay_id, split, num_hours; all are in `measurements`.
        num_hours: Hours of train to fit on; a quarter of it from tuning chooses the penalty.
        seed: Seed of the drawn hours.
    """
    z, y = {}, {}
    for split, number in (("train", num_hours), ("tuning", max(1, num_hours // 4))):
        hours = sample_hours(stays, split, number, seed)
        z[split] = gather_hours(latents, hours)
        stay_N = np.repeat([stay for stay, _ in hours], [len(own) for _, own in hours])
        hour_N = np.concatenate([own for _, own in hours]) if hours else np.zeros(0, dtype=np.int64)
        y[split] = measurements.values_RV[measurements.rows(stay_N, hour_N)]
    standardise = Standardiser.fit(z["train"])
    x = {split: standardise(z_ND).astype(np.float64) for split, z_ND in z.items()}
    fitted = [_ridge(x, y, column) for column in range(len(measurements.names))]
    weights = np.stack([weights_D for weights_D, _ in fitted], axis=1) if fitted else np.zeros((latents.dim, 0))
    return Decoder(standardise, weights.astype(np.float32), np.array([bias for _, bias in fitted], dtype=np.float32))


def _ridge(x: dict[str, np.ndarray], y: dict[str, np.ndarray], column: int) -> tuple[np.ndarray, float]:
    """(weights [D], bias) with the penalty that is best on tuning; NaN where tuning has too few hours."""
    known = {split: np.isfinite(y[split][:, column]) for split in y}
    x_ND, tuning_ND = (x[split][known[split]] for split in ("train", "tuning"))
    if len(tuning_ND) < MIN_TUNING_HOURS or len(x_ND) < MIN_TUNING_HOURS:
        return np.full(x["train"].shape[1], np.nan), np.nan
    bounds = np.percentile(y["train"][known["train"], column], CLIPPED_PERCENTILES)
    y_N = np.clip(y["train"][known["train"], column].astype(np.float64), *bounds)
    tuning_N = y["tuning"][known["tuning"], column].astype(np.float64)
    mean_D, bias = x_ND.mean(0), float(y_N.mean())
    x_ND = x_ND - mean_D
    gram_DD, moment_D = x_ND.T @ x_ND, x_ND.T @ (y_N - bias)
    best_loss, best_D = np.inf, np.zeros(len(mean_D))
    for penalty in RIDGES:
        weights_D = scipy.linalg.solve(gram_DD + penalty * len(x_ND) * np.eye(len(gram_DD)), moment_D, assume_a="pos")
        # Clipped targets would favour a penalty that is too strong; absolute errors need no clipping against extreme values.
        loss = float(np.mean(np.abs((tuning_ND - mean_D) @ weights_D + bias - tuning_N)))
        if loss < best_loss:
            best_loss, best_D = loss, weights_D
    return best_D, bias - float(mean_D @ best_D)
