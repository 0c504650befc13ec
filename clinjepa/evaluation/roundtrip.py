"""Round trip: linear R², per variable, of the values in an hour's text from the latent of that text, fitted on train.

A last-token latent may lose the values of its text, and nothing downstream can restore them. Targets are the grid's hourly values of the
variables in state texts, with extremes clipped. What is fitted is a `RoundtripFit`; a kept one is applied without training data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import scipy.linalg

from clinjepa.evaluation.downstream.probe_rows import Standardiser
from clinjepa.evaluation.figures import Figure, figure
from clinjepa.evaluation.fitted_files import check_latents, encoder_of, misfit, packed, unpacked, write_files
from clinjepa.evaluation.metrics import patient_draws, patient_index, sums_by_patient
from clinjepa.evaluation.space import Latents, gather_hours, sample_hours
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import grid_variables, parts_of, read_grid

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge penalties per row that tuning chooses from, on standardised latents."""
MIN_TRAIN_HOURS, MIN_SCORED_HOURS, MIN_PATIENTS = 200, 50, 5
CLIPPED_PERCENTILES = (1.0, 99.0)
"""Targets are clipped at these percentiles of the training hours. Otherwise a single extreme enzyme value decides a variable's R²."""
SCHEMA_VERSION = 1
NAME = "roundtrip"
NUM_BOOTSTRAP = 200
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


@dataclass(frozen=True)
class RoundtripFit:
    """Ridge regressions of V variables on latents of width D, standardised by variable. A variable that could not be fitted
    has the bias NaN, and 0 elsewhere."""

    names: list[str]
    num_train_V: np.ndarray
    """Training hours with a value of each variable."""
    num_hours: dict[str, int]
    """Hours of train and tuning that were drawn."""
    bounds_V2: np.ndarray
    """Percentiles at which values are clipped, in the variable's unit."""
    mean_VD: np.ndarray
    scale_VD: np.ndarray
    weights_VD: np.ndarray
    bias_V: np.ndarray
    encoder_digest: str | None = None
    """Content digest of the encoder of the latents; None where they did not tell."""

    def predict(self, column: int, z_ND: np.ndarray) -> np.ndarray:
        """Values [N] of a variable from latents [N, D], in its unit."""
        x_ND = Standardiser(self.mean_VD[column], self.scale_VD[column])(z_ND).astype(np.float64)
        return np.asarray(x_ND @ self.weights_VD[column] + self.bias_V[column])

    def files(self) -> dict[str, bytes]:
        """Content of `roundtrip.safetensors` (the arrays by their names here) and `roundtrip.json` (`variables`, `num_hours`,
        `encoder_digest`) by file name."""
        described = {"variables": self.names, "num_hours": self.num_hours, "encoder_digest": self.encoder_digest}
        return packed(NAME, SCHEMA_VERSION, described, {key: getattr(self, key) for key in _ARRAYS})

    def write(self, folder: Folder) -> None:
        """Write `roundtrip.safetensors`, then `roundtrip.json`."""
        write_files(folder, self.files())

    @classmethod
    def read(cls, folder: Folder | str | os.PathLike[str]) -> RoundtripFit:
        """The fit that `write` wrote. Raises StoreError where a file is missing, truncated, altered or of another version."""
        found = unpacked(folder, NAME, SCHEMA_VERSION)
        try:
            arrays = {key: found.tensors[key] for key in _ARRAYS}
            names, drawn = list(found.described["variables"]), found.described["num_hours"]
            hours = {role: int(drawn[role]) for role in ("train", "tuning")}
        except (KeyError, TypeError, ValueError):
            raise misfit(found.where) from None
        shape = (len(names), arrays["mean_VD"].shape[-1])
        wanted = {"bounds_V2": (len(names), 2), "num_train_V": shape[:1], "bias_V": shape[:1]}
        if any(part.shape != wanted.get(key, shape) for key, part in arrays.items()):
            raise misfit(found.where)
        return cls(names, num_hours=hours, encoder_digest=found.described.get("encoder_digest"), **arrays)


