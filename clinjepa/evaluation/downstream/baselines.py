"""Controls that need no latent: gradient boosting on hand-made features, and the hours in the ICU alone.

Prediction points, patients and splits are those of the probes. LightGBM settings: Clin-JEPA's released baseline (300 trees, rate 0.05,
31 leaves, depth 5, at least 500 rows in a leaf, early stop after 20 rounds), with smaller leaves for small data.
"""

from __future__ import annotations

from collections.abc import Sequence

import lightgbm
import numpy as np
import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.config.schema import DownstreamConfig
from clinjepa.evaluation.downstream.prediction_points import Points, TaskTables, null_cell, prediction_points, score_cell, union, why_not
from clinjepa.evaluation.downstream.probes import Rows, probe_scores
from clinjepa.evaluation.downstream.tabular_features import FeatureTable, tabular_features
from clinjepa.evaluation.predictions import KeptPredictions
from clinjepa.storage import Folder

NUM_TREES, EARLY_STOP, MIN_DATA_IN_LEAF = 300, 20, 500
COLUMN = "history_only"


def evaluate_baselines(
    ingest: Folder,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
) -> TaskTables:
    """The tables of `score_baselines`, whose arguments these are."""
    return score_baselines(ingest, labels, stays, tasks, settings, split=split, seed=seed)[0]


def score_baselines(
    ingest: Folder,
    labels: pa.Table,
    stays: pa.Table,
    tasks: Sequence[Task],
    settings: DownstreamConfig,
    *,
    split: str = "held_out",
    seed: int = 0,
) -> tuple[TaskTables, pa.Table]:
    """The tables, and the predictions behind them (`clinjepa.evaluation.predictions`).

    The tables are {task: {method: {"history_only": cell}}} of the tasks with 0/1 labels, with the cells of `evaluate_downstream`.

    The methods are `lightgbm` and, for hourly tasks, `hours_in_icu`.

    Args:
        ingest: Ingest artifact; its hour grid is read.
        labels: Label table with stay_id, task, hour, label.
        stays: The ingest's `stays.parquet`.
        tasks: Tasks to evaluate; those without 0/1 labels are left out.
        settings: Prediction points, probes and bootstrap.
        split: The split that is scored.
        seed: Seed of the trees, the probe and the bootstrap.
    """
    used = ["train", "tuning", split]
    tasks = [task for task in tasks if task.is_classification]
    points = {task.name: prediction_points(labels, stays, task, settings) for task in tasks}
    reasons = {name: why_not(own, split, settings.min_positives) for name, own in points.items()}
    estimable = [name for name, reason in reasons.items() if reason is None]
    rows: dict[str, tuple[Points, np.ndarray]] = {}
    if estimable:
        stay_N, hour_N, found = union([points[name].where(np.isin(points[name].split_N, used)) for name in estimable])
        features = tabular_features(ingest, stays, stay_N, hour_N)
        rows = dict(zip(estimable, found, strict=True))
    result: TaskTables = {}
    kept = KeptPredictions()
    for task in tasks:
        scored = points[task.name].of(split)
        methods = ["lightgbm"] + (["hours_in_icu"] if task.is_hourly else [])
        reason = reasons[task.name]
        if reason is not None:
            result[task.name] = {method: {COLUMN: null_cell(scored, reason)} for method in methods}
            continue
        own, rows_N = rows[task.name]
        scores = {"lightgbm": lightgbm_scores(FeatureTable(features.x_NF[rows_N], features.names), own, split, seed)}
        if "hours_in_icu" in methods:
            hours_N2 = np.stack([own.hour_N + 1, np.log1p(own.hour_N)], axis=1).astype(np.float32)
            parts = {name: _rows(own, hours_N2, name) for name in used}
            scores["hours_in_icu"] = probe_scores("linear", parts["train"], parts["tuning"], parts[split].x_NF, settings.probe, seed)
        for method in methods:
            kept.add(task.name, method, COLUMN, scored, scores[method])
        result[task.name] = {method: {COLUMN: score_cell(scored, scores[method], settings.num_bootstrap, seed)} for method in methods}
    return result, kept.table()


def lightgbm_scores(features: FeatureTable, points: Points, split: str, seed: int) -> np.ndarray:
    """Log-odds of the points of `split` from trees fitted on train and stopped early on tuning (log-loss).

    Deterministic: one thread and a fixed seed.

    Args:
        features: Features of all points, in the order of `points`.
        points: Points of train, tuning and `split`.
        split: The split whose points are scored.
        seed: Seed of LightGBM.
    """
    train, tuning = (_rows(points, features.x_NF, name) for name in ("train", "tuning"))
    settings = {
        "objective": "binary",
        "learning_rate": 0.05,
        "num_leaves": 31,
        "max_depth": 5,
        "min_data_in_leaf": min(MIN_DATA_IN_LEAF, max(5, len(train.y_N) // 100)),
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(train.x_NF, train.y_N, free_raw_data=True)
    booster = lightgbm.train(
        settings,
        data,
        num_boost_round=NUM_TREES,
        valid_sets=[lightgbm.Dataset(tuning.x_NF, tuning.y_N, reference=data)],
        callbacks=[lightgbm.early_stopping(EARLY_STOP, verbose=False)],
    )
    scores_N = booster.predict(_rows(points, features.x_NF, split).x_NF, num_iteration=booster.best_iteration, raw_score=True)
    return np.asarray(scores_N, dtype=np.float64)


def _rows(points: Points, x_NF: np.ndarray, split: str) -> Rows:
    mask_N = points.split_N == split
    return Rows(x_NF[mask_N], points.label_N[mask_N], points.subject_N[mask_N])
