"""Hand-made features of the hourly grid at prediction points, for the baselines.

Per variable: last value carried forward, missing-now, hours since it was measured, and over the trailing 8 h and 24 h mean, minimum,
maximum, standard deviation, slope per hour and count; plus statics (height and weight
once they are charted) and the hour. Set after eth-mds/icu-features (8 h and
24 h windows). Hours after the prediction hour are never touched; what treatments lack is 0, what observations lack is NaN.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from clinjepa.sources.schema import TIMES_OF_STATICS
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import GridPart, grid_variables, parts_of, read_grid
from clinjepa.trajectory.hours.grid import HOUR_US

WINDOWS_HOURS = (8, 24)
_STATICS = ("age_years", "height_cm", "weight_kg")
_STATIC_CATEGORIES = ("sex", "admission_type", "care_unit")
_POINTS_AT_ONCE = 4096
GRID_KINDS = ("numeric", "indicator", "rate")
"""Kinds of variables whose grid column is a number."""


@dataclass(frozen=True)
class FeatureTable:
    """x_NF float32 (NaN = missing) and the F feature names."""

    x_NF: np.ndarray
    names: list[str]


def tabular_features(ingest: Folder, stays: pa.Table, stay_N: np.ndarray, hour_N: np.ndarray) -> FeatureTable:
    """Features of the points (stay_N, hour_N), in their order. stays: ingest `stays.parquet`, all splits.

    Which variables there are, and the codes of categories, come from the training split.
    """
    parts = parts_of(stays)
    numeric = [variable.name for variable in grid_variables("state", "action", kinds=GRID_KINDS)]
    treatments = {variable.name for variable in grid_variables("action", kinds=GRID_KINDS)}
    categories = [variable.name for variable in grid_variables("state", "action", kinds=("category",))]
    in_train = dict(zip(stays["stay_id"].to_pylist(), (split == "train" for split in stays["split"].to_pylist()), strict=True))
    present, levels = seen_in_training(ingest, parts, numeric, categories, in_train)
    blocks: list[tuple[np.ndarray, np.ndarray]] = []
    names: list[str] = []
    for part, stay_ids in parts.items():
        rows_N = np.flatnonzero(np.isin(stay_N, stay_ids))
        if not len(rows_N):
            continue
        grid = read_grid(ingest, part, [*present, *levels])
        for begin in range(0, len(rows_N), _POINTS_AT_ONCE):
            chunk_N = rows_N[begin : begin + _POINTS_AT_ONCE]
            at_N = grid.rows(stay_N[chunk_N], hour_N[chunk_N])
            x_NF, names = _numeric_features(grid, present, treatments, at_N)
            codes_NF = _category_features(grid, levels, at_N)
            blocks.append((chunk_N, np.concatenate([x_NF, codes_NF], axis=1)))
    static_NF, static_names = static_features(stays, stay_N, hour_N, in_train)
    grid_NF = np.full((len(stay_N), len(names) + len(levels)), np.nan, dtype=np.float32)
    for chunk_N, block in blocks:
        grid_NF[chunk_N] = block
    hour_N1 = (hour_N[:, None] + 1).astype(np.float32)
    return FeatureTable(np.concatenate([grid_NF, static_NF, hour_N1], axis=1), [*names, *levels, *static_names, "hours_in_icu"])


def seen_in_training(
    ingest: Folder, parts: dict[str, np.ndarray], numeric: list[str], categories: list[str], in_train: dict[int, bool]
) -> tuple[list[str], dict[str, dict[str, int]]]:
    """Numeric variables that a training stay has, and the codes of the category levels that training stays have."""
    seen: set[str] = set()
    levels: dict[str, set[str]] = {}
    for part in parts:
        grid = read_grid(ingest, part, [*numeric, *categories])
        lengths = np.diff([*grid.first_row.values(), len(grid.hour_R)])
        train_R = np.repeat([in_train.get(stay_id, False) for stay_id in grid.first_row], lengths)
        for name, values_R in grid.values.items():
            if name in categories:
                levels.setdefault(name, set()).update(value for value in values_R[train_R] if value is not None)
            elif np.isfinite(values_R[train_R]).any():
                seen.add(name)
    codes = {name: {level: code for code, level in enumerate(sorted(levels[name]))} for name in categories if levels.get(name)}
    return [name for name in numeric if name in seen], codes


def _numeric_features(grid: GridPart, present: list[str], treatments: set[str], at_N: np.ndarray) -> tuple[np.ndarray, list[str]]:
    columns_RV = np.stack([grid.values.get(name, np.full(len(grid.hour_R), np.nan, np.float32)) for name in present], axis=1)
    given_V = np.array([name in treatments for name in present])
    last_RV = last_observed(np.isfinite(columns_RV), grid.hour_R)
    columns_RV = np.where(given_V & ~np.isfinite(columns_RV), 0.0, columns_RV).astype(np.float32)
    last_NV = last_RV[at_N]
    known_NV = last_NV >= 0
    carried_NV = np.where(known_NV, np.take_along_axis(columns_RV, np.maximum(last_NV, 0), axis=0), np.nan)
    carried_NV = np.where(given_V, columns_RV[at_N], carried_NV)
    features = {
        "last": carried_NV,
        "missing_now": (last_NV != at_N[:, None]).astype(np.float32),
        "hours_since": np.where(known_NV, at_N[:, None] - last_NV, np.nan),
    }
    for hours in WINDOWS_HOURS:
        for name, values_NV in _window_statistics(columns_RV, grid.hour_R, at_N, hours).items():
            features[f"{name}_{hours}h"] = values_NV
    x_NF = np.stack(list(features.values()), axis=2).reshape(len(at_N), -1).astype(np.float32)
    return x_NF, [f"{variable}:{name}" for variable in present for name in features]


def last_observed(observed_RV: np.ndarray, hour_R: np.ndarray) -> np.ndarray:
    """Row of the latest observation up to each row within its stay, −1 where there is none."""
    rows_R1 = np.arange(len(hour_R))[:, None]
    last_RV = np.maximum.accumulate(np.where(observed_RV, rows_R1, -1), axis=0) if len(hour_R) else np.where(observed_RV, rows_R1, -1)
    return np.where(last_RV >= rows_R1 - hour_R[:, None], last_RV, -1)


def _window_statistics(columns_RV: np.ndarray, hour_R: np.ndarray, at_N: np.ndarray, hours: int) -> dict[str, np.ndarray]:
    """Statistics of the last `hours` hours, the prediction hour included, cut at the stay's begin."""
    back_W = np.arange(hours - 1, -1, -1)
    rows_NW = at_N[:, None] - back_W
    inside_NW = back_W <= hour_R[at_N][:, None]
    x_NWV = np.where(inside_NW[:, :, None], columns_RV[np.maximum(rows_NW, 0)], np.nan).astype(np.float64)
    seen_NWV = np.isfinite(x_NWV)
    count_NV = seen_NWV.sum(1)
    time_W1 = -back_W[:, None].astype(np.float64)
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        # A variable that the window lacks is NaN, which is what the trees expect.
        warnings.simplefilter("ignore", RuntimeWarning)
        mean_NV = np.nanmean(x_NWV, axis=1)
        centred_NWV = np.where(seen_NWV, x_NWV - mean_NV[:, None], 0.0)
        mean_time_NV = (time_W1 * seen_NWV).sum(1) / count_NV
        time_NWV = np.where(seen_NWV, time_W1 - mean_time_NV[:, None], 0.0)
        enough_NV = count_NV >= 2
        slope_NV = (time_NWV * centred_NWV).sum(1) / (time_NWV**2).sum(1)
        std_NV = np.sqrt((centred_NWV**2).sum(1) / (count_NV - 1))
        return {
            "mean": mean_NV,
            "min": np.nanmin(x_NWV, axis=1),
            "max": np.nanmax(x_NWV, axis=1),
            "std": np.where(enough_NV, std_NV, np.nan),
            "slope": np.where(enough_NV, slope_NV, np.nan),
            "count": count_NV,
        }


