"""The whole evaluation in a hospital whose future is known: perfect latents, latents without information, no look ahead, reach."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.config.schema import ForecastConfig
from clinjepa.evaluation.forecasts.evaluate import ForecastInputs, ForecastOutcome, evaluate_forecasts
from clinjepa.evaluation.forecasts.points.direct import direct_forecasts
from clinjepa.evaluation.settings import DirectForecastSettings
from clinjepa.model.predictor import Predictor
from tests.support.data.forecast_world import STEP_D, TASK, ForecastWorld, stepping_predictor

SETTINGS = ForecastConfig(context=6, starts=[0, 6], horizons=[1, 6], num_trees=30, num_bootstrap=60)
SIGMA = 5.0


def direct(world: ForecastWorld, settings: ForecastConfig = SETTINGS) -> pa.Table:
    named = settings.model_dump(include=set(DirectForecastSettings.model_fields))
    return direct_forecasts(world.ingest(), world.stays, DirectForecastSettings(split="held_out", **named))


def evaluated(world: ForecastWorld, predictor: Predictor | None = None, settings: ForecastConfig = SETTINGS) -> ForecastOutcome:
    read = ForecastInputs(predictor or stepping_predictor(), world, world.ingest(), world.stays, world.labels(), direct(world, settings))
    return evaluate_forecasts(read, [TASK], settings)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> ForecastOutcome:
    return evaluated(ForecastWorld(tmp_path_factory.mktemp("noisy"), num_stays=480))


def test_latents_that_hold_the_signal_forecast_as_well_as_the_noise_allows(noisy: ForecastOutcome) -> None:
    for horizon in ("1", "6"):
        cell = noisy.result["variables"]["map"][horizon]
        mae, crps = cell["mae"]["model"], cell["crps"]["model"]
        assert mae is not None and crps is not None
        assert mae["value"] == pytest.approx(SIGMA * np.sqrt(2 / np.pi), rel=0.12)  # E|e| of N(0, σ)
        assert crps["value"] == pytest.approx(SIGMA / np.sqrt(np.pi), rel=0.12)
        for level, width in ((50, 2 * 0.6745 * SIGMA), (90, 2 * 1.645 * SIGMA)):
            covered, wide = cell[f"coverage_{level}"], cell[f"width_{level}"]  # type: ignore[literal-required]
            assert covered["value"] == pytest.approx(level / 100, abs=0.1)
            assert wide["value"] == pytest.approx(width, rel=0.25)
    overall = noisy.result["horizons"]["6"]
    assert overall["mase"]["model"]["value"] < 0.85  # type: ignore[index]
    assert overall["mase"]["last_value"]["value"] == 1.0  # type: ignore[index]
    assert overall["mase"]["model"]["value"] < overall["mase"]["lightgbm"]["value"] < overall["mase"]["train_mean"]["value"]  # type: ignore[index]
    assert overall["model_over_lightgbm"]["ci95"][1] < 1.02  # type: ignore[index]


def test_zero_shot_probabilities_of_a_perfect_latent_are_calibrated(noisy: ForecastOutcome) -> None:
    task = noisy.result["events"][TASK.name]
    model, last = task["methods"]["model"], task["methods"]["last_value"]
    assert model["auroc"]["value"] > last["auroc"]["value"] > 0.6  # type: ignore[index]
    assert model["slope"]["ci95"][0] < 1.1 and model["slope"]["ci95"][1] > 0.9  # type: ignore[index]
    assert model["ece"]["value"] < 0.12 and model["brier_skill"]["value"] > 0.1  # type: ignore[index]
    assert task["num_total"] == sum(model["reliability"]["number"]) > task["num_positive"] > 20


def test_the_result_is_json_and_the_tables_hold_every_scored_value(noisy: ForecastOutcome) -> None:
    json.dumps(noisy.result, allow_nan=False)
    rows = noisy.forecasts.to_pandas()
    for name, of in noisy.result["variables"].items():
        for horizon, cell in of.items():
            own = rows[(rows.variable == name) & (rows.horizon == int(horizon))]
            assert len(own) == cell["num_values"]
            assert (own.observed - own.model).abs().mean() == pytest.approx(cell["mae"]["model"]["value"], rel=1e-4)  # type: ignore[index]
            inside = ((own.observed >= own.low_90) & (own.observed <= own.high_90)).mean()
            assert inside == pytest.approx(cell["coverage_90"]["value"], abs=0.01)  # type: ignore[index]
    assert noisy.events.num_rows == 2 * noisy.result["events"][TASK.name]["num_total"]


def test_every_forecast_is_plausible_and_the_point_lies_in_its_intervals(tmp_path: Path) -> None:
    """A heart rate around 3 bpm: half of the distribution is below 0, and some estimates are."""
    world = ForecastWorld(tmp_path)
    world.values_ST2[..., 0] = np.maximum(world.values_ST2[..., 0] - 87, 0)
    found = evaluated(world)
    assert found.forecaster is not None
    rows = found.forecasts.to_pandas()
    order = rows[["low_90", "low_50", "model", "high_50", "high_90"]].to_numpy()
    assert len(rows) > 400 and (np.diff(order, axis=1) >= 0).all()
    for (low, high), name in zip(found.forecaster.ranges_V2.tolist(), found.forecaster.names, strict=True):
        own = rows[rows.variable == name]
        shown = own[["model", "last_value", "lightgbm", "low_90", "high_90"]].to_numpy()
        assert low <= shown.min() and shown.max() <= high
    heart_rate = rows[rows.variable == "heart_rate"]
    assert (heart_rate.low_90 == 0).mean() > 0.3 and (heart_rate.model == 0).any()
    covered = found.result["variables"]["heart_rate"]["6"]["coverage_90"]
    assert covered is not None and covered["value"] > 0.8


def test_errors_over_those_of_the_last_value_are_worked_out_from_the_table(noisy: ForecastOutcome) -> None:
    """MASE, RMSE and Spearman of the model, from the kept forecasts alone."""
    rows = noisy.forecasts.to_pandas()
    for horizon in (1, 6):
        own = rows[(rows.variable == "map") & (rows.horizon == horizon)]
        cell = noisy.result["variables"]["map"][str(horizon)]
        error, last = own.observed - own.model, own.observed - own.last_value
        assert cell["mase"]["model"]["value"] == pytest.approx(error.abs().mean() / last.abs().mean(), rel=1e-4)  # type: ignore[index]
        assert cell["rmse"]["model"]["value"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-4)  # type: ignore[index]
        assert cell["spearman"]["model"]["value"] == pytest.approx(own.model.corr(own.observed, "spearman"), abs=1e-4)  # type: ignore[index]


def test_values_without_noise_are_forecast_exactly(tmp_path: Path) -> None:
    result = evaluated(ForecastWorld(tmp_path, noise=0.0)).result
    cell = result["variables"]["map"]["6"]
    assert cell["mase"]["model"]["value"] < 0.1 and cell["spearman"]["model"]["value"] > 0.999  # type: ignore[index]
    repeated = 6 * float(-STEP_D[1])  # mmHg that the MAP falls in 6 h
    assert cell["mae"]["last_value"]["value"] == pytest.approx(repeated, rel=0.2)  # type: ignore[index]
    assert result["events"][TASK.name]["methods"]["model"]["auroc"]["value"] > 0.97  # type: ignore[index]


def test_latents_without_information_are_at_chance(tmp_path: Path) -> None:
    world = ForecastWorld(tmp_path)
    known = world.signal_STD.copy()
    rng = np.random.default_rng(7)
    world.signal_STD = rng.normal(size=known.shape).astype(np.float32)
    result = evaluated(world, stepping_predictor(np.zeros(4, np.float32))).result
    cell = result["variables"]["map"]["6"]
    assert cell["mae"]["model"]["value"] == pytest.approx(cell["mae"]["train_mean"]["value"], rel=0.1)  # type: ignore[index]
    low, high = result["events"][TASK.name]["methods"]["model"]["auroc"]["ci95"]  # type: ignore[index,misc]
    assert low < 0.55 and high > 0.45


def test_nothing_after_the_prediction_time_changes_a_forecast(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"starts": [0]})
    world = ForecastWorld(tmp_path)
    before = evaluated(world, settings=settings).forecasts.to_pandas()
    later = np.ix_(np.flatnonzero(world.split_S == "held_out"), np.arange(6, world.num_hours))
    rng = np.random.default_rng(3)
    world.values_ST2[later] = np.where(np.isnan(world.values_ST2[later]), np.nan, rng.normal(40, 5, world.values_ST2[later].shape))
    world.signal_STD[later] = rng.normal(size=world.signal_STD[later].shape)
    after = evaluated(world, settings=settings).forecasts.to_pandas()
    assert not np.allclose(before.observed, after.observed)
    for name in ("model", "last_value", "lightgbm", "low_50", "high_50", "low_90", "high_90"):
        np.testing.assert_array_equal(before[name], after[name])


def test_what_is_measured_next_is_predicted_from_the_latent_of_that_hour(tmp_path: Path) -> None:
    """Heart rates are measured more often in stays whose latent says so."""
    world = ForecastWorld(tmp_path, num_stays=360)
    often_S = world.signal_STD[:, 0, 2] > 0
    rng = np.random.default_rng(9)
    rate_ST = np.where(often_S[:, None], 0.95, 0.25) * np.ones((1, world.num_hours))
    world.values_ST2[..., 0] = np.where(rng.random(rate_ST.shape) < rate_ST, world.signal_STD[..., 0], np.nan)
    cell = evaluated(world).result["variables"]["heart_rate"]["6"]
    assert cell["measured"]["model"]["value"] > 0.8 and cell["measured"]["measured_share"]["value"] > 0.75  # type: ignore[index]
    assert 0 < cell["num_measured"] < cell["num_hours"]
    other = evaluated(world).result["variables"]["map"]["6"]["measured"]["model"]
    assert other is not None and other["ci95"] is not None and other["ci95"][0] < 0.58


def test_horizons_beyond_the_predictor_s_reach_are_cut_and_said(tmp_path: Path) -> None:
    world = ForecastWorld(tmp_path, num_stays=120)
    result = evaluated(world, stepping_predictor(max_hours=11)).result
    assert set(result["horizons"]) == {"1"} and "6 h ahead are cut" in result["cut"]
    assert "beyond the predictor's reach" in result["events"][TASK.name]["reason"]
    nothing = evaluated(world, stepping_predictor(max_hours=6)).result
    assert nothing["horizons"] == {} and nothing["reason"]


def test_what_is_never_measured_is_never_forecast(tmp_path: Path) -> None:
    world = ForecastWorld(tmp_path, num_stays=120)
    world.values_ST2[..., 1] = np.nan
    result = evaluated(world).result
    assert set(result["variables"]) == {"heart_rate"}
    assert "measured too rarely" in result["events"][TASK.name]["reason"]


def test_too_few_values_are_null_with_a_reason(tmp_path: Path) -> None:
    world = ForecastWorld(tmp_path, num_stays=120)
    held_out = np.flatnonzero(world.split_S == "held_out")
    world.values_ST2[held_out[3:], 6:, 1] = np.nan
    cell = evaluated(world, settings=SETTINGS.model_copy(update={"starts": [0]})).result["variables"]["map"]["1"]
    assert cell["mae"]["model"] is None and "values of" in cell["reason"]
