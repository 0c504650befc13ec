"""Rollout drift in worlds where it is known in closed form: latents that move by a constant step, a predictor that adds one."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.config.schema import DriftConfig
from clinjepa.evaluation.drift import MIN_PATIENTS, evaluate_drift
from clinjepa.evaluation.space import describe_space, sample_hours, train_mean_latent
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec

DIM = 6
STEP_D = np.array([1.0, -2.0, 0.5, 0.0, 1.5, 1.0], dtype=np.float32)
SETTINGS = DriftConfig(contexts=[6], headline_context=6, horizons=[1, 6, 24], num_bootstrap=50)


class SteadyWorld:
    """z_t = z_0 + t · STEP, z_0 a stay's own place."""

    dim = DIM

    def __init__(self, num_hours: dict[int, int], step_D: np.ndarray = STEP_D) -> None:
        self.num_hours, self.step_D = num_hours, step_D

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(stay_id)
        place_D, hours = rng.normal(size=DIM), np.arange(self.num_hours[stay_id])
        stop = None if num_hours is None else start_hour + num_hours
        z_TD = (place_D + hours[:, None] * self.step_D)[start_hour:stop].astype(np.float32)
        return place_D.astype(np.float32), z_TD, rng.normal(size=z_TD.shape).astype(np.float32)


def _stays(num_hours: dict[int, int], splits: dict[int, str]) -> pa.Table:
    return pa.table(
        {
            "stay_id": pa.array(list(num_hours), pa.int64()),
            "subject_id": pa.array([100 + stay_id for stay_id in num_hours], pa.int64()),
            "split": [splits[stay_id] for stay_id in num_hours],
            "num_hours": pa.array(list(num_hours.values()), pa.int32()),
        }
    )


