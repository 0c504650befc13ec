"""What the drift evaluation says of a change over horizons: on which windows, from which part, and with which actions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch

from clinjepa.config.schema import DriftConfig
from clinjepa.errors import EvaluationError
from clinjepa.evaluation.drift import ContextDrift, evaluate_drift
from clinjepa.evaluation.drift_windows import drift_windows
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.model.rollout import rollout
from clinjepa.model.specs import PredictorSpec

DIM, MAX_HOURS = 6, 40
SPEC = PredictorSpec(latent_dim=DIM, hidden_size=8, num_layers=1, num_heads=2, ffn_size=16, max_hours=MAX_HOURS)
Stay = tuple[np.ndarray, np.ndarray, np.ndarray]


class World:
    """Stays held in memory; the first ten are training stays, each stay is of a patient of its own."""

    dim = DIM

    def __init__(self, num_hours: list[int]) -> None:
        self.num_hours = num_hours
        self.all: dict[int, Stay] = {}

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> Stay:
        z_static_D, z_state_TD, z_action_TD = self.all[stay_id]
        stop = None if num_hours is None else start_hour + num_hours
        return z_static_D, z_state_TD[start_hour:stop], z_action_TD[start_hour:stop]

    def fill(self, states: np.ndarray | None = None, seed: int = 0) -> World:
        """states: [T, D] of every stay; else z(t + 1) = z(t) + a(t) with a little noise on what is seen of z."""
        rng = np.random.default_rng(seed)
        for stay_id, hours in enumerate(self.num_hours):
            z_action_TD = rng.normal(size=(hours, DIM))
            z_state_TD = np.cumsum(np.concatenate([rng.normal(size=(1, DIM)), z_action_TD[:-1]]), axis=0)
            z_state_TD += 0.1 * rng.normal(size=z_state_TD.shape)
            if states is not None:
                z_state_TD = states[:hours]
            self.all[stay_id] = (np.zeros(DIM, np.float32), z_state_TD.astype(np.float32), z_action_TD.astype(np.float32))
        return self

    @property
    def table(self) -> pa.Table:
        ids = list(range(len(self.num_hours)))
        splits = ["train" if stay_id < 10 else "held_out" for stay_id in ids]
        return pa.table({"stay_id": ids, "subject_id": ids, "split": splits, "num_hours": self.num_hours})

    def drift(self, predictor: Predictor, **settings: object) -> ContextDrift:
        config = DriftConfig.model_validate({"contexts": [6], "starts": [0], "horizons": [1, 6, 24], "num_bootstrap": 100} | settings)
        return evaluate_drift(predictor, self, self.table, config)["6"]


def constant_predictor(value: float = 0.0) -> Predictor:
    predictor = build_predictor(SPEC, seed=0)
    with torch.no_grad():
        predictor.out.weight.zero_()
        predictor.out.bias.fill_(value)
    return predictor


class AddsActions(Predictor):
    """Predicts z(t) + a(t), and z(t) where the action is unknown; the cache is the real one."""

    def forward(self, z_static_BD, z_state_BTD, z_action_BTD, valid_BT=None, *, cache=None, keep_cache=False):  # type: ignore[no-untyped-def]
        _, *rest = super().forward(z_static_BD, z_state_BTD, z_action_BTD, valid_BT, cache=cache, keep_cache=keep_cache)
        return (z_state_BTD if z_action_BTD is None else z_state_BTD + z_action_BTD, *rest)


def value(figure: object) -> float:
    assert isinstance(figure, dict)
    return float(figure["value"])


def test_every_horizon_has_all_windows_that_reach_it() -> None:
    world = World([40] * 10 + [8] * 20 + [15] * 10 + [36] * 6).fill()
    found = world.drift(constant_predictor())
    assert {h: cell["num_windows"] for h, cell in found["horizons"].items()} == {"1": 36, "6": 16, "24": 6}
    assert found["horizons"]["6"]["l1"]["num_patients"] == 16


def test_windows_begin_at_every_start_that_leaves_an_hour_to_predict() -> None:
    stays = pa.table({"stay_id": [1, 2], "subject_id": [1, 1], "num_hours": [30, 19]})
    windows = drift_windows(stays, 6, [12, 0, 24, 12], longest=20, max_horizon=48)
    rows = {(int(s), int(b)): int(r) for s, b, r in zip(windows.stay_W, windows.start_W, windows.reach_W, strict=True)}
    assert rows == {(1, 0): 14, (1, 12): 12, (2, 0): 13, (2, 12): 1}


def test_a_change_compares_the_same_windows_and_survivors_are_given_beside() -> None:
    """Short stays lie at 1 and long ones at 4: the error of a constant 0 never changes within a stay."""
    world = World([40] * 10 + [8] * 30 + [36] * 10)
    for stay_id, hours in enumerate(world.num_hours):
        place = 4.0 if hours == 36 else 1.0
        world.all[stay_id] = (np.zeros(DIM, np.float32), *(np.full((hours, DIM), place, np.float32) for _ in range(2)))
    found = world.drift(constant_predictor())
    assert found["h_max"] == 1 and found["drift"] is None  # 30 patients reach 1 h alone
    assert value(found["horizons"]["24"]["change"]) == pytest.approx(0.0, abs=1e-6)
    assert found["horizons"]["24"]["change"]["ci95"] == pytest.approx([0.0, 0.0], abs=1e-6)
    more = World([40] * 10 + [8] * 30 + [36] * 30)
    more.all = {stay_id: world.all[45 if hours == 36 else 15] for stay_id, hours in enumerate(more.num_hours)}
    found = more.drift(constant_predictor())
    assert (found["h_max"], found["num_stays"]) == (24, 30)
    assert value(found["drift"]) == pytest.approx(0.0, abs=1e-6)
    assert value(found["drift_survivors"]) == pytest.approx(4 / 2.5 - 1, rel=1e-6)


def test_the_drift_is_of_the_longest_horizon_with_enough_patients_for_an_interval() -> None:
    world = World([40] * 10 + [15] * 30 + [36] * 6).fill()
    found = world.drift(constant_predictor())
    assert (found["h_max"], found["num_stays"]) == (6, 36)
    assert found["drift"] == found["horizons"]["6"]["change"]
    assert found["horizons"]["24"]["change"]["num_patients"] == 6


def test_a_shrinking_space_and_a_better_prediction_are_told_apart() -> None:
    """Latents shrink to a quarter towards the training mean 0; the prediction 0.5 · z is always off by half of the spread."""
    sizes_T = np.array([4.0] * 7 + [1.0] * 33)
    world = World([40] * 50).fill(np.outer(sizes_T, [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    for stay_id in range(10):  # training stays on both sides of 0
        z_static_D, z_state_TD, z_action_TD = world.all[stay_id]
        world.all[stay_id] = (z_static_D, z_state_TD * (-1) ** stay_id, z_action_TD)

    class Half(Predictor):
        hour = 6

        def forward(self, z_static_BD, z_state_BTD, z_action_BTD, valid_BT=None, *, cache=None, keep_cache=False):  # type: ignore[no-untyped-def]
            pred_BTD, *rest = super().forward(z_static_BD, z_state_BTD, z_action_BTD, valid_BT, cache=cache, keep_cache=keep_cache)
            hour = int(rest[-1].next_hour_B[0])
            true_D = torch.from_numpy(world.all[20][1][hour])
            return (0.5 * true_D.expand_as(pred_BTD), *rest)

    at_24 = world.drift(Half(SPEC))["horizons"]["24"]
    assert value(at_24["change"]) == pytest.approx(-0.75)
    assert value(at_24["change_of_space"]) == pytest.approx(-0.75)
    assert value(at_24["change_of_prediction"]) == pytest.approx(0.0, abs=1e-6)
    assert value(at_24["variance_ratio"]) == pytest.approx(0.25)
    steady = World([40] * 50).fill(np.tile([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], (40, 1)))
    for stay_id in range(10):
        steady.all[stay_id] = (steady.all[stay_id][0], steady.all[stay_id][1] * (-1) ** stay_id, steady.all[stay_id][2])
    cell = steady.drift(AddsActions(SPEC))["horizons"]["24"]
    assert value(cell["change_of_space"]) == pytest.approx(0.0, abs=1e-6)
    assert value(cell["change_of_prediction"]) == pytest.approx(value(cell["change"])) != 0


def test_the_two_parts_of_a_change_multiply_to_it() -> None:
    found = World([40] * 10 + list(range(20, 39)) * 3).fill().drift(build_predictor(SPEC, seed=3), starts=[0, 6])
    for cell in found["horizons"].values():
        product = (1 + value(cell["change_of_space"])) * (1 + value(cell["change_of_prediction"]))
        assert product == pytest.approx(1 + value(cell["change"]))


def test_a_model_that_knows_actions_gets_worse_with_wrong_ones() -> None:
    found = World([40] * 60).fill().drift(AddsActions(SPEC))
    for version in ("carried_forward", "none", "shuffled", "late"):
        assert found["actions"][version]["24"]["ci95"][0] > 0.5
    assert value(found["actions"]["none"]["6"]) < value(found["actions"]["shuffled"]["6"])


def test_a_model_that_ignores_actions_is_the_same_with_wrong_ones() -> None:
    found = World([40] * 60).fill().drift(constant_predictor(1.0))
    for version in ("carried_forward", "none", "shuffled", "late"):
        assert found["actions"][version]["24"]["value"] == 0.0
        assert found["actions"][version]["24"]["ci95"] == [0.0, 0.0]


def test_wrong_actions_leave_the_first_hour_as_it_is() -> None:
    """The first predicted hour follows the last given action, which no version changes."""
    assert "1" not in World([40] * 60).fill().drift(AddsActions(SPEC))["actions"]["shuffled"]


def test_figures_are_those_of_the_rollout_from_every_start() -> None:
    world, predictor = World([40] * 20).fill(), build_predictor(SPEC, seed=1).eval()
    found = world.drift(predictor, starts=[0, 6])
    errors = []
    for stay_id in range(10, 20):
        for start in (0, 6):
            z_static, z_state, z_action = (torch.from_numpy(part)[None] for part in world.stay(stay_id, start, 30))
            with torch.no_grad():
                predicted = rollout(predictor, z_static, z_state, z_action, 6, 24)[0]
            errors.append((predicted[0] - z_state[0, 6:]).abs().sum(1).numpy())
    for h in (1, 6, 24):
        assert value(found["horizons"][str(h)]["l1"]) == pytest.approx(np.mean([error[h - 1] for error in errors]), rel=1e-4)
    assert {start: found["starts"][start]["num_windows"] for start in found["starts"]} == {"0": 10, "6": 10}


def test_starts_show_what_the_hour_of_the_stay_does() -> None:
    """Latents jump from 1 to 5 at hour 15: from admission the error grows with the horizon, from hour 12 it grew before 6 h ahead."""
    states = np.where(np.arange(40)[:, None] < 15, 1.0, 5.0) * np.ones((1, DIM))
    found = World([40] * 60).fill(states).drift(constant_predictor(), starts=[0, 12], horizons=[1, 12])
    assert value(found["starts"]["0"]["drift"]) == pytest.approx(4.0)
    assert value(found["starts"]["12"]["drift"]) == pytest.approx(0.0, abs=1e-6)
    assert value(found["drift"]) == pytest.approx(10 / 6 - 1)


def test_a_prediction_that_is_not_finite_is_an_error() -> None:
    with pytest.raises(EvaluationError, match="a predicted latent is NaN or infinite"):
        World([40] * 20).fill().drift(constant_predictor(float("nan")))


def test_the_drift_is_exactly_the_same_with_any_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is computed by one thread, whichever it is."""
    monkeypatch.setattr("clinjepa.evaluation.drift.BATCH_SIZE", 8)
    world, before, found = World([30] * 60).fill(), torch.get_num_threads(), []
    settings = DriftConfig(contexts=[6], starts=[0, 6], horizons=[1, 6, 12], num_bootstrap=20)
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(evaluate_drift(build_predictor(SPEC, seed=1), world, world.table, settings))
    torch.set_num_threads(before)
    assert found[0] == found[1] == found[2] and found[0]["6"]["horizons"]["12"]["l1"] is not None