def _category_features(grid: GridPart, levels: dict[str, dict[str, int]], at_N: np.ndarray) -> np.ndarray:
    """Code of the last observed level, NaN where none was, or one that training never saw."""
    x_NF = np.full((len(at_N), len(levels)), np.nan, dtype=np.float32)
    for column, (name, codes) in enumerate(levels.items()):
        if name not in grid.values:
            continue
        values_R = grid.values[name]
        observed_R1 = np.array([value is not None for value in values_R], dtype=bool)[:, None]
        last_N = last_observed(observed_R1, grid.hour_R)[at_N, 0]
        x_NF[:, column] = [codes.get(values_R[row], np.nan) if row >= 0 else np.nan for row in last_N]
    return x_NF


def static_features(stays: pa.Table, stay_N: np.ndarray, hour_N: np.ndarray, in_train: dict[int, bool]) -> tuple[np.ndarray, list[str]]:
    """Statics at the points (stay_N, hour_N) [N, S], NaN where unknown by then; categories as codes of the levels that training has."""
    row = {stay_id: index for index, stay_id in enumerate(stays["stay_id"].to_pylist())}
    at_N = np.array([row[int(stay_id)] for stay_id in stay_N], dtype=np.int64)
    columns = []
    for name in _STATICS:
        value_N = np.array([np.nan if value is None else value for value in stays[name].to_pylist()], dtype=np.float32)[at_N]
        if name in TIMES_OF_STATICS:
            value_N = np.where(_known_from(stays, TIMES_OF_STATICS[name])[at_N] < hour_N + 1, value_N, np.nan)
        columns.append(value_N)
    trained = list(in_train.values())
    for name in _STATIC_CATEGORIES:
        values = stays[name].to_pylist()
        seen = sorted({value for value, is_train in zip(values, trained, strict=True) if is_train and value is not None})
        codes = {level: code for code, level in enumerate(seen)}
        columns.append(np.array([codes.get(value, np.nan) for value in values], dtype=np.float32)[at_N])
    return np.stack(columns, axis=1), [*_STATICS, *_STATIC_CATEGORIES]


def _known_from(stays: pa.Table, column: str) -> np.ndarray:
    """Hours after ICU admission from which a static is known, per stay; -inf where it was at admission."""
    charted, admitted = (stays[name].cast(pa.int64()).to_pandas() for name in (column, "intime"))
    return np.asarray(((charted - admitted) / HOUR_US).fillna(-np.inf).to_numpy())
