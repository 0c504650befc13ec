"""What is said when Ray Train gives a training up and no worker left word why."""

from __future__ import annotations

import errno
import pickle

import pytest
from ray.train import ControllerError, WorkerGroupError

from clinjepa.errors import SilentStoreError, StorageError, TrainingError
from clinjepa.storage import Folder
from pipelines.stages.ray_train import _failed_for_good


@pytest.fixture
def state(tmp_path) -> Folder:
    return Folder(tmp_path)


def test_a_disk_that_its_controller_found_full_before_a_worker_did_is_named(state):
    met = OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")
    fault = _failed_for_good("phase k", state, pickle.loads(pickle.dumps(ControllerError(met))))
    assert type(fault) is StorageError and state.address in str(fault) and "the disk is full" in str(fault)


@pytest.mark.parametrize(
    "met", [SilentStoreError("http://store gave HTTP 503 for 2 s; then type the same command again"), OSError(errno.EBUSY, "HTTP 503")]
)
def test_an_object_store_that_its_controller_found_away_is_named(state, monkeypatch, met):
    monkeypatch.setattr(Folder, "is_local", False)
    fault = _failed_for_good("phase k", state, pickle.loads(pickle.dumps(ControllerError(met))))
    assert type(fault) is StorageError and state.address in str(fault) and "503" in str(fault)


def test_what_is_not_of_the_storage_says_the_stage_and_the_kind(state):
    for error in (
        ControllerError(KeyError(10039708)),
        WorkerGroupError("all workers failed", {0: ValueError("10039708")}),
        WorkerGroupError("all workers failed", {0: FileNotFoundError("a file of the worker's own")}),
    ):
        fault = _failed_for_good("phase k", state, error)
        assert type(fault) is TrainingError and "phase k: the training workers failed for good (" in str(fault)
        assert "10039708" not in str(fault) and "run again" in str(fault)
