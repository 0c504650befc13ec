"""Rollouts with other doses in worlds where their effect is known: who uses the action latent gets worse, who ignores it does not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.config.schema import DriftConfig
from clinjepa.evaluation.drift import MIN_PATIENTS, ContextDrift, evaluate_drift
from clinjepa.evaluation.drift_doses import LatentsWithDoses
from clinjepa.evaluation.seeds import combine_seeds
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.trajectory.tokens.changed_actions import Origin, ShiftCounts

DIM, HOURS, CONTEXT, FACTOR = 4, 40, 6, 3.0
SPEC = PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=HOURS)
NUM_STAYS = 40
GAIN, OFFSET = 0.5, 0.25
"""z(t + 1) = z(t) + GAIN · a(t); a prediction is off by OFFSET more in every hour and dimension."""


class World:
    """Stays whose action latent is the dose itself, in every dimension: 1 in the hours `dosed`, 0 without a drug."""

    dim = DIM

    def __init__(self, dosed: dict[int, list[int]]) -> None:
        self.dosed = dosed
        self.origin = Origin("encoder", FACTOR)

    def _actions(self, stay_id: int, dose: float) -> np.ndarray:
        z_action_TD = np.zeros((HOURS, DIM), np.float32)
        z_action_TD[self.dosed.get(stay_id, [])] = dose
        return z_action_TD

    @property
    def counts(self) -> ShiftCounts:
        num_changed = sum(map(len, self.dosed.values()))
        return {"num_stays": 30, "num_hours": 1200, "num_changed": num_changed, "num_doses": num_changed, "num_unread": 2, "num_tokens": 9}

    def recorded(self, stay_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_action_TD = self._actions(stay_id, 1.0)
        start_D = np.random.default_rng(stay_id).normal(size=(1, DIM)).astype(np.float32)
        z_state_TD = np.cumsum(np.concatenate([start_D, GAIN * z_action_TD[:-1]]), axis=0)
        return np.zeros(DIM, np.float32), z_state_TD.astype(np.float32), z_action_TD


class Recorded:
    dim = DIM

    def __init__(self, world: World) -> None:
        self.world = world

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        z_static_D, z_state_TD, z_action_TD = self.world.recorded(stay_id)
        stop = None if num_hours is None else start_hour + num_hours
        return z_static_D, z_state_TD[start_hour:stop], z_action_TD[start_hour:stop]


class Changed:
    """The store of changed actions: FACTOR times the dose in the hours with one."""

    def __init__(self, world: World) -> None:
        self.world, self.origin, self.counts = world, world.origin, world.counts

    def stay(self, stay_id: int) -> tuple[np.ndarray, np.ndarray]:
        hours_N = np.array(sorted(self.world.dosed.get(stay_id, [])), np.int64)
        return hours_N, np.full((len(hours_N), DIM), FACTOR, np.float32)


class AddsActions(Predictor):
    """Predicts z(t) + GAIN · a(t) + OFFSET; the cache is the real one."""

    def forward(self, z_static_BD, z_state_BTD, z_action_BTD, valid_BT=None, *, cache=None, keep_cache=False):  # type: ignore[no-untyped-def]
        _, *rest = super().forward(z_static_BD, z_state_BTD, z_action_BTD, valid_BT, cache=cache, keep_cache=keep_cache)
        return (z_state_BTD + OFFSET + (0 if z_action_BTD is None else GAIN * z_action_BTD), *rest)


def ignores_actions() -> Predictor:
    predictor = build_predictor(SPEC, seed=0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.fill_(0.3)
    return predictor


def table() -> pa.Table:
    ids = list(range(NUM_STAYS))
    splits = ["train" if stay_id < 10 else "held_out" for stay_id in ids]
    return pa.table({"stay_id": ids, "subject_id": ids, "split": splits, "num_hours": [HOURS] * NUM_STAYS})


def drift(predictor: Predictor, dosed: dict[int, list[int]], with_doses: bool = True, **settings: object) -> ContextDrift:
    config = DriftConfig.model_validate({"contexts": [CONTEXT], "starts": [0], "horizons": [1, 6, 24], "num_bootstrap": 100} | settings)
    world = World(dosed)
    latents = LatentsWithDoses(Recorded(world), Changed(world)) if with_doses else Recorded(world)
    return evaluate_drift(predictor, latents, table(), config)[str(CONTEXT)]


def expected(num_fed: int, horizon: int) -> float:
    """L1 with FACTOR times the doses over L1 with the recorded ones, − 1, after `num_fed` doses: both errors have the same sign."""
    return num_fed * GAIN * (FACTOR - 1) / (horizon * OFFSET)


def test_a_model_that_adds_the_action_gets_worse_by_the_doses_that_it_was_fed() -> None:
    """Stays 10 to 19 have a dose in the first two hours after the context, stays 20 to 29 in hour 20, the others none."""
    dosed = {stay_id: [6, 7] for stay_id in range(10, 20)} | {stay_id: [20] for stay_id in range(20, 30)}
    found = drift(AddsActions(SPEC), dosed)
    at = found["other_doses"]["horizons"]
    assert {h: cell["num_windows"] for h, cell in at.items()} == {"6": 10, "24": 20}
    assert at["6"]["change"] is not None and at["24"]["change"] is not None
    assert at["6"]["change"]["value"] == pytest.approx(expected(2, 6), rel=1e-4)
    assert at["6"]["change"]["num_patients"] == 10
    assert at["24"]["change"]["value"] == pytest.approx(expected(2, 24) / 2 + expected(1, 24) / 2, rel=1e-4)
    assert at["24"]["change"]["ci95"][0] > 0
    overall = found["actions"]["other_doses"]
    assert overall["6"] is not None and overall["6"]["value"] == pytest.approx(expected(2, 6) / 3, rel=1e-4)  # of all 30 windows
    assert overall["6"]["num_patients"] == 30 and "1" not in overall
    told = found["other_doses"]
    assert (told["factor"], told["num_hours"], told["num_changed"], told["num_unread"]) == (FACTOR, 1200, 30, 2)
    json.dumps(found, allow_nan=False)


def test_a_model_that_ignores_actions_is_exactly_the_same() -> None:
    found = drift(ignores_actions(), {stay_id: list(range(HOURS)) for stay_id in range(NUM_STAYS)})
    for figure in (found["actions"]["other_doses"]["24"], found["other_doses"]["horizons"]["24"]["change"]):
        assert figure is not None and (figure["value"], figure["ci95"]) == (0.0, [0.0, 0.0])


def test_doses_of_the_history_and_beyond_the_rollout_change_nothing() -> None:
    """Hour 5 is the last given one; the action of hour 11 follows the prediction at horizon 6 (hour 11)."""
    found = drift(AddsActions(SPEC), {stay_id: [0, 5, 11] for stay_id in range(NUM_STAYS)})
    at_6 = found["other_doses"]["horizons"]["6"]
    assert (at_6["change"], at_6["num_windows"]) == (None, 0)
    overall = found["actions"]["other_doses"]["6"]
    assert overall is not None and overall["value"] == pytest.approx(0.0, abs=1e-6)
    assert found["other_doses"]["horizons"]["24"]["num_windows"] == 30


def test_the_hour_of_a_dose_counts_from_the_start_of_the_window() -> None:
    """A window from hour 12 is given hours 12 to 17, so a dose in hour 14 is history there and later action from admission."""
    found = drift(AddsActions(SPEC), {stay_id: [14] for stay_id in range(NUM_STAYS)}, starts=[0, 12], horizons=[1, 6, 12])
    windows = {h: cell["num_windows"] for h, cell in found["other_doses"]["horizons"].items()}
    assert windows == {"6": 0, "12": 30}


def test_too_few_patients_with_a_dose_have_no_figure_and_a_reason() -> None:
    found = drift(AddsActions(SPEC), {stay_id: [7] for stay_id in range(10, 10 + MIN_PATIENTS - 1)})
    at_6 = found["other_doses"]["horizons"]["6"]
    assert (at_6["change"], at_6["num_windows"]) == (None, MIN_PATIENTS - 1)
    assert at_6["reason"] == f"fewer than {MIN_PATIENTS} patients have a dose between the history and this horizon"
    assert drift(AddsActions(SPEC), {stay_id: [7] for stay_id in range(10, 10 + MIN_PATIENTS)})["other_doses"]["horizons"]["6"]["change"]


def test_stays_without_any_dose_are_measured_without_a_store_row() -> None:
    """As in data that record no drugs: the same figures as without the setting, and a reason in each."""
    found = drift(AddsActions(SPEC), {})
    assert all(cell["change"] is None and cell["reason"] for cell in found["other_doses"]["horizons"].values())


def test_what_is_measured_without_the_setting_does_not_depend_on_it() -> None:
    dosed = {stay_id: [6, 9, 20] for stay_id in range(NUM_STAYS)}
    without, beside = (drift(AddsActions(SPEC), dosed, with_doses=each) for each in (False, True))
    assert "other_doses" not in without and "other_doses" not in without["actions"]
    assert beside["horizons"] == without["horizons"] and beside["drift"] == without["drift"]
    assert {name: beside["actions"][name] for name in without["actions"]} == without["actions"]


def test_a_context_that_nobody_reaches_has_no_record_of_doses() -> None:
    world = World({})
    config = DriftConfig.model_validate({"contexts": [38], "headline_context": 38, "horizons": [6], "num_bootstrap": 10, "starts": [12]})
    assert "other_doses" not in evaluate_drift(ignores_actions(), LatentsWithDoses(Recorded(world), Changed(world)), table(), config)["38"]


def test_seeds_of_a_recipe_are_combined() -> None:
    found = drift(AddsActions(SPEC), {stay_id: [7] for stay_id in range(NUM_STAYS)})
    together = combine_seeds([found, found])["other_doses"]
    assert together["horizons"]["6"]["num_windows"] == 30 and together["horizons"]["6"]["change"]["num_seeds"] == 2
    assert together["factor"] == FACTOR
