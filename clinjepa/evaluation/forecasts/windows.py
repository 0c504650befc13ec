"""The windows of a split, rolled out and decoded, and what each method estimates of them before errors are added."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.drift_windows import Windows
from clinjepa.evaluation.fitted_files import check_latents
from clinjepa.evaluation.forecasts.forecaster import Forecaster, Steps
from clinjepa.evaluation.forecasts.points.direct import read_direct
from clinjepa.evaluation.forecasts.points.measurements import Measurements, WindowValues, window_values
from clinjepa.evaluation.forecasts.points.readouts import Decoder
from clinjepa.evaluation.forecasts.points.rollouts import rolled_out
from clinjepa.evaluation.forecasts.result import LAST_VALUE, LIGHTGBM, MODEL, TRAIN_MEAN
from clinjepa.evaluation.forecasts.scoring.distributions import PlausibleRange
from clinjepa.evaluation.forecasts.scoring.horizon_scores import Horizon
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor
from clinjepa.storage import Folder


@dataclass(frozen=True)
class ForecastInputs:
    """What a forecast evaluation reads: the trained predictor, latents of its encoder, the ingest artifact, its `stays.parquet`, the label
    table (stay_id, task, hour, label), and the direct forecasts of the same windows (`direct.direct_forecasts`; None leaves them out)."""

    predictor: Predictor
    latents: Latents
    ingest: Folder
    stays: pa.Table
    labels: pa.Table
    direct: pa.Table | None


@dataclass(frozen=True)
class RolledWindows:
    """The W windows of one split: their measured values, rolled-out latents z_WHD of width D at the H horizons, and the decoded values
    model_WSV of V variables at the S steps. The steps are the hours after the history: the horizons and all hours that event tasks need."""

    windows: Windows
    values: WindowValues
    z_WHD: np.ndarray
    model_WSV: np.ndarray


def check_fits(forecaster: Forecaster, predictor: Predictor, latents: Latents) -> None:
    """Raise EvaluationError where the forecaster cannot be of this predictor and these latents."""
    last, reach = forecaster.steps.context + int(forecaster.steps.steps_S[-1]), predictor.spec.reach_hours + 1
    check_latents("the forecaster", forecaster.latent_dim, forecaster.encoder_digest, latents)
    if last > reach:
        raise EvaluationError(f"the forecaster needs windows of {last} h, the predictor has {reach}; give that of the same run")


def roll_windows(inputs: ForecastInputs, steps: Steps, windows: Windows, measurements: Measurements, decoder: Decoder) -> RolledWindows:
    """The windows of a split, rolled out with the last given action.

    Raises:
        EvaluationError: A predicted latent is NaN or infinite.
    """
    z_WHD = np.zeros((len(windows), len(steps.horizons), inputs.latents.dim), dtype=np.float32)
    model_WSV = np.zeros((len(windows), len(steps.steps_S), len(measurements.names)), dtype=np.float32)
    for rows, z_BSD in rolled_out(inputs.predictor, inputs.latents, windows, steps.steps_S):
        z_WHD[rows], model_WSV[rows] = z_BSD[:, steps.at_H], decoder(z_BSD)
    return RolledWindows(windows, window_values(measurements, windows, steps.steps_S), z_WHD, model_WSV)


def estimates(own: RolledWindows, steps: Steps, names: list[str], mean_V: np.ndarray, direct: pa.Table | None) -> dict[str, np.ndarray]:
    """Estimates by method, [W, S, V] at all steps; those of gradient boosting are at the horizons only.

    Args:
        own: The windows.
        steps: Their steps.
        names: The V variables.
        mean_V: Mean of each over the training hours.
        direct: Table of the forecasts by gradient boosting; None leaves them out.
    """
    last_WV = np.where(np.isfinite(own.values.last_WV), own.values.last_WV, mean_V)
    shape = own.model_WSV.shape
    found = {
        MODEL: own.model_WSV,
        LAST_VALUE: np.broadcast_to(last_WV[:, None], shape),
        TRAIN_MEAN: np.broadcast_to(mean_V, shape),
    }
    if direct is not None:
        found[LIGHTGBM] = np.full(shape, np.nan, dtype=np.float32)
        found[LIGHTGBM][:, steps.at_H] = read_direct(direct, own.windows, steps.horizons, names)
    return found


def at_horizons(own: RolledWindows, found: Mapping[str, np.ndarray], steps: Steps, ranges_V2: np.ndarray) -> list[Horizon]:
    """The windows at each horizon. found: as `estimates` returns it; ranges_V2: plausible range of each variable."""
    ranges = [PlausibleRange(*each) for each in ranges_V2.tolist()]
    return [
        Horizon(
            {method: values_WSV[:, step] for method, values_WSV in found.items()},
            own.values.target_WSV[:, step],
            own.values.hours_since_WV,
            own.values.share_WV,
            own.windows.reach_W >= horizon,
            own.windows.subject_W,
            ranges,
        )
        for horizon, step in zip(steps.horizons, steps.at_H.tolist(), strict=True)
    ]
