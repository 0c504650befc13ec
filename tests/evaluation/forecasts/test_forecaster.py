"""A kept forecaster evaluates other patients: bit for bit as when it was fitted, without training data, and never from broken files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from clinjepa.clinical import load_task
from clinjepa.errors import EvaluationError, StoreError
from clinjepa.evaluation.fitted_files import packed, unpacked, write_files
from clinjepa.evaluation.forecasts.evaluate import ForecastInputs, ForecastOutcome, evaluate_forecasts
from clinjepa.evaluation.forecasts.forecaster import Forecaster
from clinjepa.evaluation.forecasts.scoring.distributions import Distribution
from clinjepa.storage import Folder
from tests.evaluation.forecasts.test_forecast_evaluation import SETTINGS, direct
from tests.support.data.forecast_world import TASK, ForecastWorld, stepping_predictor
from tests.support.machines.cli import python_without

TASKS = [TASK, load_task("in_hospital_death")]


class OnlyHeldOut:
    """Latents that fail for a stay of train or tuning."""

    dim = 4

    def __init__(self, world: ForecastWorld) -> None:
        self.world = world

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.world.split_S[stay_id] == "held_out", "a stay of train or tuning was read"
        return self.world.stay(stay_id, start_hour, num_hours)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ForecastWorld:
    made = ForecastWorld(tmp_path_factory.mktemp("world"), num_stays=240)
    made.values_ST2[:, 20:, 0] = np.nan
    return made


@pytest.fixture(scope="module")
def inputs(world: ForecastWorld) -> ForecastInputs:
    return ForecastInputs(stepping_predictor(), world, world.ingest(), world.stays, world.labels(), direct(world))


@pytest.fixture(scope="module")
def fitted(inputs: ForecastInputs) -> ForecastOutcome:
    return evaluate_forecasts(inputs, TASKS, SETTINGS)


@pytest.fixture
def kept(fitted: ForecastOutcome, tmp_path: Path) -> Path:
    assert fitted.forecaster is not None
    fitted.forecaster.write(Folder(tmp_path / "kept"))
    return tmp_path / "kept"


def test_a_kept_forecaster_gives_the_evaluation_that_it_was_fitted_in(inputs: ForecastInputs, fitted: ForecastOutcome, kept: Path) -> None:
    again = evaluate_forecasts(inputs, TASKS, SETTINGS, forecaster=Forecaster.read(kept))
    expected = {**fitted.result, "num_windows": {"held_out": fitted.result["num_windows"]["held_out"]}}
    assert json.dumps(again.result) == json.dumps(expected)
    assert again.forecasts.equals(fitted.forecasts) and again.events.equals(fitted.events)
    assert again.result["events"][TASK.name]["methods"] and again.forecasts.num_rows > 400


def test_what_is_read_is_what_was_written(fitted: ForecastOutcome, kept: Path) -> None:
    """Distributions of every kind among them, and horizons without heads."""
    assert fitted.forecaster is not None
    groups = [np.sort(np.random.default_rng(i).normal(size=20 + i).astype(np.float32).astype(np.float64)) for i in range(3)]
    by_level = Distribution("by_level", np.array([0.1, 0.7]), groups)
    own: list[list[Distribution | None]] = [
        [by_level, Distribution("by_recency", np.zeros(0), groups[1:])],
        [None, Distribution("symmetric", np.zeros(0), groups[:1])],
    ]
    written = replace(
        fitted.forecaster, distributions={**fitted.forecaster.distributions, "model": own}, heads=[None, fitted.forecaster.heads[1]]
    )
    written.write(Folder(kept))
    for place in (kept, str(kept), Folder(kept)):
        found = Forecaster.read(place)
        assert found.files() == written.files() and found.heads[0] is None and found.heads[1] is not None
        for of_H, other in zip(found.distributions["model"], own, strict=True):
            for one, expected in zip(of_H, other, strict=True):
                assert (one is None) == (expected is None)
                if one is not None and expected is not None:
                    assert (one.kind, one.levels.tolist()) == (expected.kind, expected.levels.tolist())
                    assert [group.tolist() for group in one.errors] == [group.tolist() for group in expected.errors]


def test_neither_latents_nor_hours_of_train_and_tuning_are_read(
    world: ForecastWorld, inputs: ForecastInputs, fitted: ForecastOutcome, kept: Path, tmp_path: Path
) -> None:
    """They are in a part of the grid that is gone, and without them in the table of stays nothing changes."""
    elsewhere = Folder(tmp_path / "elsewhere")
    table, held_out = world.folder.read_table("grid/p0.parquet"), world.split_S == "held_out"
    elsewhere.write_table("grid/p1.parquet", table.filter(pa.array(held_out[table["stay_id"].to_numpy()])))
    place = world.stays.column_names.index("part")
    parts = world.stays.set_column(place, "part", pa.array(np.where(held_out, "p1", "p0").tolist()))
    for stays in (parts, parts.filter(pa.array(held_out))):
        other = replace(inputs, latents=OnlyHeldOut(world), ingest=elsewhere, stays=stays, direct=None)
        again = evaluate_forecasts(other, TASKS, SETTINGS, forecaster=Forecaster.read(kept))
        for column in ("observed", "model", "last_value", "low_50", "high_90"):
            assert again.forecasts[column].equals(fitted.forecasts[column])
        assert again.events.equals(fitted.events)
    with pytest.raises(AssertionError, match="train or tuning"):
        evaluate_forecasts(replace(inputs, latents=OnlyHeldOut(world)), TASKS, SETTINGS)


def test_the_comparison_with_gradient_boosting_is_left_out_unless_it_is_given(inputs: ForecastInputs, kept: Path) -> None:
    without = evaluate_forecasts(replace(inputs, direct=None), TASKS, SETTINGS, forecaster=Forecaster.read(kept))
    assert without.result["horizons"]["1"]["model_over_lightgbm"] is None and without.result["horizons"]["1"]["crps_ratio"]["model"]
    plain = evaluate_forecasts(replace(inputs, direct=None), TASKS, SETTINGS).forecaster
    with pytest.raises(EvaluationError, match="without direct forecasts"):
        evaluate_forecasts(inputs, TASKS, SETTINGS, forecaster=plain)


def test_context_and_horizons_are_the_forecaster_s(inputs: ForecastInputs, fitted: ForecastOutcome, kept: Path) -> None:
    other = SETTINGS.model_copy(update={"context": 9, "horizons": [3], "num_variables": 1})
    again = evaluate_forecasts(inputs, TASKS, other, forecaster=Forecaster.read(kept))
    assert again.forecasts.equals(fitted.forecasts) and again.result["context"] == 6


def test_a_variable_that_the_new_data_lack_has_a_reason(
    inputs: ForecastInputs, fitted: ForecastOutcome, kept: Path, tmp_path: Path
) -> None:
    assert fitted.forecaster is not None
    other = Folder(tmp_path / "other")
    other.write_table("grid/p0.parquet", inputs.ingest.read_table("grid/p0.parquet").drop_columns(["heart_rate"]))
    again = evaluate_forecasts(replace(inputs, ingest=other), TASKS, SETTINGS, forecaster=Forecaster.read(kept)).result
    cell = again["variables"]["heart_rate"]["1"]
    assert cell["mae"]["model"] is None and cell["num_values"] == 0 and "no value of the variable" in cell["reason"]
    assert again["variables"]["map"] == fitted.result["variables"]["map"] and again["events"] == fitted.result["events"]
    json.dumps(again, allow_nan=False)


def test_a_task_that_looks_further_ahead_than_the_errors_has_a_reason(inputs: ForecastInputs) -> None:
    without_tasks = evaluate_forecasts(inputs, [], SETTINGS).forecaster
    assert without_tasks is not None and without_tasks.steps.num_path_hours == 1
    again = evaluate_forecasts(inputs, TASKS, SETTINGS, forecaster=without_tasks).result
    assert "errors of 1 h in a row, and the task looks 8 h ahead" in again["events"][TASK.name]["reason"]


class OtherEncoder(OnlyHeldOut):
    encoder_digest = "b" * 64


def test_a_forecaster_of_other_latents_or_a_longer_reach_is_refused(world: ForecastWorld, inputs: ForecastInputs, kept: Path) -> None:
    forecaster = replace(Forecaster.read(kept), encoder_digest="a" * 64)
    with pytest.raises(EvaluationError, match="another encoder"):
        evaluate_forecasts(replace(inputs, latents=OtherEncoder(world)), TASKS, SETTINGS, forecaster=forecaster)
    with pytest.raises(EvaluationError, match="windows of 14 h, the predictor has 10"):
        evaluate_forecasts(replace(inputs, predictor=stepping_predictor(max_hours=10)), TASKS, SETTINGS, forecaster=forecaster)
    wide = OnlyHeldOut(world)
    wide.dim = 5
    with pytest.raises(EvaluationError, match="latents of 4 values, these have 5"):
        evaluate_forecasts(replace(inputs, latents=wide), TASKS, SETTINGS, forecaster=forecaster)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def _changed(**change: Any) -> Callable[[Path], None]:
    """Other values in the JSON."""

    def act(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return act


def _written(**change: Any) -> Callable[[Path], None]:
    """Other values in the JSON, with the digest that belongs to them."""

    def act(path: Path) -> None:
        found = unpacked(path.parent, "forecaster", 2)
        write_files(Folder(path.parent), packed("forecaster", 2, {**found.described, **change}, found.tensors))

    return act


@pytest.mark.parametrize(
    ("file", "act", "words"),
    [
        ("forecaster.json", Path.unlink, "forecaster.json is missing"),
        ("forecaster.safetensors", Path.unlink, "forecaster.safetensors is missing"),
        ("forecaster.json", _cut, "not valid JSON"),
        ("forecaster.json", lambda path: path.write_text("[1]"), "schema version None"),
        ("forecaster.json", _changed(schema_version=1), "schema version 1, this code reads 2"),
        ("forecaster.safetensors", _cut, "altered or cut"),
        ("forecaster.safetensors", _flip, "altered or cut"),
        ("forecaster.json", _changed(horizons=[1, 7]), "not as they were written"),
        ("forecaster.json", _written(variables=["map"]), "do not fit together"),
        ("forecaster.json", _written(kinds={}), "do not fit together"),
        ("forecaster.json", _written(kinds={"model": [["residuals"]]}), "do not fit together"),
        ("forecaster.json", _written(kinds={"elsewhere": []}), "do not fit together"),
        ("forecaster.json", _written(horizons=[1, 99]), "do not fit together"),
        ("forecaster.json", _written(horizons="six"), "do not fit together"),
        ("forecaster.json", _written(steps=[1, 6]), "do not fit together"),
        ("forecaster.json", _written(latent_dim=5), "do not fit together"),
        ("forecaster.json", _written(units=None), "do not fit together"),
    ],
)
def test_broken_files_are_named(kept: Path, file: str, act: Callable[[Path], None], words: str) -> None:
    act(kept / file)
    with pytest.raises(StoreError, match=words):
        Forecaster.read(kept)
    with pytest.raises(StoreError, match="forecaster"):
        Forecaster.read(Folder(kept))


def test_a_forecaster_loads_without_the_libraries_of_tables(kept: Path) -> None:
    absent = ("ray", "pyarrow", "pandas", "polars", "pydantic", "scipy", "torch", "sklearn", "lightgbm")
    code = f"from clinjepa.evaluation.forecasts.forecaster import Forecaster\nprint(Forecaster.read({str(kept)!r}).names)"
    done = python_without(absent, code)
    assert done.returncode == 0 and "map" in done.stdout, done.stderr[-2000:]
