"""Round trip: linear R², per variable, of the values in an hour's text from the latent of that text, fitted on train.

A last-token latent may lose the values of its text, and nothing downstream can restore them. Targets are the grid's hourly values of the
variables in state texts, with extremes clipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import scipy.linalg

from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.metrics import patient_draws, patient_index, sums_by_patient
from clinjepa.evaluation.space import Latents, gather_hours, sample_hours
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import grid_variables, parts_of, read_grid

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties per row that tuning chooses from, on standardised latents."""
MIN_TRAIN_HOURS, MIN_SCORED_HOURS, MIN_PATIENTS = 200, 50, 5
CLIPPED_PERCENTILES = (1.0, 99.0)
"""Targets are clipped at these percentiles of the training hours. Otherwise a single extreme enzyme value decides a variable's R²."""
_SHARES = {"train": 0.6, "tuning": 0.2, "scored": 0.2}


class VariableR2(TypedDict):
    """R² of one variable and the hours that have a value of it."""

    r2: Figure | None
    reason: NotRequired[str]
    num_train: int
    num_scored: int


class Roundtrip(TypedDict):
    """Mean R² over the variables that have one, and the R² of each."""

    r2: Figure | None
    reason: NotRequired[str]
    variables: dict[str, float | None]
    figures: dict[str, VariableR2]
    num_hours: int
    """State texts used in all."""


class _Sample(NamedTuple):
    """Hours drawn for one role: latents [N, D], grid values [N, V] (NaN where not observed), patients [N]."""

    z_ND: np.ndarray
    targets_NV: np.ndarray
    subject_N: np.ndarray


def evaluate_roundtrip(
    latents: Latents,
    ingest: Folder,
    stays: pa.Table,
    num_hours: int,
    *,
    split: str = "held_out",
    num_bootstrap: int = 200,
    seed: int = 0,
) -> Roundtrip:
    """Linear R² of each variable's hourly value from the latent of its state text.

    R² is 1 − squared error over squared deviation from the scored mean; its interval resamples patients.

    Args:
        latents: Latents of the stays.
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`.
        num_hours: State texts used: 60 % to fit, 20 % of tuning to choose the ridge penalty, 20 % of `split` to score.
        split: The split that is scored.
        num_bootstrap: Number of resamplings of the patients.
        seed: Seed of the drawn hours and of the resamplings.
    """
    names = [variable.name for variable in grid_variables("state", kinds=("numeric", "rate"))]
    sampled = {}
    for role, share in _SHARES.items():
        hours = sample_hours(stays, split if role == "scored" else role, max(1, round(num_hours * share)), seed)
        sampled[role] = _Sample(gather_hours(latents, hours), _targets(ingest, stays, hours, names), _subjects(stays, hours))
    subject_N = sampled["scored"].subject_N
    counts_RP, index_N = np.zeros((0, 0)), np.zeros(0, dtype=np.int64)
    if len(subject_N):
        index_N, num_patients = patient_index(subject_N)
        counts_RP = patient_draws(num_patients, num_bootstrap, seed)
    figures: dict[str, VariableR2] = {}
    draws = []
    for column, name in enumerate(names):
        found = _variable_r2(sampled, column, index_N, counts_RP)
        if found is not None:
            figures[name], draws_R = found
            draws.append(draws_R)
    total = {role: len(sample.z_ND) for role, sample in sampled.items()}
    values = {name: one["r2"]["value"] if one["r2"] is not None else None for name, one in figures.items()}
    estimated = [value for value in values.values() if value is not None]
    if not estimated:
        reason = f"no variable has enough hours ({total['train']} to fit, {total['scored']} to score in all)"
        return {"r2": None, "reason": reason, "variables": values, "figures": figures, "num_hours": sum(total.values())}
    mean_R = np.nanmean(np.stack([draws_R for draws_R in draws if draws_R is not None]), axis=0)
    mean = figure(float(np.mean(estimated)), mean_R, len(np.unique(subject_N)))
    return {"r2": mean, "variables": values, "figures": figures, "num_hours": sum(total.values())}


def _variable_r2(
    sampled: Mapping[str, _Sample], column: int, index_N: np.ndarray, counts_RP: np.ndarray
) -> tuple[VariableR2, np.ndarray | None] | None:
    """R² of the variable in `column` and its draws [R]; None where no hour to fit or to score has a value."""
    known = {role: np.isfinite(sample.targets_NV[:, column]) for role, sample in sampled.items()}
    num_train, num_scored = int(known["train"].sum()), int(known["scored"].sum())
    if num_train == 0 and num_scored == 0:
        return None

    def unknown(reason: str) -> tuple[VariableR2, None]:
        return {"r2": None, "reason": reason, "num_train": num_train, "num_scored": num_scored}, None

    num_patients = len(np.unique(sampled["scored"].subject_N[known["scored"]]))
    if num_patients < MIN_PATIENTS or num_train < MIN_TRAIN_HOURS or num_scored < MIN_SCORED_HOURS or not known["tuning"].any():
        reason = f"{num_train} hours to fit and {num_scored} to score; {MIN_TRAIN_HOURS} and {MIN_SCORED_HOURS} are needed"
        return unknown(f"{reason}, from {MIN_PATIENTS} patients")
    rows = {role: (sample.z_ND[known[role]], sample.targets_NV[known[role], column]) for role, sample in sampled.items()}
    bounds = np.percentile(rows["train"][1], CLIPPED_PERCENTILES)
    rows = {role: (z_ND, np.clip(y_N, *bounds)) for role, (z_ND, y_N) in rows.items()}
    predicted_N = _ridge(*rows["train"], *rows["tuning"], rows["scored"][0])
    value, draws_R = _r2(rows["scored"][1], predicted_N, index_N[known["scored"]], counts_RP)
    if not np.isfinite(value):
        return unknown("the scored values do not vary")
    return {"r2": figure(value, draws_R, num_patients), "num_train": num_train, "num_scored": num_scored}, draws_R


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
    """R² and its bootstrap draws [R]; each draw is compared with the mean of its drawn patients."""
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
