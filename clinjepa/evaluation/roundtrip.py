"""Round trip: are the numbers that an hour's text says still in its latent? Linear R² per variable, fitted on train.

A last-token latent may drop the values it was made from, and nothing downstream can restore them, so this belongs beside every
result. Targets are the grid's hourly values of the variables that appear in state texts, extremes cut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import scipy.linalg

from clinjepa.evaluation.hour_grid import grid_variables, parts_of, read_grid
from clinjepa.evaluation.metrics import figure, patient_draws, patient_index, sums_by_patient, unknown
from clinjepa.evaluation.probes import Standardiser
from clinjepa.evaluation.space import Latents, gather_hours, sample_hours
from clinjepa.storage import Folder

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties per row that tuning chooses from, on standardised latents."""
MIN_TRAIN_HOURS, MIN_SCORED_HOURS, MIN_PATIENTS = 200, 50, 5
CLIPPED_PERCENTILES = (1.0, 99.0)
"""Targets are cut at these percentiles of training hours: one enzyme in the thousands would otherwise decide its variable's R²."""
_SHARES = {"train": 0.6, "tuning": 0.2, "scored": 0.2}


def evaluate_roundtrip(
    latents: Latents,
    ingest: Folder,
    stays: pa.Table,
    num_hours: int,
    *,
    split: str = "held_out",
    num_bootstrap: int = 200,
    seed: int = 0,
) -> dict[str, Any]:
    """{"r2": mean over variables, "variables": {name: R² | null}, "figures": {name: {"r2", "num_train", "num_scored"}}, "num_hours"}.

    stays: ingest `stays.parquet`. About `num_hours` state texts are used: 60 % to fit, 20 % of tuning to choose the ridge, 20 % of
    `split` to score. R² is 1 − squared error over squared deviation from the scored mean; the intervals resample patients.
    """
    names = [variable.name for variable in grid_variables("state", kinds=("numeric", "rate"))]
    sampled = {}
    for role, share in _SHARES.items():
        source = split if role == "scored" else role
        hours = sample_hours(stays, source, max(1, round(num_hours * share)), seed)
        sampled[role] = (gather_hours(latents, hours), _targets(ingest, stays, hours, names), _subjects(stays, hours))
    counts_RP, index_N = None, np.zeros(0, dtype=np.int64)
    subjects_N = sampled["scored"][2]
    if len(subjects_N):
        index_N, num_patients = patient_index(subjects_N)
        counts_RP = patient_draws(num_patients, num_bootstrap, seed)
    figures: dict[str, Any] = {}
    draws = []
    for column, name in enumerate(names):
        known = {role: np.isfinite(targets_NV[:, column]) for role, (_, targets_NV, _) in sampled.items()}
        num_train, num_scored = int(known["train"].sum()), int(known["scored"].sum())
        if num_train == 0 and num_scored == 0:
            continue
        counted = {"num_train": num_train, "num_scored": num_scored}
        few = len(np.unique(subjects_N[known["scored"]])) < MIN_PATIENTS
        if counts_RP is None or few or num_train < MIN_TRAIN_HOURS or num_scored < MIN_SCORED_HOURS or not known["tuning"].any():
            reason = f"{num_train} hours to fit and {num_scored} to score; {MIN_TRAIN_HOURS} and {MIN_SCORED_HOURS} are needed"
            figures[name] = {**unknown(["r2"], f"{reason}, from {MIN_PATIENTS} patients"), **counted}
            continue
        rows = {role: (z_ND[known[role]], targets_NV[known[role], column]) for role, (z_ND, targets_NV, _) in sampled.items()}
        bounds = np.percentile(rows["train"][1], CLIPPED_PERCENTILES)
        rows = {role: (z_ND, np.clip(y_N, *bounds)) for role, (z_ND, y_N) in rows.items()}
        predicted_N = _ridge(*rows["train"], *rows["tuning"], rows["scored"][0])
        value, draws_R = _r2(rows["scored"][1], predicted_N, index_N[known["scored"]], counts_RP)
        if not np.isfinite(value):
            figures[name] = {**unknown(["r2"], "the scored values do not vary"), **counted}
            continue
        draws.append(draws_R)
        figures[name] = {"r2": figure(value, draws_R, len(np.unique(subjects_N[known["scored"]]))), **counted}
    total = {role: len(z_ND) for role, (z_ND, _, _) in sampled.items()}
    values = {name: one["r2"]["value"] if one["r2"] is not None else None for name, one in figures.items()}
    result = {"variables": values, "figures": figures, "num_hours": sum(total.values())}
    estimated = [value for value in values.values() if value is not None]
    if not estimated:
        return {**unknown(["r2"], f"no variable has enough hours ({total['train']} to fit, {total['scored']} to score in all)"), **result}
    mean_R = np.nanmean(np.stack(draws), axis=0)
    return {"r2": figure(float(np.mean(estimated)), mean_R, len(np.unique(subjects_N))), **result}


