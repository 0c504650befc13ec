"""Probabilities of the risk tasks for patients without labels, by frozen probes: what would be shown beside a bed.

The prediction of hour h reads hours 0 to h of the stay and nothing later. So there is no column with recorded actions, and points are not
selected by labels: an hour inside the event, which has no label, gets a probability too.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import pyarrow as pa

from clinjepa.errors import EvaluationError
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.point_features import known_features
from clinjepa.evaluation.downstream.prediction_points import union
from clinjepa.evaluation.downstream.unlabelled_points import points_without_labels, unlabelled
from clinjepa.evaluation.predictions import KeptPredictions, with_times
from clinjepa.evaluation.space import Latents
from clinjepa.model.predictor import Predictor

KnownColumn = Literal["history_only", "actions_carried_forward"]
"""Inputs that are known at the prediction hour."""


def predict_points(
    predictor: Predictor,
    latents: Latents,
    stays: pa.Table,
    probes: FittedProbes,
    *,
    points: pa.Table | None = None,
    column: KnownColumn = "history_only",
) -> pa.Table:
    """The predictions of every task and kind of probe as a table of PREDICTIONS_SCHEMA whose labels are null.

    Rows go by task, kind, stay and hour. Tasks without probes have no rows (`TaskProbes.reason` says why). The rollouts run on the
    predictor's device.

    Args:
        predictor: The predictor that the probes were fitted with.
        latents: Latents of the stays, from the encoder that the predictor was trained with.
        stays: Stays with stay_id, subject_id, intime, num_hours; of a stay that goes on the hours so far.
        probes: Probes of `score_downstream`, or read from its files.
        points: Table with stay_id and hour, at which every task is predicted, also one that was fitted at one hour of a stay only. None:
            each task at its own points (`PointRule`): every `hourly_stride` hours, or once.
        column: Input of the probes.

    Raises:
        StoreError: The probes were fitted with another predictor.
        EvaluationError: A point lies outside its stay's hours, the latents have another width, or the column needs the future.
    """
    if column not in get_args(KnownColumn):
        raise EvaluationError(f"column={column} needs hours after the prediction; use one of {', '.join(get_args(KnownColumn))}")
    if latents.dim != probes.input.latent_dim:
        raise EvaluationError(
            f"latents have {latents.dim} dimensions, the probes were fitted on {probes.input.latent_dim}; encode them anew"
        )
    probes.check_predictor(predictor)
    asked = None if points is None else unlabelled(stays, points["stay_id"].to_numpy(), points["hour"].to_numpy())
    able = {name: task for name, task in probes.tasks.items() if task.reason is None}
    own = {
        name: asked if asked is not None else points_without_labels(stays, task.predicted_at, probes.points) for name, task in able.items()
    }
    scores: dict[str, dict[str, np.ndarray]] = {}
    for rollout_hours in sorted({task.rollout_hours for task in able.values()}):
        same = [name for name, task in able.items() if task.rollout_hours == rollout_hours and len(own[name])]
        if not same:
            continue
        stay_N, hour_N, found = union([own[name] for name in same])
        features = known_features(
            predictor, latents, stay_N, hour_N, rollout_hours=rollout_hours, pooling=probes.input.pooling, carried=column != "history_only"
        )
        x_NF = features.column(column)
        for name, (_, rows_N) in zip(same, found, strict=True):
            scores[name] = {kind: able[name].probes[column, kind](x_NF[rows_N]) for kind in probes.kinds}
    kept = KeptPredictions()
    for name in own:
        for kind, scores_N in scores.get(name, {}).items():
            kept.add(name, kind, column, own[name], scores_N, able[name].output)
    return with_times(kept.table(), stays)
