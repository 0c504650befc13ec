"""Frozen probes: the same scores as when they were fitted, no stay of train touched, and probabilities without any label."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clinjepa.errors import ConfigError, EvaluationError, StoreError
from clinjepa.evaluation.downstream.evaluate import score_downstream
from clinjepa.evaluation.downstream.fitted import FittedProbes
from clinjepa.evaluation.downstream.fitting import fit_probes
from clinjepa.evaluation.downstream.frozen import LabelledLatents, score_frozen
from clinjepa.evaluation.downstream.point_features import COLUMNS, point_features
from clinjepa.evaluation.downstream.prediction import predict_points
from clinjepa.evaluation.downstream.task_cells import DownstreamResults
from clinjepa.evaluation.predictions import PREDICTIONS_SCHEMA
from clinjepa.model.predictor import Predictor, build_predictor
from clinjepa.storage import Folder
from tests.evaluation.test_evaluation_downstream import NUM_HOURS, MemoryLatents, _labels, _stays
from tests.evaluation.test_fitted_probes import DEATH, EVENT, NUMBER, RARE, SETTINGS, SPEC, TASKS, some_labels

NUM_STAYS = 60
FIRST = datetime(2150, 3, 1, 12)


class ForbiddenLatents(MemoryLatents):
    """Latents that raise for stays, or for hours of any stay, that must not be read."""

    def __init__(self, forbidden_stays: set[int], last_hour: int = NUM_HOURS - 1) -> None:
        super().__init__(NUM_STAYS)
        self.forbidden_stays, self.last_hour = forbidden_stays, last_hour

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert stay_id not in self.forbidden_stays, "a stay that must not be read"
        assert start_hour + (NUM_HOURS if num_hours is None else num_hours) <= self.last_hour + 1, "an hour that must not be read"
        return super().stay(stay_id, start_hour, num_hours)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return build_predictor(SPEC, seed=0)


@pytest.fixture(scope="module")
def before(predictor: Predictor) -> DownstreamResults:
    latents = MemoryLatents(NUM_STAYS)
    return score_downstream(predictor, latents, some_labels(latents), _stays(NUM_STAYS), TASKS, SETTINGS)


@pytest.fixture(scope="module")
def probes(before: DownstreamResults, tmp_path_factory: pytest.TempPathFactory) -> FittedProbes:
    """As they come from their files."""
    folder: Path = tmp_path_factory.mktemp("probes")
    assert before.probes is not None
    before.probes.write(Folder(folder))
    return FittedProbes.read(Folder(folder))


def new_stays(num_stays: int = NUM_STAYS) -> pa.Table:
    """Stays of one's own night: no split is known; stay i begins i minutes after noon."""
    intime = pa.array([FIRST + timedelta(minutes=stay) for stay in range(num_stays)], pa.timestamp("us"))
    return _stays(num_stays).drop_columns(["split"]).append_column("intime", intime)


def points(*pairs: tuple[int, int]) -> pa.Table:
    return pa.table({"stay_id": [stay for stay, _ in pairs], "hour": [hour for _, hour in pairs]})


def scores(table: pa.Table) -> np.ndarray:
    return np.asarray(table["score"].to_numpy())


def test_frozen_scores_of_the_scored_split_are_those_of_the_evaluation(
    predictor: Predictor, before: DownstreamResults, probes: FittedProbes
) -> None:
    """Figures too: rounding of features in other batches changes the last digits only."""
    latents = MemoryLatents(NUM_STAYS)
    found = score_frozen(probes, predictor, LabelledLatents(latents, some_labels(latents), _stays(NUM_STAYS)), TASKS, SETTINGS)
    assert found.probes is None
    assert found.predictions.drop_columns(["score", "predicted_boolean_probability"]).equals(
        before.predictions.drop_columns(["score", "predicted_boolean_probability"])
    )
    np.testing.assert_allclose(scores(found.predictions), scores(before.predictions), rtol=1e-4, atol=1e-5)
    for column in COLUMNS:
        for kind in ("linear", "mlp"):
            one, other = (each.tables[EVENT.name][kind][column] for each in (found, before))
            assert one["auroc"]["value"] == pytest.approx(other["auroc"]["value"], abs=1e-3)
            one, other = (each.regression[NUMBER.name][kind][column] for each in (found, before))
            assert one["mae"]["value"] == pytest.approx(other["mae"]["value"], rel=1e-4)