def _ridge(x_ND: np.ndarray, y_N: np.ndarray, tuning_ND: np.ndarray, tuning_N: np.ndarray, scored_ND: np.ndarray) -> np.ndarray:
    """Predictions of ridge regression in the units of y, with the penalty that is best on tuning."""
    standardise = Standardiser.fit(x_ND)
    x_ND, tuning_ND, scored_ND = (standardise(part).astype(np.float64) for part in (x_ND, tuning_ND, scored_ND))
    y_mean = y_N.mean(dtype=np.float64)
    gram_DD, moment_D = x_ND.T @ x_ND, x_ND.T @ (y_N - y_mean)
    best_loss, best_N = np.inf, np.full(len(scored_ND), y_mean)
    for penalty in RIDGES:
        weights_D = scipy.linalg.solve(gram_DD + penalty * len(x_ND) * np.eye(len(gram_DD)), moment_D, assume_a="pos")
        loss = float(np.mean((tuning_ND @ weights_D + y_mean - tuning_N) ** 2))
        if loss < best_loss:
            best_loss, best_N = loss, scored_ND @ weights_D + y_mean
    return best_N


def _r2(y_N: np.ndarray, predicted_N: np.ndarray, index_N: np.ndarray, counts_RP: np.ndarray) -> tuple[float, np.ndarray]:
    """R² and its bootstrap draws; the mean that it is compared with is that of the drawn patients."""
    error_N = (y_N - predicted_N).astype(np.float64) ** 2
    y_N = y_N.astype(np.float64) - y_N.mean(dtype=np.float64)
    parts = (error_N, y_N, y_N**2, np.ones(len(y_N)))
    sums_PX = np.stack([sums_by_patient(part_N, index_N, counts_RP.shape[1]) for part_N in parts], axis=1)
    error_R, sum_R, square_R, number_R = (np.concatenate([np.ones((1, len(sums_PX))), counts_RP]) @ sums_PX).T
    with np.errstate(divide="ignore", invalid="ignore"):
        r2_R = 1.0 - error_R / (square_R - sum_R**2 / number_R)
    return float(r2_R[0]), r2_R[1:]


def _targets(ingest: Folder, stays: pa.Table, hours: list[tuple[int, np.ndarray]], names: list[str]) -> np.ndarray:
    """Grid values [N, V] of sampled hours, NaN where not observed."""
    lengths = [len(hours_n) for _, hours_n in hours]
    stay_N = np.repeat(np.array([stay_id for stay_id, _ in hours], dtype=np.int64), lengths)
    hour_N = np.concatenate([hours_n for _, hours_n in hours]) if hours else np.zeros(0, dtype=np.int64)
    targets_NV = np.full((len(stay_N), len(names)), np.nan, dtype=np.float32)
    for part, stay_ids in parts_of(stays).items():
        rows_N = np.flatnonzero(np.isin(stay_N, stay_ids))
        if len(rows_N):
            grid = read_grid(ingest, part, names)
            at_N = grid.rows(stay_N[rows_N], hour_N[rows_N])
            for column, name in enumerate(names):
                if name in grid.values:
                    targets_NV[rows_N, column] = grid.values[name][at_N]
    return targets_NV


def _subjects(stays: pa.Table, hours: list[tuple[int, np.ndarray]]) -> np.ndarray:
    subject = dict(zip(stays["stay_id"].to_pylist(), stays["subject_id"].to_pylist(), strict=True))
    return np.repeat(np.array([subject[stay_id] for stay_id, _ in hours], dtype=np.int64), [len(hours_n) for _, hours_n in hours])
