"""Inputs of the models at prediction points: the baselines' hand-made features, pooled latents of the history, and both.

The latents of a point are those of hours 0 to h of its stay: the last one and their mean. No predictor takes part, so recipes that end with
the same encoder have the same inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from clinjepa.evaluation.downstream.tabular_features import FeatureTable, tabular_features
from clinjepa.evaluation.space import Latents
from clinjepa.storage import Folder

InputName = Literal["features", "latents", "both"]


@dataclass(frozen=True)
class PointInputs:
    """Both inputs of P points (stay_P, hour_P), which are distinct and sorted: hand-made features first, then latents.

    both: float32 [P, F + 2 D]; a feature is NaN where it is missing. num_features: F.
    """

    stay_P: np.ndarray
    hour_P: np.ndarray
    both: FeatureTable
    num_features: int

    def table(self, name: InputName) -> FeatureTable:
        """The columns of one input; `features` and `latents` are views."""
        columns = {"features": slice(0, self.num_features), "latents": slice(self.num_features, None), "both": slice(None)}[name]
        return FeatureTable(self.both.x_NF[:, columns], self.both.names[columns])


def point_inputs(ingest: Folder, stays: pa.Table, latents: Latents, stay_P: np.ndarray, hour_P: np.ndarray) -> PointInputs:
    """The inputs of P points.

    Args:
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`, all splits.
        latents: Latents of the points' stays.
        stay_P: Stay of each point, ascending.
        hour_P: Hour of each point.
    """
    features = tabular_features(ingest, stays, stay_P, hour_P)
    pooled_PF = pooled_latents(latents, stay_P, hour_P)
    names = [f"latent_{part}_{place}" for part in ("last", "mean") for place in range(latents.dim)]
    both = FeatureTable(np.concatenate([features.x_NF, pooled_PF], axis=1), [*features.names, *names])
    return PointInputs(stay_P, hour_P, both, len(features.names))


def pooled_latents(latents: Latents, stay_P: np.ndarray, hour_P: np.ndarray) -> np.ndarray:
    """State latent of hour h, then the mean of the state latents of hours 0 to h: [P, 2 D] float32. Later hours are not read.

    Args:
        latents: Latents of the points' stays.
        stay_P: Stay of each point, ascending.
        hour_P: Hour h of each point.
    """
    dim = latents.dim
    pooled_PF = np.empty((len(stay_P), 2 * dim), dtype=np.float32)
    stay_ids, starts = np.unique(stay_P, return_index=True)
    for stay_id, start, end in zip(stay_ids, starts, [*starts[1:], len(stay_P)], strict=True):
        hours = hour_P[start:end].astype(np.int64)
        z_state_TD = latents.stay(int(stay_id), 0, int(hours.max()) + 1)[1]
        sum_TD = np.cumsum(z_state_TD, axis=0, dtype=np.float64)
        pooled_PF[start:end, :dim] = z_state_TD[hours]
        pooled_PF[start:end, dim:] = sum_TD[hours] / (hours + 1)[:, None]
    return pooled_PF
