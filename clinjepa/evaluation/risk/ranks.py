"""AUROC in many draws of patients, for small groups of points.

AUROC is the mean over positives of the share of negatives with a lower score, ties counted half. Only the order of negatives against the
distinct scores of positives matters, so a draw needs the weight of negatives between these scores and no sorting.
"""

from __future__ import annotations

import numpy as np

from clinjepa.evaluation.metrics import Ranking

_MOST_CELLS = 8_000_000
"""Patients times distinct positive scores up to which the weights are one matrix; above it `Ranking` needs less memory."""


def auroc_draws(label_N: np.ndarray, score_N: np.ndarray, counts_RP: np.ndarray, index_N: np.ndarray) -> np.ndarray:
    """AUROC in each row of `counts_RP` [R]; NaN where a class is missing. Equal to `Ranking.over_draws` up to rounding.

    Args:
        label_N: Labels, 0 or 1.
        score_N: Finite scores.
        counts_RP: How often each patient is drawn in each resampling.
        index_N: Patient of each point, a column of `counts_RP`.
    """
    present, index_N = np.unique(index_N, return_inverse=True)
    counts_RP = counts_RP[:, present]
    is_positive_N = label_N == 1
    levels_K, level_N = np.unique(score_N[is_positive_N], return_inverse=True)
    num, num_patients = len(levels_K), len(present)
    if num == 0 or num_patients * (num + 1) > _MOST_CELLS:
        return Ranking(label_N, score_N).over_draws("auroc", counts_RP, index_N)
    positive_PK = np.bincount(index_N[is_positive_N] * num + level_N, minlength=num_patients * num).reshape(num_patients, num)
    negative, patient_N = score_N[~is_positive_N], index_N[~is_positive_N] * (num + 1)
    below_PK = sum(
        0.5 * np.bincount(patient_N + np.searchsorted(levels_K, negative, side=side), minlength=num_patients * (num + 1))
        for side in ("left", "right")
    )
    below_RK = np.cumsum(counts_RP @ np.reshape(below_PK, (num_patients, num + 1)), axis=1)
    positive_RK = counts_RP @ positive_PK
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((positive_RK * below_RK[:, :-1]).sum(1) / (positive_RK.sum(1) * below_RK[:, -1]))