def _stepping_predictor(step_D: np.ndarray, max_hours: int = 40) -> Predictor:
    """Predicts z_{t+1} = z_t + step whatever it sees."""
    spec = PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=max_hours, mode="residual")
    predictor = build_predictor(spec, seed=0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.copy_(torch.from_numpy(step_D))
    return predictor


@pytest.fixture
def world() -> tuple[SteadyWorld, pa.Table]:
    num_hours = {stay_id: 35 + stay_id % 10 for stay_id in range(24)}
    splits = {stay_id: "train" if stay_id < 12 else "held_out" for stay_id in num_hours}
    return SteadyWorld(num_hours), _stays(num_hours, splits)


def test_a_predictor_that_takes_half_the_step_drifts_as_the_closed_form_says(world: tuple[SteadyWorld, pa.Table]) -> None:
    result = evaluate_drift(_stepping_predictor(STEP_D / 2), *world, SETTINGS)["6"]
    assert (result["h_max"], result["num_stays"]) == (24, 12)
    for h in (1, 6, 24):
        assert result["horizons"][str(h)]["l1"]["value"] == pytest.approx(h * np.abs(STEP_D).sum() / 2, rel=1e-4)
        assert result["horizons"][str(h)]["mase"]["value"] == pytest.approx(0.5, rel=1e-4)
    assert result["horizons"]["6"]["l1_per_dimension"]["value"] == pytest.approx(6 * np.abs(STEP_D).sum() / 2 / DIM, rel=1e-4)
    assert result["drift"]["value"] == pytest.approx(23.0, rel=1e-4)


def test_a_perfect_predictor_has_cosine_and_norm_ratio_one(world: tuple[SteadyWorld, pa.Table]) -> None:
    at_24 = evaluate_drift(_stepping_predictor(STEP_D), *world, SETTINGS)["6"]["horizons"]["24"]
    assert at_24["centred_cosine"]["value"] == pytest.approx(1.0, abs=1e-5)
    assert at_24["norm_ratio"]["value"] == pytest.approx(1.0, abs=1e-5)


def test_controls_copy_and_extrapolate(world: tuple[SteadyWorld, pa.Table]) -> None:
    controls = evaluate_drift(_stepping_predictor(STEP_D / 2), *world, SETTINGS)["6"]["controls"]
    assert controls["copy_forward"]["horizons"]["6"]["mase"]["value"] == pytest.approx(1.0)
    assert controls["linear_extrapolation"]["horizons"]["24"]["l1"]["value"] == pytest.approx(0.0, abs=1e-3)


def test_predicting_the_training_mean_scores_one_against_it() -> None:
    still = SteadyWorld(dict.fromkeys(range(20), 40), np.zeros(DIM, np.float32))
    stays = _stays(still.num_hours, {stay_id: "train" if stay_id < 8 else "held_out" for stay_id in range(20)})
    predictor = build_predictor(PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=40), seed=0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.copy_(torch.from_numpy(train_mean_latent(still, stays)))
    result = evaluate_drift(predictor, still, stays, SETTINGS)["6"]
    assert result["horizons"]["1"]["vs_mean"]["value"] == pytest.approx(1.0, rel=1e-5)
    assert result["drift"]["value"] == pytest.approx(0.0, abs=1e-5)


def test_copy_forward_that_never_errs_gives_null_instead_of_a_division_by_zero() -> None:
    still = SteadyWorld(dict.fromkeys(range(20), 40), np.zeros(DIM, np.float32))
    stays = _stays(still.num_hours, {stay_id: "train" if stay_id < 8 else "held_out" for stay_id in range(20)})
    result = evaluate_drift(_stepping_predictor(STEP_D), still, stays, SETTINGS)["6"]
    assert result["horizons"]["1"]["mase"] is None
    assert result["horizons"]["1"]["reason"]
    assert result["controls"]["copy_forward"]["drift"] is None


def test_h_max_is_the_longest_horizon_that_enough_patients_reach() -> None:
    long, short = MIN_PATIENTS - 1, 10
    num_hours = {stay_id: 40 if stay_id < long else 15 for stay_id in range(long + short)} | {99: 20}
    stays = _stays(num_hours, {stay_id: "train" if stay_id == 99 else "held_out" for stay_id in num_hours})
    result = evaluate_drift(_stepping_predictor(STEP_D / 2), SteadyWorld(num_hours), stays, SETTINGS)["6"]
    assert (result["h_max"], result["num_stays"]) == (6, long + short)
    assert result["horizons"]["24"]["l1"] is None
    assert result["horizons"]["24"]["reason"]


def test_a_context_nobody_reaches_is_null_with_a_reason(world: tuple[SteadyWorld, pa.Table]) -> None:
    settings = SETTINGS.model_copy(update={"contexts": [39]})
    result = evaluate_drift(_stepping_predictor(STEP_D, max_hours=39), *world, settings)["39"]
    assert (result["drift"], result["num_stays"], result["h_max"]) == (None, 0, None)
    assert result["reason"]
    json.dumps(result, allow_nan=False)


def test_result_is_the_same_whatever_the_batch_size(world: tuple[SteadyWorld, pa.Table], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=40)
    results = []
    for size in (1, 5):
        monkeypatch.setattr("clinjepa.evaluation.drift.BATCH_SIZE", size)
        results.append(evaluate_drift(build_predictor(spec, seed=1), *world, SETTINGS)["6"]["drift"]["value"])
    assert results[0] == pytest.approx(results[1], rel=1e-5)


def test_mean_latent_comes_from_training_stays_only(world: tuple[SteadyWorld, pa.Table]) -> None:
    latents, stays = world
    before = train_mean_latent(latents, stays)
    latents.num_hours.update(dict.fromkeys(range(12, 24), 500))
    np.testing.assert_array_equal(train_mean_latent(latents, stays), before)


def test_sampled_hours_lie_in_their_stays_and_split(world: tuple[SteadyWorld, pa.Table]) -> None:
    latents, stays = world
    sampled = sample_hours(stays, "held_out", 100, seed=0)
    assert sum(len(hours) for _, hours in sampled) == 100
    assert all(stay_id >= 12 and hours.max() < latents.num_hours[stay_id] for stay_id, hours in sampled)


def test_rankme_of_a_line_is_one_and_random_hours_on_it_are_told_apart(world: tuple[SteadyWorld, pa.Table]) -> None:
    class Line(SteadyWorld):
        def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            z_static_D, z_state_TD, z_action_TD = super().stay(stay_id, start_hour, num_hours)
            return z_static_D, 100 + z_state_TD[:, :1] * np.ones((1, DIM), np.float32), z_action_TD

    space = describe_space(Line(world[0].num_hours), world[1])
    assert space["rankme"] == pytest.approx(1.0, abs=1e-3)
    assert space["cosine_of_random_hours"] == pytest.approx(1.0, abs=1e-6)