_ARRAYS = ("num_train_V", "bounds_V2", "mean_VD", "scale_VD", "weights_VD", "bias_V")


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
    seed: int = 0,
    fitted: RoundtripFit | None = None,
) -> Roundtrip:
    """Linear R² of each variable's hourly value from the latent of its state text.

    R² is 1 − squared error over squared deviation from the scored mean; its interval resamples patients NUM_BOOTSTRAP times.

    Args:
        latents: Latents of the stays.
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`.
        num_hours: State texts used: 60 % to fit, 20 % of tuning to choose the ridge penalty, 20 % of `split` to score.
        split: The split that is scored.
        seed: Seed of the drawn hours and of the resamplings.
        fitted: Regressions of an earlier evaluation; then only stays of `split` are read. None: they are fitted (`fit_roundtrip`).

    Raises:
        EvaluationError: `fitted` is of latents of another width or encoder.
    """
    if fitted is None:
        fitted = fit_roundtrip(latents, ingest, stays, num_hours, seed=seed)
    check_latents("the round trip", fitted.mean_VD.shape[1], fitted.encoder_digest, latents)
    scored = _sample(latents, ingest, stays, fitted.names, split, _share("scored", num_hours), seed)
    counts_RP, index_N = np.zeros((0, 0)), np.zeros(0, dtype=np.int64)
    if len(scored.subject_N):
        index_N, num_patients = patient_index(scored.subject_N)
        counts_RP = patient_draws(num_patients, NUM_BOOTSTRAP, seed)
    figures: dict[str, VariableR2] = {}
    draws = []
    for column, name in enumerate(fitted.names):
        found = _variable_r2(fitted, scored, column, index_N, counts_RP)
        if found is not None:
            figures[name], draws_R = found
            draws.append(draws_R)
    total = {**fitted.num_hours, "scored": len(scored.z_ND)}
    values = {name: one["r2"]["value"] if one["r2"] is not None else None for name, one in figures.items()}
    estimated = [value for value in values.values() if value is not None]
    if not estimated:
        reason = f"no variable has enough hours ({total['train']} to fit, {total['scored']} to score in all)"
        return {"r2": None, "reason": reason, "variables": values, "figures": figures, "num_hours": sum(total.values())}
    mean_R = np.nanmean(np.stack([draws_R for draws_R in draws if draws_R is not None]), axis=0)
    mean = figure(float(np.mean(estimated)), mean_R, len(np.unique(scored.subject_N)))
    return {"r2": mean, "variables": values, "figures": figures, "num_hours": sum(total.values())}


def fit_roundtrip(latents: Latents, ingest: Folder, stays: pa.Table, num_hours: int, *, seed: int = 0) -> RoundtripFit:
    """The regressions of all variables in state texts; arguments as those of `evaluate_roundtrip`."""
    names = [variable.name for variable in grid_variables("state", kinds=("numeric", "rate"))]
    train, tuning = (_sample(latents, ingest, stays, names, role, _share(role, num_hours), seed) for role in ("train", "tuning"))
    shape = (len(names), latents.dim)
    found = RoundtripFit(
        names,
        np.isfinite(train.targets_NV).sum(0),
        {"train": len(train.z_ND), "tuning": len(tuning.z_ND)},
        np.zeros((len(names), 2)),
        np.zeros(shape, dtype=np.float32),
        np.zeros(shape, dtype=np.float32),
        np.zeros(shape),
        np.full(len(names), np.nan),
        encoder_of(latents),
    )
    for column in range(len(names)):
        _fit_variable(found, column, train, tuning)
    return found


def _share(role: str, num_hours: int) -> int:
    return max(1, round(num_hours * _SHARES[role]))


