"""CPU time of the forecast evaluation for 1,000 scored stays of 48 h, and as many of tuning and of training.

Latents, values and labels are random; the sizes are those of the demo: latents of 112 values, a predictor of width 128 with 4 layers, 27
variables, horizons to 24 h after 24 h. Beside rollouts of 256 windows at once are those of single windows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks.support.harness import Report, arguments, publish
from clinjepa.clinical import load_task
from clinjepa.config.schema import ForecastConfig
from clinjepa.evaluation.drift_windows import drift_windows
from clinjepa.evaluation.forecasts.evaluate import ForecastInputs, evaluate_forecasts
from clinjepa.evaluation.forecasts.points.direct import direct_forecasts
from clinjepa.evaluation.forecasts.points.rollouts import rolled_out
from clinjepa.evaluation.settings import DirectForecastSettings
from clinjepa.evaluation.space import stays_of
from clinjepa.model.predictor import build_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.hour_grid import grid_variables

DIM, NUM_VARIABLES = 112, 27
TASKS = [load_task("hypotension_8h")]
SPEC = PredictorSpec(latent_dim=DIM, hidden_size=128, num_layers=4, num_heads=4, ffn_size=512, max_hours=72)
"""The demo's predictor."""


class RandomLatents:
    """Latents of a stay, drawn when asked for."""

    dim = DIM

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_2TD = np.random.default_rng(stay_id).normal(size=(2, 48, DIM)).astype(np.float32)
        hours = slice(start_hour, None if num_hours is None else start_hour + num_hours)
        return z_2TD[0, 0], z_2TD[0, hours], z_2TD[1, hours]


def world(folder: Folder, num_stays: int, num_hours: int) -> tuple[pa.Table, pa.Table]:
    """(stays, labels) of `num_stays` stays in each split; writes their hour grid."""
    rng, number = np.random.default_rng(0), 3 * num_stays
    names = ["map", *(v.name for v in grid_variables("state", kinds=("numeric",)) if v.name != "map")][:NUM_VARIABLES]
    stay_R, hour_R = np.repeat(np.arange(number), num_hours), np.tile(np.arange(num_hours), number)
    columns = {name: np.where(rng.random(len(stay_R)) < 0.5, rng.normal(75, 10, len(stay_R)), np.nan) for name in names}
    values = {name: pa.array(values_R, pa.float32(), from_pandas=True) for name, values_R in columns.items()}
    folder.write_table("grid/p0.parquet", pa.table({"stay_id": stay_R, "hour": hour_R.astype(np.int32), **values}))
    stays = {
        "stay_id": np.arange(number),
        "subject_id": np.arange(number),
        "split": np.repeat(["train", "tuning", "held_out"], num_stays),
        "part": ["p0"] * number,
        "num_hours": np.full(number, num_hours),
        **{name: np.full(number, 60.0) for name in ("age_years", "height_cm", "weight_kg")},
        **{name: ["a"] * number for name in ("sex", "admission_type", "care_unit")},
        **{name: pa.array([0] * number, pa.timestamp("us")) for name in ("intime", "height_time", "weight_time")},
    }
    labels = {"stay_id": stay_R, "task": ["hypotension_8h"] * len(stay_R), "hour": hour_R, "label": rng.integers(0, 2, len(stay_R))}
    return pa.table(stays), pa.table(labels)


def seconds(num_stays: int, num_hours: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Seconds of `clock` of the parts for `num_stays` scored stays, as many of tuning and of training."""
    settings = ForecastConfig(context=24, starts=[0, 12], horizons=[1, 6, 12, 24], max_stays=num_stays, max_train_stays=num_stays)
    predictor, latents, found = build_predictor(SPEC, seed=0).eval(), RandomLatents(), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Folder(Path(scratch))
        stays, labels = world(folder, num_stays, num_hours)
        begin = clock()
        named = settings.model_dump(include=set(DirectForecastSettings.model_fields))
        direct = direct_forecasts(folder, stays, DirectForecastSettings(split="held_out", **named))
        found["direct_forecasts"] = clock() - begin
        begin = clock()
        evaluate_forecasts(ForecastInputs(predictor, latents, folder, stays, labels, direct), TASKS, settings)
        found["forecasts"] = clock() - begin
        windows = drift_windows(stays_of(stays, "held_out").slice(0, max(10, num_stays // 10)), 24, [0, 12], 48, 24)
        for name, batch_size in (("batched", 256), ("one_by_one", 1)):
            begin = clock()
            for _ in rolled_out(predictor, latents, windows, np.array([1, 6, 12, 24]), batch_size):
                pass
            found[f"rollouts_{name}"] = clock() - begin
    return found


def main() -> None:
    options = arguments(__doc__ or "", threads=1, rounds=1)
    torch.set_num_threads(options.threads)
    num_stays = 60 if options.quick else 1000
    found = seconds(num_stays, 48)
    measured = {name: found[name] for name in ("forecasts", "direct_forecasts")}
    measured["rollout_speedup"] = found["rollouts_one_by_one"] / found["rollouts_batched"]
    goal = {"forecasts": "<= 60"}
    unit = {"forecasts": "CPU s", "direct_forecasts": "CPU s", "rollout_speedup": "times"}
    publish(Report("forecasts", measured, goal, unit, {"num_stays": num_stays, "threads": options.threads, **found}), options.quick)


if __name__ == "__main__":
    main()
