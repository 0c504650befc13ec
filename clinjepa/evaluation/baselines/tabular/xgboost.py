"""Gradient boosting on the features of a point (XGBoost, histograms).

The space follows YAIB (rvandewater/YAIB, XGBClassifier.gin): rate 0.01 to 0.1, depth from 3, without its weights of classes, which change
probabilities and not their order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.evaluation.baselines.protocol import Baseline, Choice, LogUniform, Predictions, Problem, Settings, Uniform


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """Log-odds or numbers from trees fitted on train and stopped early on tuning. One thread, fixed seed."""
    import xgboost

    x_PF, task = problem.tabular().x_NF, problem.only.task
    own = dict(settings)
    num_trees, early_stop = int(own.pop("num_trees")), int(own.pop("early_stop"))
    fixed = {
        "objective": "binary:logistic" if task.is_classification else "reg:squarederror",
        "tree_method": "hist",
        "nthread": 1,
        "seed": seed,
        "verbosity": 0,
    }
    train, tuning = (problem.rows(x_PF, name) for name in ("train", "tuning"))
    data = xgboost.QuantileDMatrix(train.x_NF, train.y_N, max_bin=int(own.get("max_bin", 256)), nthread=1)
    watched = xgboost.QuantileDMatrix(tuning.x_NF, tuning.y_N, ref=data, max_bin=int(own.get("max_bin", 256)), nthread=1)
    booster = xgboost.train(
        own | fixed, data, num_boost_round=num_trees, evals=[(watched, "tuning")], early_stopping_rounds=early_stop, verbose_eval=False
    )
    best = (0, booster.best_iteration + 1)
    wanted = {split: xgboost.DMatrix(problem.rows(x_PF, split).x_NF, nthread=1) for split in splits}
    found = {split: booster.predict(rows, output_margin=True, iteration_range=best) for split, rows in wanted.items()}
    return {task.name: {split: np.asarray(scores_N, dtype=np.float64) for split, scores_N in found.items()}}


BASELINE = Baseline(
    fit,
    docs="Gradient boosting on the features of a point, XGBoost's histograms.",
    defaults={"eta": 0.05, "max_depth": 5, "num_trees": 300, "early_stop": 20},
    space={
        "eta": LogUniform(0.02, 0.06),
        "max_depth": Choice((2, 3, 4, 5, 6)),
        "min_child_weight": LogUniform(1, 50),
        "subsample": Uniform(0.5, 1.0),
        "colsample_bytree": LogUniform(0.1, 0.8),
        "colsample_bynode": Uniform(0.2, 1.0),
        "reg_lambda": LogUniform(1, 100),
        "max_bin": Choice((64,)),
        "num_trees": Choice((800,)),
        "early_stop": Choice((40,)),
    },
)