def _sample(latents: Latents, ingest: Folder, stays: pa.Table, names: list[str], split: str, number: int, seed: int) -> _Sample:
    hours = sample_hours(stays, split, number, seed)
    return _Sample(gather_hours(latents, hours), _targets(ingest, stays, hours, names), _subjects(stays, hours))


def _fit_variable(found: RoundtripFit, column: int, train: _Sample, tuning: _Sample) -> None:
    """Fill in the regression of one variable where train has enough hours of it and tuning has any."""
    known = [np.isfinite(sample.targets_NV[:, column]) for sample in (train, tuning)]
    if known[0].sum() < MIN_TRAIN_HOURS or not known[1].any():
        return
    bounds = np.percentile(train.targets_NV[known[0], column], CLIPPED_PERCENTILES)
    y_N, tuning_N = (np.clip(sample.targets_NV[of_N, column], *bounds) for sample, of_N in zip((train, tuning), known, strict=True))
    standardise = Standardiser.fit(train.z_ND[known[0]])
    x_ND, tuning_ND = (standardise(sample.z_ND[of_N]).astype(np.float64) for sample, of_N in zip((train, tuning), known, strict=True))
    found.bounds_V2[column], found.mean_VD[column], found.scale_VD[column] = bounds, standardise.mean_F, standardise.scale_F
    found.weights_VD[column], found.bias_V[column] = _ridge(x_ND, y_N, tuning_ND, tuning_N)


def _variable_r2(
    fitted: RoundtripFit, scored: _Sample, column: int, index_N: np.ndarray, counts_RP: np.ndarray
) -> tuple[VariableR2, np.ndarray | None] | None:
    """R² of the variable in `column` and its draws [R]; None where no hour to fit or to score has a value."""
    known_N = np.isfinite(scored.targets_NV[:, column])
    num_train, num_scored = int(fitted.num_train_V[column]), int(known_N.sum())
    if num_train == 0 and num_scored == 0:
        return None

    def unknown(reason: str) -> tuple[VariableR2, None]:
        return {"r2": None, "reason": reason, "num_train": num_train, "num_scored": num_scored}, None

    num_patients = len(np.unique(scored.subject_N[known_N]))
    if num_patients < MIN_PATIENTS or num_scored < MIN_SCORED_HOURS or not np.isfinite(fitted.bias_V[column]):
        reason = f"{num_train} hours to fit and {num_scored} to score; {MIN_TRAIN_HOURS} and {MIN_SCORED_HOURS} are needed"
        return unknown(f"{reason}, from {MIN_PATIENTS} patients")
    y_N = np.clip(scored.targets_NV[known_N, column], *fitted.bounds_V2[column])
    value, draws_R = _r2(y_N, fitted.predict(column, scored.z_ND[known_N]), index_N[known_N], counts_RP)
    if not np.isfinite(value):
        return unknown("the scored values do not vary")
    return {"r2": figure(value, draws_R, num_patients), "num_train": num_train, "num_scored": num_scored}, draws_R


def _ridge(x_ND: np.ndarray, y_N: np.ndarray, tuning_ND: np.ndarray, tuning_N: np.ndarray) -> tuple[np.ndarray, float]:
    """(weights [D], bias) on standardised latents in the units of y, with the penalty that is best on tuning."""
    y_mean = y_N.mean(dtype=np.float64)
    gram_DD, moment_D = x_ND.T @ x_ND, x_ND.T @ (y_N - y_mean)
    best_loss, best_D = np.inf, np.zeros(x_ND.shape[1])
    for penalty in RIDGES:
        weights_D = scipy.linalg.solve(gram_DD + penalty * len(x_ND) * np.eye(len(gram_DD)), moment_D, assume_a="pos")
        loss = float(np.mean((tuning_ND @ weights_D + y_mean - tuning_N) ** 2))
        if loss < best_loss:
            best_loss, best_D = loss, weights_D
    return best_D, float(y_mean)


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