def test_neither_latents_nor_labels_of_other_splits_are_read(predictor: Predictor, probes: FittedProbes) -> None:
    stays = _stays(NUM_STAYS)
    others = {stay for stay, split in zip(stays["stay_id"].to_pylist(), stays["split"].to_pylist(), strict=True) if split != "held_out"}
    latents, labels = ForbiddenLatents(others), some_labels(MemoryLatents(NUM_STAYS))
    all_given = score_frozen(probes, predictor, LabelledLatents(latents, labels, stays), TASKS, SETTINGS)
    assert {*all_given.predictions["stay_id"].to_pylist()} == {*range(NUM_STAYS)} - others
    alone = LabelledLatents(
        latents,
        labels.filter(pc.invert(pc.is_in(labels["stay_id"], pa.array(sorted(others))))),
        stays.filter(pc.equal(stays["split"], "held_out")),
    )
    assert score_frozen(probes, predictor, alone, TASKS, SETTINGS).predictions.equals(all_given.predictions)


def test_a_fit_reads_no_held_out_stay(predictor: Predictor, before: DownstreamResults) -> None:
    stays = _stays(NUM_STAYS)
    held_out = set(stays.filter(pc.equal(stays["split"], "held_out"))["stay_id"].to_pylist())
    latents = ForbiddenLatents(held_out)
    labels = some_labels(latents)
    fitted = fit_probes(predictor, LabelledLatents(latents, labels, stays), TASKS, SETTINGS)
    assert held_out and before.probes is not None
    x_NF = np.zeros((1, fitted.num_features["history_only"] or 0), dtype=np.float32)
    for name, task in fitted.tasks.items():
        for (column, kind), probe in task.probes.items():
            if column == "history_only":
                assert probe(x_NF) == before.probes.tasks[name].probes[column, kind](x_NF)


