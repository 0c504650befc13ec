"""Evaluation reads no position that training could not reach: such positions hold NaN here, and no figure changes.

Which positions these are is measured: by the gradients of the losses over the longest training window.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.clinical import load_task
from clinjepa.config.schema import DownstreamConfig, DriftConfig, ProbeConfig
from clinjepa.evaluation.downstream.evaluate import evaluate_downstream
from clinjepa.evaluation.downstream.point_features import PointFeatures, point_features
from clinjepa.evaluation.drift import evaluate_drift
from clinjepa.model.losses import RolloutForm, TeacherForced, rollout_loss, teacher_forcing_loss
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec

DIM, TRAINED, STAY = 4, 16, 40
SPEC = PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=2, num_heads=2, ffn_size=16, max_hours=30, trained_hours=TRAINED)
POOLINGS = ["last", "mean", "last+mean", "context"]


class RandomLatents:
    dim = DIM

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(stay_id)
        stop = None if num_hours is None else start_hour + num_hours
        z_static_D, z_state_TD, z_action_TD = (rng.normal(size=shape).astype(np.float32) for shape in [(DIM,), (STAY, DIM), (STAY, DIM)])
        return z_static_D, z_state_TD[start_hour:stop], z_action_TD[start_hour:stop]


def _stays(num_stays: int = 60) -> pa.Table:
    splits = ["train", "tuning", "held_out"]
    columns = {"stay_id": list(range(num_stays)), "subject_id": list(range(num_stays)), "num_hours": [STAY] * num_stays}
    return pa.table({**columns, "split": [splits[stay_id % 3] for stay_id in range(num_stays)]})


def _untrained_positions_are_nan(predictor: Predictor) -> Predictor:
    with torch.no_grad():
        predictor.positions[1 + 2 * SPEC.reach_hours :] = torch.nan
    return predictor


@pytest.fixture
def predictor() -> Predictor:
    return build_predictor(SPEC, seed=0)


@pytest.mark.parametrize(("steps", "kind"), [(2, "native"), (2, "teacher_forced"), (5, "native")])
def test_reach_is_where_the_losses_of_the_longest_window_leave_a_gradient(predictor: Predictor, steps: int, kind: str) -> None:
    z_static_D, z_state_TD, z_action_TD = (torch.from_numpy(part)[None] for part in RandomLatents().stay(0, 0, TRAINED))
    valid_BT = torch.ones(1, TRAINED, dtype=torch.bool)
    pred_BTD, _, cache = predictor(z_static_D, z_state_TD, z_action_TD, valid_BT, keep_cache=True)
    forced = TeacherForced(pred_BTD, cache)
    last_start = torch.tensor([TRAINED - 1 - steps])
    loss = teacher_forcing_loss(pred_BTD, z_state_TD, valid_BT)[0]
    loss = loss + rollout_loss(predictor, forced, z_action_TD, z_state_TD, last_start, RolloutForm(steps, kind))[0]
    torch.autograd.backward(loss)
    assert predictor.positions.grad is not None
    reached_P = predictor.positions.grad.abs().sum(1) > 0
    assert reached_P.nonzero().flatten().tolist() == list(range(1 + 2 * SPEC.reach_hours))


def test_drift_is_the_same_with_untrained_positions_lost(predictor: Predictor) -> None:
    settings = DriftConfig(contexts=[6, 12, 15, 20], headline_context=6, horizons=[1, 3, 4, 9, 10, 11, 24], num_bootstrap=20)
    before = evaluate_drift(predictor, RandomLatents(), _stays(), settings)
    assert before == evaluate_drift(_untrained_positions_are_nan(predictor), RandomLatents(), _stays(), settings)
    reached = {context: [h for h, cell in found["horizons"].items() if cell["l1"]] for context, found in before.items()}
    assert reached == {"6": ["1", "3", "4", "9", "10"], "12": ["1", "3", "4"], "15": ["1"], "20": []}
    assert "training windows have at most 16 h" in before["6"]["horizons"]["24"]["reason"]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("rollout_hours", [1, 6, 14])
def test_features_are_the_same_with_untrained_positions_lost(predictor: Predictor, pooling: str, rollout_hours: int) -> None:
    def features() -> PointFeatures:
        stay_N, hour_N = np.repeat([0, 1], STAY), np.tile(np.arange(STAY), 2)
        return point_features(predictor, RandomLatents(), stay_N, hour_N, rollout_hours=rollout_hours, pooling=pooling)

    before = features()
    _untrained_positions_are_nan(predictor)
    after = features()
    for name in ("history_NF", "carried_NG", "recorded_NG"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    most = SPEC.reach_hours + (pooling != "context") - rollout_hours
    np.testing.assert_array_equal(before.cut_N, np.tile(np.arange(STAY) + 1 > most, 2))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_table_says_what_was_cut_and_is_the_same_with_untrained_positions_lost(predictor: Predictor, pooling: str) -> None:
    early, late = load_task("hypotension_8h"), load_task("in_hospital_death")
    rows = [(early.name, stay, hour, (stay // 3 + hour) % 2) for stay in range(60) for hour in (3, 7)]
    rows += [(late.name, stay, 23, stay // 3 % 2) for stay in range(60)]
    names, stays, hours, values = zip(*rows, strict=True)
    labels = pa.table({"task": names, "stay_id": stays, "hour": pa.array(hours, pa.int32()), "label": pa.array(values, pa.float32())})
    settings = DownstreamConfig(
        tasks=[early.name, late.name],
        pooling=pooling,
        rollout_hours=24,
        min_positives=2,
        num_bootstrap=20,
        probe=ProbeConfig(kinds=["linear"]),
    )
    arguments = (RandomLatents(), labels, _stays(), [early, late], settings)
    before = evaluate_downstream(predictor, *arguments)
    assert before == evaluate_downstream(_untrained_positions_are_nan(predictor), *arguments)
    cut = before[late.name]["linear"]["history_only"]["cut"]
    fits = 7 if pooling == "context" else 8
    assert f"the rollout of 24 h is cut to {fits} h and the history is cut to its last hours at 20 of 20 points" in cut
    assert "training windows have at most 16 h" in cut


def test_nothing_is_cut_where_training_reached_all(predictor: Predictor) -> None:
    task = load_task("hypotension_8h")
    rows = [(stay, 3, stay // 3 % 2) for stay in range(60)]
    stays, hours, values = zip(*rows, strict=True)
    labels = pa.table(
        {"task": [task.name] * 60, "stay_id": stays, "hour": pa.array(hours, pa.int32()), "label": pa.array(values, pa.float32())}
    )
    settings = DownstreamConfig(tasks=[task.name], rollout_hours=4, min_positives=2, num_bootstrap=20, probe=ProbeConfig(kinds=["linear"]))
    found = evaluate_downstream(predictor, RandomLatents(), labels, _stays(), [task], settings)[task.name]["linear"]
    assert all("cut" not in cell for cell in found.values())


def test_a_rollout_beyond_the_training_windows_is_refused(predictor: Predictor) -> None:
    given = [torch.from_numpy(part)[None] for part in RandomLatents().stay(0)]
    assert rollout(predictor, *given, 6, 10)[0].shape[1] == 10
    with pytest.raises(ValueError, match="17 hours exceed the 16 hours of the longest window"):
        rollout(predictor, *given, 6, 11)


def test_windows_as_long_as_the_positions_leave_the_last_hour_untrained() -> None:
    assert replace(SPEC, trained_hours=30).reach_hours == replace(SPEC, trained_hours=None).reach_hours == 29
