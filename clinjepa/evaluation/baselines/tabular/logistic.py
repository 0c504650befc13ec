"""Logistic regression with an L2 penalty on all features of a point (scikit-learn)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from clinjepa.evaluation.baselines.linear_fits import filled
from clinjepa.evaluation.baselines.protocol import Baseline, LogUniform, Predictions, Problem, Settings, classification


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """Log-odds; `strength` is the inverse of the penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    parts = filled(problem, problem.tabular().x_NF, splits)
    model = LogisticRegression(C=float(settings["strength"]), max_iter=200, tol=1e-3, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a weak penalty may stop at max_iter; tuning compares what comes out
        model.fit(parts["train"].x_NF, parts["train"].y_N)
    return {problem.only.task.name: {split: model.decision_function(parts[split].x_NF) for split in splits}}


BASELINE = Baseline(
    fit,
    docs="Logistic regression on the features of a point; the penalty is tuned.",
    defaults={"strength": 1e-3},
    space={"strength": LogUniform(1e-5, 1.0)},
    answers=classification,
)
