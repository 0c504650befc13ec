"""Fits a forecaster: the decoder, the heads and the training mean on training patients, distributions and paths on tuning patients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.evaluation.drift_windows import Windows
from clinjepa.evaluation.fitted_files import encoder_of
from clinjepa.evaluation.forecasts.events import draw_paths
from clinjepa.evaluation.forecasts.forecaster import Forecaster, Steps
from clinjepa.evaluation.forecasts.points.decoder import fit_decoder
from clinjepa.evaluation.forecasts.points.measured import fit_measured
from clinjepa.evaluation.forecasts.points.measurements import Measurements
from clinjepa.evaluation.forecasts.points.readouts import MeasuredHead
from clinjepa.evaluation.forecasts.result import LAST_VALUE, MODEL
from clinjepa.evaluation.forecasts.scoring.horizon_scores import fit_distributions
from clinjepa.evaluation.forecasts.windows import ForecastInputs, RolledWindows, at_horizons, estimates, roll_windows


class Fitted(NamedTuple):
    """The forecaster, and the windows of train and tuning that it was fitted on."""

    forecaster: Forecaster
    rolled: dict[str, RolledWindows]


def fit_forecaster(
    inputs: ForecastInputs,
    steps: Steps,
    stays: Mapping[str, pa.Table],
    windows: Mapping[str, Windows],
    measurements: Measurements,
    num_decoder_hours: int,
    seed: int,
) -> Fitted:
    """The forecaster of the variables of `measurements`.

    Args:
        inputs: The predictor, latents and direct forecasts.
        steps: Hours after the history.
        stays: Stays of train and tuning by split; other splits are not read.
        windows: Their windows by split, at least one each.
        measurements: Values of the hours of these stays.
        num_decoder_hours: Training hours that the decoder is fitted on.
        seed: Seed of every draw of hours and windows.

    Raises:
        EvaluationError: A predicted latent is NaN or infinite.
    """
    fitted_on = pa.concat_tables([stays["train"], stays["tuning"]]).combine_chunks()
    decoder = fit_decoder(inputs.latents, measurements, fitted_on, num_decoder_hours, seed)
    rolled = {split: roll_windows(inputs, steps, windows[split], measurements, decoder) for split in ("train", "tuning")}
    train_R = np.isin(measurements.stay_R, stays["train"]["stay_id"].to_numpy())
    mean_V = np.nanmean(measurements.values_RV[train_R], axis=0)
    tuning = rolled["tuning"]
    found = estimates(tuning, steps, measurements.names, mean_V, inputs.direct)
    paths = {
        method: draw_paths((tuning.values.target_WSV - found[method])[:, : steps.num_path_hours], seed) for method in (MODEL, LAST_VALUE)
    }
    variables = load_variables()  # those of the ingest: its stage names their digest
    bounds = [(variables[name].minimum, variables[name].maximum) for name in measurements.names]
    ranges_V2 = np.array(bounds, dtype=np.float32).reshape(-1, 2)
    distributions = fit_distributions(at_horizons(tuning, found, steps, ranges_V2))
    heads = [_head(rolled, steps, place) for place in range(len(steps.horizons))]
    units = [variables[name].unit or "" for name in measurements.names]
    encoder = encoder_of(inputs.latents)
    return Fitted(Forecaster(measurements.names, units, steps, decoder, mean_V, ranges_V2, distributions, heads, paths, encoder), rolled)


def _head(rolled: Mapping[str, RolledWindows], steps: Steps, place: int) -> MeasuredHead | None:
    """The heads of one horizon; None where none of train or none of tuning reaches it."""
    step = steps.at_H[place]
    inside = {split: own.windows.reach_W >= steps.horizons[place] for split, own in rolled.items()}
    z = {split: own.z_WHD[inside[split], place] for split, own in rolled.items()}
    known = {split: np.isfinite(own.values.target_WSV[inside[split], step]) for split, own in rolled.items()}
    if not all(map(len, z.values())):
        return None
    return fit_measured(z["train"], known["train"], z["tuning"], known["tuning"])
