"""What the latent adds: found where it is planted, not found where it is not, from nothing after the prediction hour."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.clinical import load_task, load_tasks
from clinjepa.config import Config
from clinjepa.evaluation.added_value.evaluate import AddedValueData, column_name, evaluate_added_value
from clinjepa.evaluation.added_value.fits import INPUTS, task_points
from clinjepa.evaluation.added_value.inputs import pooled_latents
from clinjepa.evaluation.added_value.patients import drawn_patients, nested_subsets
from clinjepa.evaluation.added_value.result import AddedValueResult, ShareResult
from clinjepa.evaluation.downstream.prediction_points import Points
from clinjepa.evaluation.figures import Figure
from clinjepa.evaluation.settings import AddedValueSettings
from clinjepa.report.sections.added_value import answer
from tests.support.data.planted_grid import NUM_HOURS, Ingest, label_table

TASK = load_task("hypotension_8h")
HOURS = (7, 11, 15, 19, 23)


class MemoryLatents:
    """State latents [stay, hour, D] of stays 0, 1, …"""

    def __init__(self, state_STD: np.ndarray) -> None:
        self.state_STD, self.dim = state_STD.astype(np.float32), state_STD.shape[2]

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        stop = None if num_hours is None else start_hour + num_hours
        state_TD = self.state_STD[stay_id, start_hour:stop]
        return np.zeros(self.dim, np.float32), state_TD, np.zeros_like(state_TD)


class World:
    """The label follows the MAP of the hour, which the grid has, and a hidden value, which it has not. Every patient has two stays."""

    def __init__(self, root: Path, num_stays: int = 288, hours: tuple[int, ...] = HOURS) -> None:
        self.ingest = Ingest(root, num_stays)
        self.ingest.values["map"] = np.nan_to_num(self.ingest.values["map"], nan=75.0)
        self.ingest.write()
        self.rng = np.random.default_rng(7)
        self.hidden_ST = self.rng.normal(size=(num_stays, NUM_HOURS))
        low_ST = (75.0 - self.ingest.values["map"]) / 10.0
        self.label_ST = self.rng.random(low_ST.shape) < 1 / (1 + np.exp(-2 * low_ST - 2 * self.hidden_ST))
        rows = [(stay, hour, float(self.label_ST[stay, hour])) for stay in range(num_stays) for hour in hours]
        self.labels = label_table(rows, TASK.name)
        number = np.arange(num_stays)
        patient = pa.array(500 + 6 * (number // 12) + number % 6, pa.int64())
        place = self.ingest.stays.column_names.index("subject_id")
        self.stays = self.ingest.stays.set_column(place, "subject_id", patient)

    def latents(self, kind: str) -> MemoryLatents:
        noise_STD = np.random.default_rng(1).normal(size=(*self.hidden_ST.shape, 4))
        if kind == "extra":
            noise_STD[..., 0] = self.hidden_ST
        elif kind == "features":
            noise_STD[..., 0] = (self.ingest.values["map"] - 75.0) / 10.0
        elif kind == "constant":
            noise_STD[:] = 1.0
        return MemoryLatents(noise_STD)

    def data(self, kind: str) -> AddedValueData:
        return AddedValueData(self.latents(kind), self.ingest.folder, self.stays, self.labels)


def settings(**changed: Any) -> AddedValueSettings:
    of = AddedValueSettings.of(Config())
    return of.model_copy(update={"tasks": [TASK.name], "shares": [1.0], "min_positives": 5, "num_bootstrap": 200, **changed})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("ingest"))


def result(world: World, kind: str, **changed: Any) -> tuple[AddedValueResult, pa.Table]:
    return evaluate_added_value(world.data(kind), [TASK], settings(**changed))


def whole(found: AddedValueResult) -> ShareResult:
    return found["tasks"][TASK.name]["shares"]["1"]


def auroc(figure: Figure | None) -> float:
    assert figure is not None
    return figure["value"]


def test_latents_that_know_something_hidden_add_to_the_features(world: World) -> None:
    share = whole(result(world, "extra")[0])
    both = share["differences"]["lightgbm"]["both"]
    assert both["auroc"] is not None and both["auroc"]["ci95"] is not None and both["auroc"]["ci95"][0] > 0.05
    assert answer(both) == "adds" and both["p_holm"] == both["p_auroc"]
    by_input = share["methods"]["lightgbm"]
    assert auroc(by_input["both"]["auroc"]) - auroc(by_input["features"]["auroc"]) == pytest.approx(both["auroc"]["value"])
    assert auroc(share["methods"]["linear"]["latents"]["auroc"]) > 0.65


def test_latents_that_are_noise_add_nothing(world: World) -> None:
    share = whole(result(world, "noise")[0])
    both, latents = (share["differences"]["lightgbm"][name] for name in ("both", "latents"))
    assert both["auroc"] is not None and both["auroc"]["ci95"] is not None and both["auroc"]["ci95"][0] <= 0
    assert answer(both) != "adds"
    assert latents["auroc"] is not None and latents["auroc"]["ci95"] is not None and latents["auroc"]["ci95"][1] < 0
    assert abs(auroc(share["methods"]["linear"]["latents"]["auroc"]) - 0.5) < 0.1


def test_latents_that_repeat_a_feature_predict_and_add_nothing(world: World) -> None:
    share = whole(result(world, "features")[0])
    assert answer(share["differences"]["lightgbm"]["both"]) != "adds"
    for estimator in ("lightgbm", "linear"):
        assert abs(auroc(share["differences"][estimator]["latents"]["auroc"])) < 0.06
        assert auroc(share["methods"][estimator]["latents"]["auroc"]) > 0.65


def test_latents_that_never_change_differ_by_exactly_zero(world: World) -> None:
    both = whole(result(world, "constant", estimators=["lightgbm"])[0])["differences"]["lightgbm"]["both"]
    assert both["auroc"] is not None and (both["auroc"]["value"], both["auroc"]["ci95"]) == (0.0, [0.0, 0.0])
    assert both["p_auroc"] == 1.0 and answer(both) == "adds_no_more"


def test_more_patients_give_more_and_every_cell_has_its_predictions(world: World) -> None:
    found, kept = result(world, "extra", shares=[1.0, 0.1, 0.2])
    shares = found["tasks"][TASK.name]["shares"]
    assert list(shares) == ["0.1", "0.2", "1"] and found["num_train_patients"] == 72
    assert [share["num_train_patients"] for share in shares.values()] == [8, 15, 72]
    assert shares["0.1"]["num_train_points"] == 8 * 2 * len(HOURS)
    aurocs = [auroc(share["methods"]["lightgbm"]["both"]["auroc"]) for share in shares.values()]
    assert aurocs[-1] > aurocs[0] + 0.03
    columns = {(method, column_name(name, share)) for method, names in INPUTS.items() for name in names for share in (0.1, 0.2, 1.0)}
    assert set(zip(kept["method"].to_pylist(), kept["column"].to_pylist(), strict=True)) == columns
    assert kept.num_rows == len(columns) * found["tasks"][TASK.name]["num_total"]


def test_a_share_with_too_few_patients_of_a_class_has_a_reason(world: World) -> None:
    found, kept = result(world, "noise", shares=[0.01])
    share = found["tasks"][TASK.name]["shares"]["0.01"]
    cell, difference = share["methods"]["linear"]["latents"], share["differences"]["lightgbm"]["both"]
    assert share["num_train_patients"] == 1 and cell["auroc"] is None and difference["auroc"] is None and kept.num_rows == 0
    assert cell["reason"] == difference["reason"] == "1 patients with a positive label in 1 % of the training patients; 2 are needed"
    assert cell["num_total"] > 0


def test_a_task_that_the_risk_tasks_cannot_estimate_has_their_reason(world: World) -> None:
    found, _ = evaluate_added_value(world.data("noise"), load_tasks([TASK.name, "map_8h"]), settings(min_positives=50))
    assert list(found["tasks"]) == [TASK.name]  # numbers are no task of this evaluation
    assert "at least 50 are needed" in whole(found)["methods"]["lightgbm"]["features"]["reason"]


def test_what_happens_after_the_prediction_hour_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, 144, hours=(11,))
    before = result(world, "extra", shares=[0.5, 1.0])
    order = world.rng.permutation(np.arange(12, NUM_HOURS))
    latents = world.latents("extra")
    latents.state_STD[:, 12:] = 3.0 + latents.state_STD[:, order]
    for values in world.ingest.values.values():
        values[:, 12:] = 1.5 * values[:, order]
    world.ingest.write()
    after = evaluate_added_value(
        AddedValueData(latents, world.ingest.folder, world.stays, world.labels), [TASK], settings(shares=[0.5, 1.0])
    )
    assert after[0] == before[0] and after[1].equals(before[1])


def test_pooled_latents_are_the_last_and_the_mean_of_the_hours_up_to_the_point() -> None:
    latents = MemoryLatents(np.random.default_rng(0).normal(size=(3, NUM_HOURS, 4)))
    stay_P, hour_P = np.array([0, 0, 2]), np.array([3, 29, 0])
    for row, (stay, hour) in enumerate(zip(stay_P, hour_P, strict=True)):
        seen_TD = latents.state_STD[stay, : hour + 1]
        expected = np.concatenate([seen_TD[-1], seen_TD.mean(0)])
        np.testing.assert_allclose(pooled_latents(latents, stay_P, hour_P)[row], expected, rtol=1e-5, atol=1e-6)


def test_subsets_are_nested_and_hold_whole_patients(world: World) -> None:
    drawn = drawn_patients(world.stays, 5000, seed=0)
    subsets = nested_subsets(drawn, [1.0, 0.01, 0.1, 0.1])
    assert list(subsets) == [0.01, 0.1, 1.0] and [len(patients) for patients in subsets.values()] == [1, 8, 72]
    assert set(subsets[0.01]) < set(subsets[0.1]) < set(subsets[1.0])
    splits = dict(zip(world.stays["subject_id"].to_pylist(), world.stays["split"].to_pylist(), strict=True))
    assert {splits[patient] for patient in subsets[1.0].tolist()} == {"train"}
    assert len(nested_subsets(np.arange(30), [0.1])[0.1]) == 3
    assert list(drawn_patients(world.stays, 20, seed=0)) == list(drawn[:20])
    assert list(drawn_patients(world.stays, 5000, seed=1)) != list(drawn)


@pytest.mark.parametrize("split", ["held_out", "tuning", "train"])
def test_the_scored_split_is_whole_and_its_labels_are_hidden(split: str) -> None:
    splits = np.array(["train", "train", "train", "tuning", "held_out"], dtype=object)
    points = Points(np.arange(5), np.full(5, 11), np.array([0.0, 1.0, 1.0, 0.0, 1.0]), np.array([1, 2, 3, 4, 5]), splits)
    one = task_points(TASK, points, np.arange(10, 15), np.array([2, 3]), split)
    learnt, scored = one.where(one.points.split_N == "train"), one.where(one.points.split_N == "scored")
    assert learnt.rows_N.tolist() == [11, 12] and learnt.points.label_N.tolist() == [1.0, 1.0]
    assert scored.rows_N.tolist() == (10 + np.flatnonzero(splits == split)).tolist() and np.isnan(scored.points.label_N).all()


def test_the_number_of_threads_changes_no_score(world: World) -> None:
    one, two = (evaluate_added_value(world.data("extra"), [TASK], settings(estimators=["lightgbm"]), threads)[1] for threads in (1, 2))
    assert one.equals(two)
