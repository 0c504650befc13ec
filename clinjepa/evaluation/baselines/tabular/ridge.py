"""Ridge regression on all features of a point, for tasks whose label is a number (scikit-learn)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.evaluation.baselines.linear_fits import filled
from clinjepa.evaluation.baselines.protocol import Baseline, LogUniform, Predictions, Problem, Settings, regression


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """Numbers in the label's unit; `penalty` is per training point."""
    from sklearn.linear_model import Ridge

    parts = filled(problem, problem.tabular().x_NF, splits)
    train = parts["train"]
    model = Ridge(alpha=float(settings["penalty"]) * len(train.y_N), random_state=seed).fit(train.x_NF.astype(np.float64), train.y_N)
    return {problem.only.task.name: {split: model.predict(parts[split].x_NF) for split in splits}}


BASELINE = Baseline(
    fit,
    docs="Ridge regression on the features of a point, for labels that are numbers; the penalty is tuned.",
    defaults={"penalty": 0.1},
    space={"penalty": LogUniform(1e-4, 30.0)},
    answers=regression,
)
