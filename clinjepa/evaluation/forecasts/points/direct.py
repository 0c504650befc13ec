"""Direct forecasts by gradient boosting: one LightGBM regression per variable and horizon on hand-made features of the hour grid.

The comparison for forecasts from latents. The features are those of the risk tasks' baseline and end at the prediction time; the windows
are those of the forecasts. The values are estimates of means: the forecast evaluation adds errors and clips them, as it does those of the
model (`scoring/distributions`). No model is read, so all recipes share one result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa

from clinjepa.evaluation.downstream.tabular_features import tabular_features
from clinjepa.evaluation.drift_windows import Windows, drift_windows
from clinjepa.evaluation.forecasts.points.decoder import CLIPPED_PERCENTILES
from clinjepa.evaluation.forecasts.points.measurements import draw_stays, read_measurements, window_values
from clinjepa.evaluation.settings import DirectForecastSettings
from clinjepa.evaluation.space import stays_of
from clinjepa.storage import Folder

DIRECT_FILE = "direct.parquet"
EARLY_STOP = 10
MIN_TRAIN_ROWS, MIN_TUNING_ROWS = 50, 20
_KEYS = ("stay_id", "start_hour", "horizon")


def direct_forecasts(ingest: Folder, stays: pa.Table, settings: DirectForecastSettings, seed: int = 0) -> pa.Table:
    """Estimates for the windows of tuning and of the scored split: stay_id, start_hour, horizon, and one float column per variable.

    A value is null where the variable has too few hours to fit on at that horizon. Deterministic: one thread and a fixed seed.

    Args:
        ingest: Ingest artifact; its hour grid is read.
        stays: The ingest's `stays.parquet`.
        settings: Windows, horizons, variables and trees.
        seed: Seed of LightGBM and of the drawn stays.
    """
    most = {"train": settings.max_train_stays, "tuning": settings.max_stays, settings.split: settings.max_stays}
    chosen = {split: draw_stays(stays_of(stays, split), most[split], seed) for split in most}
    chosen_ids = np.concatenate([table["stay_id"].to_numpy() for table in chosen.values()])
    measurements = read_measurements(ingest, stays, chosen_ids, settings.num_variables)
    horizons_H = np.array(sorted(set(settings.horizons)))
    longest = settings.context + int(horizons_H[-1])
    windows = {split: drift_windows(own, settings.context, settings.starts, longest, int(horizons_H[-1])) for split, own in chosen.items()}
    targets = {split: window_values(measurements, own, horizons_H).target_WSV for split, own in windows.items()}
    stay_N, hour_N = (
        np.concatenate([getattr(own, name) + offset for own in windows.values()])
        for name, offset in (("stay_W", 0), ("start_W", settings.context - 1))
    )
    x_NF = tabular_features(ingest, stays, stay_N, hour_N).x_NF if len(stay_N) else np.zeros((0, 1), dtype=np.float32)
    return _table(windows, _fit_all(_Features(x_NF, windows), targets, settings, seed), horizons_H, measurements.names)


class _Features:
    """Features of all windows, binned once for all regressions."""

    def __init__(self, x_NF: np.ndarray, windows: Mapping[str, Windows]) -> None:
        ends = np.cumsum([len(own) for own in windows.values()])
        self.of = {split: slice(end - len(own), end) for (split, own), end in zip(windows.items(), ends, strict=True)}
        self.x_NF = x_NF
        fitted = x_NF[: self.of["tuning"].stop]
        self.binned = lightgbm.Dataset(fitted, np.zeros(len(fitted)), params=_BINNING, free_raw_data=False) if len(fitted) else None


_BINNING: dict[str, Any] = {"verbosity": -1, "num_threads": 1, "max_bin": 63, "feature_pre_filter": False, "force_row_wise": True}


def _fit_all(features: _Features, targets: Mapping[str, np.ndarray], settings: DirectForecastSettings, seed: int) -> dict[str, np.ndarray]:
    """{split: forecasts [W, H, V]} of tuning and of the scored split; NaN where nothing could be fitted."""
    scored = [split for split in dict.fromkeys(("tuning", settings.split)) if len(targets[split])]
    found: dict[str, np.ndarray] = {split: np.full(targets[split].shape, np.nan, dtype=np.float32) for split in scored}
    for place in np.ndindex(targets["train"].shape[1:]):
        y = {split: targets[split][(slice(None), *place)] for split in ("train", "tuning")}
        booster = _fit(features, y, settings.num_trees, seed)
        if booster is not None:
            for split in scored:
                found[split][(slice(None), *place)] = booster.predict(features.x_NF[features.of[split]])
    return found


def _fit(features: _Features, y: Mapping[str, np.ndarray], num_trees: int, seed: int) -> lightgbm.Booster | None:
    """Trees on the train windows that have a value, as many as are best on the tuning windows that have one."""
    rows = {split: np.flatnonzero(np.isfinite(values)) for split, values in y.items()}
    if features.binned is None or len(rows["train"]) < MIN_TRAIN_ROWS or len(rows["tuning"]) < MIN_TUNING_ROWS:
        return None
    bounds = np.percentile(y["train"][rows["train"]], CLIPPED_PERCENTILES)
    data = {}
    for split, own in rows.items():
        data[split] = features.binned.subset((own + features.of[split].start).tolist()).construct()
        data[split].set_label(np.clip(y[split][own].astype(np.float64), *bounds))
    booster = lightgbm.Booster(_settings(len(rows["train"]), seed), data["train"])
    booster.add_valid(data["tuning"], "tuning")
    best_loss, best_trees = np.inf, 0
    for number in range(1, num_trees + 1):
        finished = booster.update()
        loss = booster.eval_valid()[0][2]
        if loss < best_loss:
            best_loss, best_trees = loss, number
        if finished or number - best_trees >= EARLY_STOP:
            break
    booster.best_iteration = best_trees  # `predict` uses the trees up to it
    return booster


def _settings(num_rows: int, seed: int) -> dict[str, Any]:
    return _BINNING | {
        "objective": "regression",
        "metric": "l2",
        "learning_rate": 0.1,
        "num_leaves": 31,
        "max_depth": 5,
        "feature_fraction": 0.5,
        "min_data_in_leaf": min(500, max(5, num_rows // 100)),
        "seed": seed,
        "deterministic": True,
    }


def _table(windows: Mapping[str, Windows], found: Mapping[str, np.ndarray], horizons_H: np.ndarray, names: list[str]) -> pa.Table:
    blocks = []
    for split, values_WHV in found.items():
        own = windows[split]
        keys = [np.repeat(own.stay_W, len(horizons_H)), np.repeat(own.start_W, len(horizons_H)), np.tile(horizons_H, len(own))]
        columns = [pa.array(values_WHV[:, :, column].ravel(), pa.float32(), from_pandas=True) for column in range(len(names))]
        blocks.append(pa.table([*(pa.array(key, pa.int64()) for key in keys), *columns], names=[*_KEYS, *names]))
    return pa.concat_tables(blocks)


def read_direct(table: pa.Table, windows: Windows, horizons: list[int], names: list[str]) -> np.ndarray:
    """Forecasts [W, H, V] of some windows; NaN for what the table has not."""
    keys = (table[name].to_pylist() for name in _KEYS)
    row_of = {key: row for row, key in enumerate(zip(*keys, strict=True))}
    found_WHV = np.full((len(windows), len(horizons), len(names)), np.nan, dtype=np.float32)
    rows_WH = np.array(
        [
            [row_of.get((int(stay), int(start), h), -1) for h in horizons]
            for stay, start in zip(windows.stay_W, windows.start_W, strict=True)
        ]
    )
    for column, name in enumerate(names):
        if name in table.column_names and len(windows):
            values_N = table[name].to_numpy(zero_copy_only=False)
            found_WHV[:, :, column] = np.where(rows_WH >= 0, values_N[rows_WH], np.nan)
    return found_WHV
