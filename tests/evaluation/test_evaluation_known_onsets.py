"""Probes where onsets follow from a known signal: a perfect latent reaches the best AUROC, one without the signal is at chance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinjepa.config.schema import DownstreamConfig, ProbeConfig
from clinjepa.evaluation.downstream.evaluate import score_downstream
from clinjepa.evaluation.downstream.prediction_points import MethodTable, prediction_points
from clinjepa.evaluation.metrics import auroc
from clinjepa.evaluation.predictions import cell_predictions
from tests.support.data.forecast_world import TASK, ForecastWorld, stepping_predictor

SETTINGS = DownstreamConfig(
    tasks=[TASK.name],
    pooling="last",
    rollout_hours=8,
    num_bootstrap=200,
    probe=ProbeConfig(kinds=["linear", "mlp"], hidden_size=16, batch_size=256, learning_rate=1e-2, max_epochs=30),
)


@pytest.fixture
def world(tmp_path: Path) -> ForecastWorld:
    return ForecastWorld(tmp_path, num_stays=480)


def tables(world: ForecastWorld) -> dict[str, MethodTable]:
    return score_downstream(stepping_predictor(), world, world.labels(), world.stays, [TASK], SETTINGS)[0][TASK.name]


def best_auroc(world: ForecastWorld) -> float:
    """Of the true signal: every MAP falls by the same step, so a lower signal is a higher risk whatever else is known."""
    points = prediction_points(world.labels(), world.stays, TASK, SETTINGS).of("held_out")
    return auroc(points.label_N, -world.signal_STD[points.stay_N, points.hour_N, 1])


@pytest.mark.parametrize("kind", ["linear", "mlp"])
@pytest.mark.parametrize("column", ["history_only", "actions_carried_forward"])
def test_a_perfect_latent_has_the_auroc_of_the_true_signal(world: ForecastWorld, kind: str, column: str) -> None:
    best, found = best_auroc(world), tables(world)[kind][column]["auroc"]
    assert found is not None and found["ci95"] is not None
    assert best > 0.75
    assert found["value"] == pytest.approx(best, abs=0.02)
    assert found["ci95"][0] < best < found["ci95"][1]


def test_probabilities_of_a_perfect_latent_are_calibrated(world: ForecastWorld) -> None:
    kept = score_downstream(stepping_predictor(), world, world.labels(), world.stays, [TASK], SETTINGS).predictions
    cell = cell_predictions(kept, "linear", "history_only").to_pandas()
    expected, observed = cell.predicted_boolean_probability, cell.boolean_value.astype(float)
    assert expected.mean() == pytest.approx(observed.mean(), abs=0.04)
    upper = expected > expected.median()
    for half in (upper, ~upper):
        assert expected[half].mean() == pytest.approx(observed[half].mean(), abs=0.06)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_latents_without_the_signal_are_at_chance(world: ForecastWorld, kind: str) -> None:
    labels = world.labels()
    world.signal_STD = np.random.default_rng(11).normal(size=world.signal_STD.shape).astype(np.float32)
    table = score_downstream(stepping_predictor(), world, labels, world.stays, [TASK], SETTINGS)[0][TASK.name][kind]
    for cell in table.values():
        assert cell["auroc"] is not None and cell["auroc"]["ci95"] is not None
        assert cell["auroc"]["ci95"][0] < 0.5 < cell["auroc"]["ci95"][1]
        assert cell["auroc"]["value"] == pytest.approx(0.5, abs=0.08)


def test_collapsed_latents_are_exactly_at_chance(world: ForecastWorld) -> None:
    labels = world.labels()
    world.signal_STD = np.ones_like(world.signal_STD)
    table = score_downstream(stepping_predictor(), world, labels, world.stays, [TASK], SETTINGS)[0][TASK.name]["linear"]
    assert table["history_only"]["auroc"]["value"] == 0.5  # type: ignore[index]
