"""Kept parts of drift and round trip: read bit for bit, applied without a training stay, and refused when broken or of other latents."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from clinjepa.config.schema import DriftConfig
from clinjepa.errors import EvaluationError, StoreError
from clinjepa.evaluation.drift import evaluate_drift
from clinjepa.evaluation.fitted_files import mean_files, packed, read_mean, unpacked, write_files
from clinjepa.evaluation.roundtrip import RoundtripFit, evaluate_roundtrip, fit_roundtrip
from clinjepa.evaluation.space import Latents, train_mean_latent
from clinjepa.storage import Folder
from tests.support.data.forecast_world import ForecastWorld, stepping_predictor

DRIFT = DriftConfig(contexts=[6], headline_context=6, horizons=[1, 6], num_bootstrap=20)
NUM_HOURS = 3000


class HeldOutOnly:
    """Latents that fail for a stay of train or tuning."""

    dim = 4
    encoder_digest = "a" * 64

    def __init__(self, world: ForecastWorld) -> None:
        self.world = world

    def stay(self, stay_id: int, start_hour: int = 0, num_hours: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        assert self.world.split_S[stay_id] == "held_out", "a stay of train or tuning was read"
        return self.world.stay(stay_id, start_hour, num_hours)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> ForecastWorld:
    made = ForecastWorld(tmp_path_factory.mktemp("world"), num_stays=120)
    made.ingest()
    return made


@pytest.fixture(scope="module")
def fitted(world: ForecastWorld) -> RoundtripFit:
    return fit_roundtrip(world, world.folder, world.stays, NUM_HOURS)


def roundtrip(world: ForecastWorld, latents: Latents, fitted: RoundtripFit | None, stays: pa.Table | None = None) -> str:
    found = evaluate_roundtrip(latents, world.folder, world.stays if stays is None else stays, NUM_HOURS, fitted=fitted)
    return json.dumps(found, allow_nan=False)


def test_a_kept_mean_gives_the_same_drift_without_a_training_stay(world: ForecastWorld, tmp_path: Path) -> None:
    mean_D = train_mean_latent(world, world.stays)
    write_files(Folder(tmp_path), mean_files(mean_D))
    held_out = world.stays.filter(pc.equal(world.stays["split"], "held_out"))
    before = evaluate_drift(stepping_predictor(), world, world.stays, DRIFT)
    for stays in (world.stays, held_out):
        assert before == evaluate_drift(stepping_predictor(), HeldOutOnly(world), stays, DRIFT, mean_D=read_mean(tmp_path))
    with pytest.raises(AssertionError, match="train or tuning"):
        evaluate_drift(stepping_predictor(), HeldOutOnly(world), world.stays, DRIFT)
    other = evaluate_drift(stepping_predictor(), HeldOutOnly(world), held_out, DRIFT, mean_D=mean_D + 1)
    assert other["6"]["horizons"]["6"]["vs_mean"] != before["6"]["horizons"]["6"]["vs_mean"]
    with pytest.raises(EvaluationError, match="has 5 values, the latents 4"):
        evaluate_drift(stepping_predictor(), world, held_out, DRIFT, mean_D=np.zeros(5, np.float32))


def test_a_missing_cut_or_other_mean_is_named(tmp_path: Path) -> None:
    file = tmp_path / "train_mean.safetensors"
    with pytest.raises(StoreError, match="train_mean.safetensors is missing"):
        read_mean(tmp_path)
    data = mean_files(np.ones(4, np.float32))[file.name]
    file.write_bytes(data[:-3])
    with pytest.raises(StoreError, match="altered or cut"):
        read_mean(tmp_path)
    file.write_bytes(mean_files(np.ones((2, 2), np.float32))[file.name])
    with pytest.raises(StoreError, match="no vector mean_D"):
        read_mean(Folder(tmp_path))


def test_a_kept_round_trip_gives_the_same_figures_without_a_training_stay(
    world: ForecastWorld, fitted: RoundtripFit, tmp_path: Path
) -> None:
    fitted.write(Folder(tmp_path))
    before = roundtrip(world, world, None)
    assert json.loads(before)["variables"]["map"] > 0.5 and np.isfinite(fitted.bias_V).sum() == 2
    for place in (tmp_path, Folder(tmp_path)):
        kept = RoundtripFit.read(place)
        assert kept.files() == fitted.files()
        assert roundtrip(world, HeldOutOnly(world), kept) == before
        assert roundtrip(world, HeldOutOnly(world), kept, world.stays.filter(pc.equal(world.stays["split"], "held_out"))) == before
    with pytest.raises(AssertionError, match="train or tuning"):
        roundtrip(world, HeldOutOnly(world), None)


def test_values_are_clipped_at_the_kept_percentiles_of_training(fitted: RoundtripFit, tmp_path: Path) -> None:
    """All training hours are drawn. A value beyond the bound counts as the bound."""
    world, column = ForecastWorld(tmp_path, num_stays=120), fitted.names.index("map")
    values_N = world.values_ST2[world.split_S == "train", :, 1].astype(np.float32).ravel()
    bounds = np.percentile(values_N[np.isfinite(values_N)], (1.0, 99.0))
    np.testing.assert_array_equal(fitted.bounds_V2[column], bounds)
    found = []
    for extreme in (float(bounds[1]) + 1e-3, 1e6):
        world.values_ST2[np.flatnonzero(world.split_S == "held_out")[:5], :, 1] = extreme
        world.ingest()
        found.append(roundtrip(world, world, fitted))
    assert found[0] == found[1]


def test_a_variable_that_the_new_data_lack_has_a_reason(world: ForecastWorld, fitted: RoundtripFit, tmp_path: Path) -> None:
    other = Folder(tmp_path)
    other.write_table("grid/p0.parquet", world.folder.read_table("grid/p0.parquet").drop_columns(["heart_rate"]))
    found = evaluate_roundtrip(world, other, world.stays, NUM_HOURS, fitted=fitted)
    assert found["variables"]["heart_rate"] is None and "0 to score" in found["figures"]["heart_rate"]["reason"]
    assert found["variables"]["map"] == json.loads(roundtrip(world, world, fitted))["variables"]["map"]


def test_a_round_trip_of_other_latents_is_refused(world: ForecastWorld, fitted: RoundtripFit) -> None:
    for part, words in (
        (replace(fitted, encoder_digest="b" * 64), "another encoder"),
        (replace(fitted, mean_VD=np.zeros((len(fitted.names), 3))), "latents of 3 values, these have 4"),
    ):
        with pytest.raises(EvaluationError, match=words):
            roundtrip(world, HeldOutOnly(world), part)
    assert fit_roundtrip(HeldOutOnly(world), world.folder, world.stays.slice(0, 0), 10).encoder_digest == "a" * 64


def _rewritten(change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Callable[[Path], None]:
    """Other content, with the digest that belongs to it."""

    def act(folder: Path) -> None:
        found = unpacked(folder, "roundtrip", 1)
        described, tensors = dict(found.described), dict(found.tensors)
        change(described, tensors)
        write_files(Folder(folder), packed("roundtrip", 1, described, tensors))

    return act


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda folder: (folder / "roundtrip.json").unlink(), "roundtrip.json is missing"),
        (lambda folder: (folder / "roundtrip.safetensors").unlink(), "roundtrip.safetensors is missing"),
        (lambda folder: (folder / "roundtrip.safetensors").write_bytes(b"12"), "altered or cut"),
        (lambda folder: (folder / "roundtrip.json").write_text('{"schema_version": 9}'), "schema version 9, this code reads 1"),
        (_rewritten(lambda described, tensors: described.update(variables=["map"])), "do not fit together"),
        (_rewritten(lambda described, tensors: described.pop("num_hours")), "do not fit together"),
        (_rewritten(lambda described, tensors: tensors.pop("bias_V")), "do not fit together"),
        (_rewritten(lambda described, tensors: tensors.update(bounds_V2=np.zeros(2))), "do not fit together"),
    ],
)
def test_broken_files_of_a_round_trip_are_named(fitted: RoundtripFit, tmp_path: Path, act: Callable[[Path], None], words: str) -> None:
    fitted.write(Folder(tmp_path))
    act(tmp_path)
    with pytest.raises(StoreError, match=words):
        RoundtripFit.read(tmp_path)
