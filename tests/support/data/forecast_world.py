"""A hospital whose future is known: signals change by a constant step an hour, values are signals plus noise, latents are signals."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from clinjepa.clinical import load_task
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.labels.rules import eep_labels
from clinjepa.trajectory.labels.states import evaluate

TASK = load_task("hypotension_8h")
NAMES = ("heart_rate", "map")
STEP_D = np.array([0.0, -0.4, 0.0, 0.0], dtype=np.float32)
"""Change of a signal in an hour: the heart rate stays, the MAP falls."""
SPLITS = ("train", "train", "train", "tuning", "held_out", "held_out")
ADMITTED = datetime.datetime(2150, 3, 1, 10, 0)


class ForecastWorld:
    """Stays of `num_hours` hours; signal_STD holds the latents, values_ST2 the heart rate and the MAP (NaN where not measured)."""

    dim = 4

    def __init__(self, root: Path, num_stays: int = 240, num_hours: int = 24, noise: float = 5.0, measured: float = 0.8) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.num_hours = Folder(root), num_hours
        place_SD = np.stack([rng.normal(90, 12, num_stays), rng.normal(76, 8, num_stays), *rng.normal(size=(2, num_stays))], axis=1)
        self.signal_STD = (place_SD[:, None] + np.arange(num_hours)[None, :, None] * STEP_D).astype(np.float32)
        noise_ST2 = noise * rng.normal(size=(num_stays, num_hours, 2))
        self.values_ST2 = np.where(rng.random(noise_ST2.shape) < measured, self.signal_STD[..., :2] + noise_ST2, np.nan)
        self.split_S = np.array([SPLITS[i % len(SPLITS)] for i in range(num_stays)])
        self.stays = self._stays(num_stays)

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_TD = self.signal_STD[stay_id][start_hour : None if num_hours is None else start_hour + num_hours]
        return z_TD[0], z_TD, np.zeros_like(z_TD)

    def ingest(self) -> Folder:
        """The ingest artifact of the values as they are now."""
        number = len(self.values_ST2)
        columns = {name: pa.array(self.values_ST2[..., place].ravel(), pa.float32(), from_pandas=True) for place, name in enumerate(NAMES)}
        keys = {
            "stay_id": pa.array(np.repeat(np.arange(number), self.num_hours), pa.int64()),
            "hour": pa.array(np.tile(np.arange(self.num_hours), number), pa.int32()),
        }
        self.folder.write_table("grid/p0.parquet", pa.table({**keys, **columns}))
        return self.folder

    def labels(self) -> pa.Table:
        """Labels of TASK by its own rule."""
        map_R = self.values_ST2[..., 1].ravel()
        stay_R = np.repeat(np.arange(len(self.values_ST2)), self.num_hours)
        assert TASK.state is not None and TASK.horizon_hours is not None
        state_R = evaluate(TASK.state, lambda name: map_R)
        label_R = eep_labels(state_R, stay_R, TASK.horizon_hours, TASK.switches_only, TASK.carried_event)
        known_R = np.isfinite(label_R)
        hour_R = np.tile(np.arange(self.num_hours), len(self.values_ST2)).astype(np.int32)
        names = pa.array([TASK.name] * int(known_R.sum()))
        columns = [pa.array(stay_R[known_R]), names, pa.array(hour_R[known_R]), pa.array(label_R[known_R].astype(np.float32))]
        return pa.table(columns, names=["stay_id", "task", "hour", "label"])

    def _stays(self, number: int) -> pa.Table:
        return pa.table(
            {
                "stay_id": pa.array(range(number), pa.int64()),
                "subject_id": pa.array([500 + i for i in range(number)], pa.int64()),
                "split": self.split_S.tolist(),
                "part": ["p0"] * number,
                "num_hours": pa.array([self.num_hours] * number, pa.int32()),
                "age_years": pa.array([60.0] * number, pa.float32()),
                "height_cm": pa.array([None] * number, pa.float32()),
                "weight_kg": pa.array([80.0] * number, pa.float32()),
                "intime": pa.array([ADMITTED] * number, pa.timestamp("us")),
                "height_time": pa.array([None] * number, pa.timestamp("us")),
                "weight_time": pa.array([None] * number, pa.timestamp("us")),
                "sex": ["male"] * number,
                "admission_type": pa.array([None] * number, pa.string()),
                "care_unit": ["A"] * number,
            }
        )


def stepping_predictor(step_D: np.ndarray = STEP_D, max_hours: int = 40) -> Predictor:
    """Predicts z_{t+1} = z_t + step whatever else it sees."""
    spec = PredictorSpec(
        latent_dim=len(step_D), hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=max_hours, mode="residual"
    )
    predictor = build_predictor(spec, seed=0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.copy_(torch.from_numpy(step_D))
    return predictor
