"""Gradient boosting on the features of a point (LightGBM).

Defaults: Clin-JEPA's released baseline (300 trees, rate 0.05, 31 leaves, depth 5, at least 500 rows in a leaf, early stop after 20 rounds),
with smaller leaves for small data. The space follows YAIB (rvandewater/YAIB, LGBMClassifier.gin) and HiRID-ICU-Benchmark, with smaller
trees for small data.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from clinjepa.evaluation.baselines.protocol import Baseline, Choice, LogUniform, Predictions, Problem, Settings, Uniform

MIN_DATA_IN_LEAF = 500
"""Of the released baseline."""


def fit(problem: Problem, settings: Settings, splits: Sequence[str], seed: int) -> Predictions:
    """Log-odds or numbers from trees fitted on train and stopped early on tuning (log-loss or squared error).

    Deterministic for a seed, whatever the setting `num_threads` (1 where it is not given).
    """
    import lightgbm

    x_PF = problem.tabular().x_NF
    train, tuning = (problem.rows(x_PF, name) for name in ("train", "tuning"))
    own = {"min_data_in_leaf": min(MIN_DATA_IN_LEAF, max(5, len(train.y_N) // 100)), **settings}
    num_trees, early_stop = int(own.pop("num_trees")), int(own.pop("early_stop"))
    num_threads = int(own.pop("num_threads", 1))
    fixed = {
        "objective": "binary" if problem.only.task.is_classification else "regression",
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": num_threads,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(train.x_NF, train.y_N, free_raw_data=True)
    booster = lightgbm.train(
        own | fixed,
        data,
        num_boost_round=num_trees,
        valid_sets=[lightgbm.Dataset(tuning.x_NF, tuning.y_N, reference=data)],
        callbacks=[lightgbm.early_stopping(early_stop, verbose=False)],
    )
    best = booster.best_iteration
    found = {split: booster.predict(problem.rows(x_PF, split).x_NF, num_iteration=best, raw_score=True) for split in splits}
    return {problem.only.task.name: {split: np.asarray(scores_N, dtype=np.float64) for split, scores_N in found.items()}}


BASELINE = Baseline(
    fit,
    docs="Gradient boosting on the features of a point; defaults of Clin-JEPA's released baseline.",
    defaults={"learning_rate": 0.05, "num_leaves": 31, "max_depth": 5, "num_trees": 300, "early_stop": 20},
    space={
        "learning_rate": LogUniform(0.02, 0.06),
        "num_leaves": LogUniform(4, 64, whole=True),
        "max_depth": Choice((-1,)),
        "min_data_in_leaf": LogUniform(10, 300, whole=True),
        "feature_fraction": LogUniform(0.05, 0.5),
        "bagging_fraction": Uniform(0.5, 1.0),
        "bagging_freq": Choice((1,)),
        "lambda_l2": LogUniform(1, 100),
        "max_bin": Choice((63,)),
        "num_trees": Choice((800,)),
        "early_stop": Choice((40,)),
    },
)
