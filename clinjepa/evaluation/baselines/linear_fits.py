"""Linear models on features of a point, as several baselines fit them.

Features are standardised by the training points; a missing value becomes the training mean. The features hold masks and counts beside it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.baselines.protocol import Predictions, Problem
from clinjepa.evaluation.downstream.probe_rows import Rows, Standardiser
from clinjepa.evaluation.downstream.probes import probe_scores

_CUT = 5.0
"""Standard deviations at which a feature is cut."""


def filled(problem: Problem, x_PF: np.ndarray, splits: Sequence[str]) -> dict[str, Rows]:
    """split -> rows of the only task, standardised and without gaps; those of `train` too.

    Args:
        problem: One task.
        x_PF: Features of the inputs' points; NaN = missing.
        splits: Splits beside `train`.
    """
    parts = {split: problem.rows(x_PF, split) for split in dict.fromkeys(["train", *splits])}
    train_NF = parts["train"].x_NF
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a feature that no training point has
        mean_F = np.nan_to_num(np.nanmean(train_NF, axis=0, dtype=np.float64)).astype(np.float32)
    gapless = {split: np.where(np.isfinite(part.x_NF), part.x_NF, mean_F) for split, part in parts.items()}
    standardise = Standardiser.fit(gapless["train"])
    return {split: Rows(np.clip(standardise(gapless[split]), -_CUT, _CUT), part.y_N, part.subject_N) for split, part in parts.items()}


def few_features(problem: Problem, x_PF: np.ndarray, splits: Sequence[str], seed: int) -> Predictions:
    """Predictions from few features without gaps: the linear probe's log-odds, or least squares for a regression task.

    The probe's strength of regularisation is chosen on the tuning points.
    """
    one = problem.only
    train, tuning = problem.rows(x_PF, "train"), problem.rows(x_PF, "tuning")
    wanted = [problem.rows(x_PF, split).x_NF for split in splits]
    if one.task.is_classification:
        found_N = probe_scores("linear", train, tuning, np.concatenate(wanted), ProbeConfig(), seed)
    else:
        with_one = [np.concatenate([part, np.ones((len(part), 1))], axis=1) for part in (train.x_NF, np.concatenate(wanted))]
        found_N = with_one[1] @ np.linalg.lstsq(with_one[0], train.y_N, rcond=None)[0]
    ends = np.cumsum([len(part) for part in wanted])[:-1]
    return {one.task.name: dict(zip(splits, np.split(found_N, ends), strict=True))}
