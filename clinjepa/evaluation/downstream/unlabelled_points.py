"""Prediction points of patients whose future is not known: every hour at which a task is predicted, with no label to select them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.fitted import PointRule, PredictedAt
from clinjepa.evaluation.downstream.prediction_points import Points, on_stride


def points_without_labels(stays: pa.Table, predicted_at: PredictedAt, rule: PointRule) -> Points:
    """Every point of the stays at which a task is predicted, whether or not it would have a label; all labels are NaN.

    A label table leaves out hours without one, such as those inside the event. Nothing is left out here.

    Args:
        stays: Stays with stay_id, subject_id and num_hours; a stay that goes on has the hours so far.
        predicted_at: When the task is predicted.
        rule: First hour and stride of hourly tasks, hour of the others.
    """
    num_hours_S = stays["num_hours"].to_numpy().astype(np.int64)
    stay_N = np.repeat(stays["stay_id"].to_numpy(), num_hours_S)
    hour_N = np.arange(len(stay_N)) - np.repeat(np.cumsum(num_hours_S) - num_hours_S, num_hours_S)
    if predicted_at == "hourly":
        kept_N = on_stride(hour_N, rule)
    elif predicted_at == "prediction_hour":
        kept_N = hour_N == rule.stay_prediction_hour - 1
    else:
        kept_N = hour_N == np.repeat(num_hours_S, num_hours_S) - 1
    return unlabelled(stays, stay_N[kept_N], hour_N[kept_N])


def unlabelled(stays: pa.Table, stay_N: np.ndarray, hour_N: np.ndarray) -> Points:
    """Distinct points (stay_N, hour_N) of the stays with their patients, without labels and splits.

    Raises:
        EvaluationError: A point lies in no stay, or not within its hours.
    """
    pairs_N2 = np.unique(np.stack([stay_N.astype(np.int64), hour_N.astype(np.int64)], axis=1), axis=0)
    asked = pa.table({"stay_id": pairs_N2[:, 0], "hour": pairs_N2[:, 1].astype(np.int32)})
    row_N = pc.fill_null(pc.index_in(asked["stay_id"], stays["stay_id"]), -1).to_numpy()
    end_N = np.append(stays["num_hours"].to_numpy(), 0)[row_N]
    inside_N = (pairs_N2[:, 1] >= 0) & (pairs_N2[:, 1] < end_N)
    if not inside_N.all():
        raise EvaluationError(f"{int((~inside_N).sum())} of {len(inside_N)} points lie in no stay or outside its hours 0 to num_hours - 1")
    subject_N, nowhere_N = stays["subject_id"].to_numpy()[row_N], np.full(len(row_N), "", dtype=object)
    return Points(pairs_N2[:, 0], pairs_N2[:, 1].astype(np.int32), np.full(len(row_N), np.nan), subject_N, nowhere_N)
