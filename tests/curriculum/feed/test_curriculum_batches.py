"""What a micro-batch carries from the stores to the training step is what the stores hold, bit for bit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from safetensors.torch import load

from clinjepa.curriculum.feed.payload import payload
from clinjepa.curriculum.feed.stored_latents import REQUESTS_AT_A_TIME
from clinjepa.curriculum.feed.unpacking import unpacked
from clinjepa.curriculum.feed.window_batches import WindowBatches
from clinjepa.curriculum.steps.objective import PhaseObjective
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.model.predictor import build_predictor
from clinjepa.model.specs import PredictorSpec
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import LatentReader, LatentWriter, finish_latents
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from tests.support.training.curriculum_jobs import PREDICTOR, phase_job
from tests.support.training.curriculum_store import make_trajectories

DIM = 64


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    root = tmp_path_factory.mktemp("batches")
    trajectories = make_trajectories(root)
    stays = TrajectoryReader(Folder(trajectories)).stays
    generator = np.random.default_rng(0)
    rows = []
    for stay_id, hours in zip(stays["stay_id"].to_pylist(), stays["num_hours"].to_pylist(), strict=True):
        static, state, action = (generator.normal(size=shape).astype(np.float32) for shape in ((DIM,), (hours, DIM), (hours, DIM)))
        rows.append((stay_id, static, state, action))
    for dtype in ("float32", "bfloat16"):
        LatentWriter("any encoder", dtype).write_part(Folder(root / dtype), "p0", rows)
        finish_latents(Folder(root / dtype))
    return phase_job("warmup", trajectories=trajectories, latents=str(root))


def stored_in(job, dtype: str):
    return replace(job, latents=f"{job.latents}/{dtype}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_training_step_reads_the_latents_that_are_stored(job, dtype):
    job = stored_in(job, dtype)
    fetcher, reader = WindowBatches(job), LatentReader(Folder(job.latents))
    arrays = load(fetcher(0, 1).to_pybytes())
    assert arrays["z_state"].dtype is getattr(torch, dtype)
    objective = PhaseObjective(job, build_predictor(PredictorSpec.from_settings(PREDICTOR, DIM), 0), None, Dist.current())
    latents = objective.latents(arrays, seed=0, with_gradient=False)
    assert latents.z_state_BTD.dtype is torch.float32
    plan = fetcher.plan
    for i, window in enumerate(arrays["window_ids"].tolist()):
        hours = int(plan.num_hours[window])
        static, state, action = reader.stay(int(plan.stay_ids[window]), int(plan.start_hours[window]), hours)
        assert torch.equal(latents.z_static_BD[i], torch.from_numpy(static))
        assert torch.equal(latents.z_state_BTD[i, :hours], torch.from_numpy(state))
        assert torch.equal(latents.z_action_BTD[i, :hours], torch.from_numpy(action))
        assert not latents.z_state_BTD[i, hours:].any() and not latents.z_action_BTD[i, hours:].any()


def test_latents_stored_in_bfloat16_travel_in_half_the_bytes(job):
    whole, half = (len(WindowBatches(stored_in(job, dtype))(0, 1)) for dtype in ("float32", "bfloat16"))
    assert whole - half > 0.4 * whole


def test_windows_of_a_store_behind_a_network_are_asked_for_at_the_same_time(job, monkeypatch):
    fetcher = WindowBatches(stored_in(job, "float32"))
    plan = fetcher.plan
    opened = int(plan.training_ids[0])
    _, first = np.unique(plan.stay_ids, return_index=True)
    two = [window for window in first.tolist() if plan.stay_ids[window] != plan.stay_ids[opened]][:2]
    none = np.full(2, -1)
    expected = WindowBatches(fetcher.job).window_arrays(np.array(two), none)
    fetcher.window_arrays(np.array([opened]), none[:1])
    both, read = threading.Barrier(2), Folder.read_bytes

    def waits_for_another(folder: Folder, *request: Any) -> bytes:
        both.wait(timeout=60)
        return read(folder, *request)

    monkeypatch.setattr(Folder, "is_local", False)
    monkeypatch.setattr(Folder, "read_bytes", waits_for_another)
    found = fetcher.window_arrays(np.array(two), none)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_threads_that_share_a_reader_get_what_one_gets(job):
    reader = LatentReader(Folder(f"{job.latents}/bfloat16"), cache_bytes=4000)  # a few stays: they push each other out
    alone = {stay_id: LatentReader(reader.folder).stay(stay_id)[1] for stay_id in reader.stay_ids}
    wanted = reader.stay_ids * 20
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda stay_id: reader.stay(stay_id)[1], wanted))
    assert all(np.array_equal(state, alone[stay_id]) for stay_id, state in zip(wanted, found, strict=True))


def test_payloads_are_safetensors():
    arrays = {
        "flags": np.array([[True, False, True]]),
        "numbers": np.arange(5, dtype=np.int64)[::2],
        "none": np.zeros((0, 3), dtype=np.int32),
        "values": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3).T,
    }
    read = safetensors.numpy.load(payload(arrays).to_pybytes())
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_payloads_are_unpacked_into_memory_of_their_own():
    arrays = {
        "flags": np.array([True, False, True]),  # three bytes, so that what follows is not aligned
        "bits": np.array([[0x3F80, 0xC000]], dtype=np.uint16),
        "none": np.zeros((0, 3), dtype=np.int32),
        "numbers": np.arange(4, dtype=np.int64),
        "values": np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3),
    }
    packed = payload(arrays)
    before = packed.to_pybytes()
    tensors = unpacked(pa.py_buffer(before), torch.device("cpu"))
    expected = {name: value for name, value in safetensors.torch.load(before).items()}
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert tensors["bits"].tolist() == [[1.0, -2.0]]
    tensors["numbers"].add_(1)
    assert packed.to_pybytes() == before


def test_micro_batches_in_a_row_are_those_asked_for_one_by_one(job):
    tokens = phase_job("joint", trajectories=job.trajectories, latents=None)
    for each in (stored_in(job, "float32"), stored_in(job, "bfloat16"), tokens):
        places = [(step, micro) for step in (3, 0, 1) for micro in range(2)]
        one_by_one = WindowBatches(each)
        in_a_row = list(WindowBatches(each).in_order(places))
        assert [payload.to_pybytes() for payload in in_a_row] == [one_by_one(*place).to_pybytes() for place in places]


def test_latents_behind_a_network_are_asked_for_some_micro_batches_ahead(job, monkeypatch):
    fetcher = WindowBatches(stored_in(job, "float32"))
    places = [(step, micro) for step in range(8) for micro in range(2)]
    windows_of_one = len(fetcher.plan.step(0)[0])
    monkeypatch.setattr(Folder, "is_local", False)
    asked: list[int] = []
    stored = LatentReader.stored

    def noted(self, *window):
        asked.append(window[0])
        return stored(self, *window)

    monkeypatch.setattr(LatentReader, "stored", noted)
    arrivals = fetcher.in_order(places)
    next(arrivals)
    deadline = time.monotonic() + 60
    while len(asked) == windows_of_one and time.monotonic() < deadline:
        time.sleep(0.01)
    assert windows_of_one < len(asked) <= REQUESTS_AT_A_TIME + windows_of_one
    assert len(list(arrivals)) == len(places) - 1