def test_a_task_or_a_kind_that_the_probes_lack_is_null_with_the_reason(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    without = replace(
        probes,
        kinds=("linear",),
        tasks={
            EVENT.name: probes.tasks[EVENT.name],
            NUMBER.name: replace(probes.tasks[NUMBER.name], output="log_odds"),
            RARE.name: probes.tasks[RARE.name],
        },
    )
    found = score_frozen(without, predictor, LabelledLatents(latents, some_labels(latents), _stays(NUM_STAYS)), TASKS, SETTINGS)
    assert found.tables[EVENT.name]["linear"]["history_only"]["auroc"] is not None
    assert found.tables[EVENT.name]["mlp"]["history_only"]["reason"] == "the frozen probes have no probe of kind mlp"
    assert found.tables[DEATH.name]["linear"]["recorded_actions"]["reason"] == "the frozen probes have no task of this name"
    assert found.tables[DEATH.name]["linear"]["recorded_actions"]["num_total"] == 20
    assert found.regression[NUMBER.name]["linear"]["history_only"]["reason"].endswith("labels of another kind")
    assert found.tables[RARE.name]["mlp"]["history_only"]["reason"].startswith(
        "no probe was fitted: 1 patients with a positive label in train"
    )
    assert {*found.predictions["task"].to_pylist()} == {EVENT.name}


def test_too_few_patients_in_the_scored_split_are_null(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    labels = _labels(DEATH, [(stay, 23, float(stay == 4)) for stay in range(NUM_STAYS)])
    found = score_frozen(probes, predictor, LabelledLatents(latents, labels, _stays(NUM_STAYS)), [DEATH], SETTINGS)
    assert (
        found.tables[DEATH.name]["linear"]["history_only"]["reason"]
        == "1 patients with a positive label in held_out; at least 5 are needed"
    )


def test_a_task_with_another_horizon_is_another_task(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    data = LabelledLatents(latents, some_labels(latents), _stays(NUM_STAYS))
    found = score_frozen(probes, predictor, data, [replace(EVENT, horizon_hours=2)], SETTINGS)
    assert "another horizon" in found.tables[EVENT.name]["linear"]["history_only"]["reason"]


def test_features_of_other_settings_or_another_predictor_are_refused(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    data = LabelledLatents(latents, some_labels(latents), _stays(NUM_STAYS))
    with pytest.raises(ConfigError, match="pooling=last, but the frozen probes were fitted with context"):
        score_frozen(probes, predictor, data, TASKS, SETTINGS.model_copy(update={"pooling": "last"}))
    with pytest.raises(ConfigError, match="rollout_hours=5, but the frozen probes were fitted with 6"):
        score_frozen(probes, predictor, data, TASKS, SETTINGS.model_copy(update={"rollout_hours": 5}))
    other = build_predictor(SPEC, seed=1)
    with pytest.raises(StoreError, match="another predictor"):
        score_frozen(probes, other, data, TASKS, SETTINGS)
    with pytest.raises(StoreError, match="another predictor"):
        predict_points(other, latents, new_stays(), probes)


@pytest.mark.parametrize("column", ["history_only", "actions_carried_forward"])
def test_predictions_without_labels_are_those_of_the_evaluation_with_labels(
    predictor: Predictor, before: DownstreamResults, probes: FittedProbes, column: str
) -> None:
    found = predict_points(predictor, MemoryLatents(NUM_STAYS), new_stays(), probes, column=column)
    assert found.schema == PREDICTIONS_SCHEMA
    for task in (EVENT, DEATH, NUMBER):
        for kind in ("linear", "mlp"):
            labelled = before.predictions.filter(
                (pc.field("task") == task.name) & (pc.field("method") == kind) & (pc.field("column") == column)
            )
            of = {
                (row["stay_id"], row["hour"]): row["score"]
                for row in found.to_pylist()
                if (row["task"], row["method"]) == (task.name, kind)
            }
            expected = {(row["stay_id"], row["hour"]): row["score"] for row in labelled.to_pylist()}
            assert expected and expected.keys() <= of.keys()
            np.testing.assert_allclose([of[key] for key in expected], list(expected.values()), rtol=1e-4, atol=1e-5)


def test_every_point_of_the_rule_is_predicted_and_no_label_is_known(predictor: Predictor, probes: FittedProbes) -> None:
    stays = new_stays(3).set_column(2, "num_hours", pa.array([NUM_HOURS, 9, 2], pa.int32()))
    found = predict_points(predictor, MemoryLatents(3), stays, probes)
    assert found["boolean_value"].null_count == found["float_value"].null_count == found.num_rows
    asked = {(row["task"], row["method"]): [] for row in found.to_pylist()}
    for row in found.to_pylist():
        asked[row["task"], row["method"]].append((row["stay_id"], row["hour"]))
    hourly = [*((0, hour) for hour in range(3, NUM_HOURS, 4)), (1, 3), (1, 7)]
    for kind in ("linear", "mlp"):
        assert asked[EVENT.name, kind] == asked[NUMBER.name, kind] == hourly
        assert asked[DEATH.name, kind] == [(0, 23)]
    assert {task for task, _ in asked} == {EVENT.name, DEATH.name, NUMBER.name}


def test_asked_points_are_predicted_for_every_task_and_kind(predictor: Predictor, probes: FittedProbes) -> None:
    found = predict_points(predictor, MemoryLatents(NUM_STAYS), new_stays(), probes, points=points((7, 5), (2, 11), (7, 5), (2, 0)))
    rows = [(row["task"], row["method"], row["stay_id"], row["hour"]) for row in found.to_pylist()]
    pairs = [(2, 0), (2, 11), (7, 5)]
    assert rows == [(task.name, kind, *pair) for task in (EVENT, DEATH, NUMBER) for kind in ("linear", "mlp") for pair in pairs]
    row = found.filter(pc.field("hour") == 5).to_pylist()[0]
    assert row["prediction_time"] == FIRST + timedelta(minutes=7, hours=6) and row["subject_id"] == 507


def test_a_probability_is_the_logistic_function_of_the_probe_s_log_odds(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    found = predict_points(predictor, latents, new_stays(), probes, points=points((3, 10)))
    (row,) = found.filter((pc.field("task") == EVENT.name) & (pc.field("method") == "linear")).to_pylist()
    x_NF = point_features(predictor, latents, np.array([3]), np.array([10]), rollout_hours=6, pooling="context").history_NF
    probe = probes.tasks[EVENT.name].probes["history_only", "linear"]
    z_F = [
        min(10.0, max(-10.0, (float(x) - float(mean)) * float(scale)))
        for x, mean, scale in zip(x_NF[0], probe.standardise.mean_F, probe.standardise.scale_F, strict=True)
    ]
    log_odds = sum(z * float(weight) for z, weight in zip(z_F, probe.weights.weights_F, strict=True)) + probe.weights.intercept
    assert row["score"] == pytest.approx(log_odds, rel=1e-4, abs=1e-4)
    assert row["predicted_boolean_probability"] == pytest.approx(1 / (1 + math.exp(-row["score"])), rel=1e-6)
    assert row["predicted_boolean_value"] == (row["score"] >= 0)
    number = found.filter(pc.field("task") == NUMBER.name)
    assert number["predicted_boolean_probability"].null_count == number.num_rows
    assert np.abs(scores(number) - 80).max() < 10


@pytest.mark.parametrize("column", ["history_only", "actions_carried_forward"])
def test_no_hour_after_the_prediction_is_read(predictor: Predictor, probes: FittedProbes, column: str) -> None:
    """Nothing beyond the last asked hour is even fetched; of an earlier point of the stay nothing changes when later hours do."""
    asked = points((3, 10), (4, 6), (4, 12))
    latents = ForbiddenLatents(set(), last_hour=12)
    first = predict_points(predictor, latents, new_stays(), probes, points=asked, column=column)
    for part in (1, 2):
        latents.stays[4][part][7:] += 5.0
        latents.stays[3][part][11:] -= 5.0
    second = predict_points(predictor, latents, new_stays(), probes, points=asked, column=column)
    later = np.array([row["stay_id"] == 4 and row["hour"] == 12 for row in first.to_pylist()])
    np.testing.assert_array_equal(scores(second)[~later], scores(first)[~later])
    assert not np.allclose(scores(second)[later], scores(first)[later])


def test_a_stay_that_goes_on_has_the_predictions_that_it_keeps_later(predictor: Predictor, probes: FittedProbes) -> None:
    """The length of the stay, which is not known yet, enters nothing."""
    short = new_stays().set_column(2, "num_hours", pa.array([14] * NUM_STAYS, pa.int32()))
    asked = points((5, 13), (9, 4))
    now, later = (
        predict_points(predictor, MemoryLatents(NUM_STAYS), stays, probes, points=asked, column="actions_carried_forward")
        for stays in (short, new_stays())
    )
    assert now.equals(later)


@pytest.mark.parametrize("pair", [(3, NUM_HOURS), (3, -1), (NUM_STAYS + 5, 3)])
def test_points_outside_the_stays_are_refused_without_naming_them(
    predictor: Predictor, probes: FittedProbes, pair: tuple[int, int]
) -> None:
    with pytest.raises(EvaluationError, match="^1 of 2 points lie in no stay"):
        predict_points(predictor, MemoryLatents(NUM_STAYS), new_stays(), probes, points=points((3, 4), pair))


def test_no_prediction_is_made_from_recorded_actions_or_other_latents(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    with pytest.raises(EvaluationError, match="column=recorded_actions needs hours after the prediction"):
        predict_points(predictor, latents, new_stays(), probes, column="recorded_actions")
    latents.dim = 7
    with pytest.raises(EvaluationError, match="7 dimensions"):
        predict_points(predictor, latents, new_stays(), probes)


def test_no_point_gives_an_empty_table(predictor: Predictor, probes: FittedProbes) -> None:
    latents = MemoryLatents(NUM_STAYS)
    empty = pa.table({"stay_id": pa.array([], pa.int64()), "hour": pa.array([], pa.int32())})
    nothing = predict_points(predictor, latents, new_stays(), probes, points=empty)
    assert nothing.num_rows == 0 and nothing.schema == PREDICTIONS_SCHEMA
