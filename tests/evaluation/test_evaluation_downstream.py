"""Downstream evaluation: features know the past only, the three columns know what they may, thin data give null with a reason."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.clinical import Task, load_task
from clinjepa.config.schema import DownstreamConfig, ProbeConfig
from clinjepa.errors import ConfigError
from clinjepa.evaluation.downstream.evaluate import evaluate_downstream
from clinjepa.evaluation.downstream.point_features import COLUMNS, PointFeatures, point_features
from clinjepa.evaluation.downstream.prediction_points import prediction_points
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec

DIM, NUM_HOURS = 6, 30
EVENT = load_task("hypotension_8h")
OUTCOME = load_task("in_hospital_death")
SETTINGS = DownstreamConfig(
    tasks=[EVENT.name, OUTCOME.name],
    rollout_hours=6,
    min_positives=5,
    num_bootstrap=50,
    probe=ProbeConfig(kinds=["linear"]),
)


class MemoryLatents:
    """Latents held in memory: {stay_id: (static, states, actions)}."""

    dim = DIM

    def __init__(self, num_stays: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        shapes = [(DIM,), (NUM_HOURS, DIM), (NUM_HOURS, DIM)]
        self.stays = {stay_id: [rng.normal(size=shape).astype(np.float32) for shape in shapes] for stay_id in range(num_stays)}

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_static_D, z_state_TD, z_action_TD = self.stays[stay_id]
        stop = None if num_hours is None else start_hour + num_hours
        return z_static_D, z_state_TD[start_hour:stop], z_action_TD[start_hour:stop]


@pytest.fixture
def predictor() -> Predictor:
    spec = PredictorSpec(latent_dim=DIM, hidden_size=16, num_layers=2, num_heads=2, ffn_size=32, max_hours=24)
    return build_predictor(spec, seed=0)


def _stays(num_stays: int) -> pa.Table:
    splits = ["train", "train", "train", "tuning", "held_out", "held_out"]
    return pa.table(
        {
            "stay_id": pa.array(range(num_stays), pa.int64()),
            "subject_id": pa.array([500 + stay_id for stay_id in range(num_stays)], pa.int64()),
            "split": [splits[stay_id % 6] for stay_id in range(num_stays)],
            "num_hours": pa.array([NUM_HOURS] * num_stays, pa.int32()),
        }
    )


def _labels(task: Task, rows: list[tuple[int, int, float]]) -> pa.Table:
    stay_ids, hours, values = zip(*rows, strict=True)
    return pa.table(
        {
            "stay_id": pa.array(stay_ids, pa.int64()),
            "task": [task.name] * len(rows),
            "hour": pa.array(hours, pa.int32()),
            "label": pa.array(values, pa.float32()),
        }
    )


def _features(predictor: Predictor, latents: MemoryLatents, hour_N: list[int], pooling: str, **options: int) -> PointFeatures:
    stay_N = np.zeros(len(hour_N), dtype=np.int64)
    return point_features(predictor, latents, stay_N, np.array(hour_N), rollout_hours=6, pooling=pooling, **options)


@pytest.mark.parametrize("pooling", ["last", "mean", "last+mean", "context"])
def test_what_happens_after_the_prediction_hour_changes_recorded_actions_only(predictor: Predictor, pooling: str) -> None:
    latents = MemoryLatents(1)
    before = _features(predictor, latents, [10, 20], pooling)
    latents.stays[0][1][11:] += 3.0
    latents.stays[0][2][11:] -= 3.0
    after = _features(predictor, latents, [10, 20], pooling)
    np.testing.assert_array_equal(after.history_NF[0], before.history_NF[0])
    np.testing.assert_array_equal(after.carried_NG[0], before.carried_NG[0])
    assert not np.array_equal(after.recorded_NG[0], before.recorded_NG[0])


@pytest.mark.parametrize("pooling", ["last", "mean", "last+mean", "context"])
def test_the_prediction_hour_itself_is_seen(predictor: Predictor, pooling: str) -> None:
    latents = MemoryLatents(1)
    before = _features(predictor, latents, [10], pooling)
    latents.stays[0][1][10] += 1.0
    after = _features(predictor, latents, [10], pooling)
    for name in ("history_NF", "carried_NG", "recorded_NG"):
        assert not np.allclose(getattr(after, name), getattr(before, name))


def test_history_is_cut_to_what_leaves_room_for_the_rollout(predictor: Predictor) -> None:
    latents = MemoryLatents(1)
    before = _features(predictor, latents, [25], "context")
    latents.stays[0][1][: 25 + 1 - 17] += 5.0  # 24 h window - its last hour, a target only - 6 h rollout = 17 h of history
    after = _features(predictor, latents, [25], "context")
    np.testing.assert_array_equal(after.history_NF, before.history_NF)
    np.testing.assert_array_equal(after.carried_NG, before.carried_NG)


def test_a_cut_history_begins_at_a_multiple_of_twelve_hours(predictor: Predictor) -> None:
    latents = MemoryLatents(1)
    z_static_D, z_state_TD, z_action_TD = (torch.from_numpy(part)[None] for part in latents.stay(0))
    with torch.no_grad():
        hidden_BTW = predictor.eval()(z_static_D, z_state_TD[:, 12:26], z_action_TD[:, 12:26])[1]
    found = _features(predictor, latents, [25, 27], "context").history_NF[0]
    np.testing.assert_allclose(found, hidden_BTW[0, -1].numpy(), atol=1e-5)


def test_recorded_actions_end_with_the_stay_without_telling_its_length(predictor: Predictor) -> None:
    latents = MemoryLatents(1)
    at_the_end = _features(predictor, latents, [NUM_HOURS - 1], "mean")
    np.testing.assert_allclose(at_the_end.recorded_NG, at_the_end.carried_NG, atol=1e-6)


@pytest.mark.parametrize("pooling", ["last+mean", "context"])
def test_features_are_the_same_whatever_the_batch_size(predictor: Predictor, pooling: str) -> None:
    latents = MemoryLatents(1)
    hours = [3, 7, 11, 20, 24]
    one, many = (_features(predictor, latents, hours, pooling, batch_size=size) for size in (1, 64))
    for name in ("history_NF", "carried_NG", "recorded_NG"):
        np.testing.assert_allclose(getattr(one, name), getattr(many, name), atol=1e-4)


def test_context_is_the_hidden_state_of_the_prediction_hour(predictor: Predictor) -> None:
    latents = MemoryLatents(1)
    z_static_D, z_state_TD, z_action_TD = (torch.from_numpy(part)[None] for part in latents.stay(0, 0, 11))
    with torch.no_grad():
        hidden_BTW = predictor.eval()(z_static_D, z_state_TD, z_action_TD)[1]
    found = _features(predictor, latents, [10, 15], "context").history_NF[0]
    np.testing.assert_allclose(found, hidden_BTW[0, 10].numpy(), atol=1e-5)


@pytest.mark.parametrize("pooling", ["last", "context"])
def test_the_future_with_recorded_actions_is_the_model_s_rollout(predictor: Predictor, pooling: str) -> None:
    latents = MemoryLatents(1)
    z_static_D, z_state_TD, z_action_TD = (torch.from_numpy(part)[None] for part in latents.stay(0))
    with torch.no_grad():
        predicted_BHD, hidden_BHW = rollout(predictor.eval(), z_static_D, z_state_TD, z_action_TD[:, : 11 + 6], 11, 6)
    expected_BG = {"last": predicted_BHD, "context": hidden_BHW}[pooling][:, -1]
    found = _features(predictor, latents, [10, 15], pooling).recorded_NG[0]
    np.testing.assert_allclose(found, expected_BG[0].numpy(), atol=1e-5)


def test_a_rollout_that_leaves_no_history_is_refused(predictor: Predictor) -> None:
    with pytest.raises(ConfigError, match="rollout_hours=24"):
        point_features(predictor, MemoryLatents(1), np.array([0]), np.array([5]), rollout_hours=24, pooling="last")


def test_hourly_tasks_are_predicted_on_the_stride_after_the_minimal_history() -> None:
    labels = _labels(EVENT, [(0, hour, 0.0) for hour in range(NUM_HOURS)])
    points = prediction_points(labels, _stays(1), EVENT, SETTINGS.model_copy(update={"hourly_stride": 8}))
    assert points.hour_N.tolist() == [3, 11, 19, 27]


def test_a_state_that_tells_the_label_is_found_from_history(predictor: Predictor) -> None:
    latents, stays = MemoryLatents(90), _stays(90)
    rows = [(stay_id, hour, float(latents.stays[stay_id][1][hour, 0] > 0)) for stay_id in range(90) for hour in range(3, 20)]
    settings = SETTINGS.model_copy(update={"pooling": "last"})
    table = evaluate_downstream(predictor, latents, _labels(EVENT, rows), stays, [EVENT], settings)[EVENT.name]["linear"]
    assert table["history_only"]["auroc"]["value"] > 0.95
    assert table["history_only"]["auroc"]["num_patients"] == 30
    assert table["history_only"]["num_total"] == 30 * 5


def test_a_label_told_by_later_actions_is_found_by_the_upper_bound_only(predictor: Predictor) -> None:
    latents, stays = MemoryLatents(240), _stays(240)
    rng = np.random.default_rng(5)
    rows = []
    for stay_id, (_, _, z_action_TD) in latents.stays.items():
        label = float(rng.random() < 0.5)
        z_action_TD[24:] = 3.0 * (2 * label - 1)  # treatment after the prediction hour follows the outcome
        rows.append((stay_id, 23, label))
    settings = SETTINGS.model_copy(update={"rollout_hours": 6})
    table = evaluate_downstream(predictor, latents, _labels(OUTCOME, rows), stays, [OUTCOME], settings)[OUTCOME.name]["linear"]
    found = {column: table[column]["auroc"]["value"] for column in COLUMNS}
    assert found["recorded_actions"] > 0.9
    assert max(found["history_only"], found["actions_carried_forward"]) < 0.7


def test_too_few_positive_patients_give_null_with_the_reason_and_the_counts(predictor: Predictor) -> None:
    latents, stays = MemoryLatents(24), _stays(24)
    labels = _labels(OUTCOME, [(stay_id, 23, float(stay_id == 0)) for stay_id in range(24)])
    result = evaluate_downstream(predictor, latents, labels, stays, [OUTCOME], SETTINGS)[OUTCOME.name]["linear"]["history_only"]
    assert (result["auroc"], result["auprc"], result["num_positive"], result["num_total"]) == (None, None, 0, 8)
    assert "1 patients with a positive label in train" in result["reason"]
    json.dumps(result, allow_nan=False)


def test_a_task_without_labels_is_null_beside_one_with(predictor: Predictor) -> None:
    latents, stays = MemoryLatents(90), _stays(90)
    rows = [(stay_id, hour, float(latents.stays[stay_id][1][hour, 0] > 0)) for stay_id in range(90) for hour in range(3, 20, 4)]
    result = evaluate_downstream(predictor, latents, _labels(EVENT, rows), stays, [OUTCOME, EVENT], SETTINGS)
    assert list(result) == [OUTCOME.name, EVENT.name]
    assert result[OUTCOME.name]["linear"]["history_only"]["reason"]
    assert result[EVENT.name]["linear"]["history_only"]["auroc"]["value"] > 0.5


def test_the_tables_of_0_1_labels_have_no_task_with_numbers(predictor: Predictor) -> None:
    number = load_task("log_lactate_4h")
    labels = _labels(number, [(stay_id, 5, 0.7) for stay_id in range(12)])
    assert evaluate_downstream(predictor, MemoryLatents(12), labels, _stays(12), [number], SETTINGS) == {}
