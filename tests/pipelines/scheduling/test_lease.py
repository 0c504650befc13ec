"""A stage has one owner at a time, a dead owner is replaced within seconds, and one that comes back may not publish."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from clinjepa.errors import StorageError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.scheduling.lease import LeaseQueue


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    if request.param == "local":
        return Folder(tmp_path / "artifact")
    return Folder(request.getfixturevalue("s3_address") + "/artifact")


def test_a_held_lease_is_refused_to_others_and_given_after_release(folder: Folder) -> None:
    lease = LeaseQueue(folder, 20).try_acquire()
    assert lease is not None
    other = LeaseQueue(folder, 20)
    with lease.held():
        assert other.try_acquire() is None
        lease.check()
    assert other.try_acquire() is not None


def test_the_lease_of_a_killed_process_is_taken_at_once(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    code = "from clinjepa.storage import Folder; from pipelines.scheduling.lease import LeaseQueue\n"
    code += f"assert LeaseQueue(Folder({folder.address!r}), 3600).try_acquire()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert LeaseQueue(folder, 3600).try_acquire() is not None


def test_a_silent_owner_on_another_machine_loses_its_lease_after_the_agreed_time(folder: Folder) -> None:
    folder.write_bytes(
        "lease/00000001.json",
        json.dumps({"owner": "x", "host": "elsewhere", "boot_id": "b", "pid": 1, "process_start": "1", "beat": 0}).encode(),
    )
    queue, began = LeaseQueue(folder, 0.5), time.monotonic()
    while queue.try_acquire() is None:
        assert time.monotonic() - began < 60
        time.sleep(0.05)
    assert time.monotonic() - began > 0.5


def test_an_owner_that_beats_keeps_its_lease(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    queue = LeaseQueue(folder, 0.5)
    for beat in range(6):
        record = {"owner": "x", "host": "elsewhere", "boot_id": "b", "pid": 1, "process_start": "1", "beat": beat}
        folder.write_bytes("lease/00000001.json", json.dumps(record).encode())
        assert queue.try_acquire() is None
        time.sleep(0.2)


def test_an_owner_that_was_replaced_may_not_publish(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    lease = LeaseQueue(folder, 20).try_acquire()
    assert lease is not None
    folder.write_bytes("lease/00000002.json", lease.record())
    with pytest.raises(StorageError, match="took this stage over"):
        lease.check()


def test_a_process_id_that_was_given_to_another_process_does_not_keep_the_lease(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    first = LeaseQueue(folder, 3600).try_acquire()
    assert first is not None
    record = json.loads(first.record()) | {"process_start": "another process"}
    assert (record["host"], record["pid"]) == (socket.gethostname(), os.getpid())
    folder.write_bytes("lease/00000001.json", json.dumps(record).encode())
    assert LeaseQueue(folder, 3600).try_acquire() is not None


def test_an_owner_in_another_container_of_this_machine_is_not_judged_by_its_process_id(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    first = LeaseQueue(folder, 3600).try_acquire()
    assert first is not None
    record = json.loads(first.record()) | {"pid": ended.pid}
    folder.write_bytes("lease/00000001.json", json.dumps(record | {"pid_namespace": "4026531836000"}).encode())
    assert LeaseQueue(folder, 3600).try_acquire() is None
    folder.write_bytes("lease/00000001.json", json.dumps(record).encode())
    assert LeaseQueue(folder, 3600).try_acquire() is not None


def test_time_in_which_storage_did_not_answer_is_not_the_owners_silence(tmp_path) -> None:
    folder = Folder(tmp_path / "artifact")
    record = {"owner": "x", "host": "elsewhere", "boot_id": "b", "pid": 1, "process_start": "1", "beat": 0}
    folder.write_bytes("lease/00000001.json", json.dumps(record).encode())
    queue = LeaseQueue(folder, 0.4)
    assert queue.try_acquire() is None
    time.sleep(1.0)  # a look that an outage kept waiting
    assert queue.try_acquire() is None
    deadline = time.monotonic() + 20
    while queue.try_acquire() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert folder.exists("lease/00000002.json")


def test_nothing_is_published_by_an_owner_that_was_replaced_while_it_took_the_digests(tmp_path) -> None:
    artifact = Artifact.at(Folder(tmp_path), "phase", "k")
    artifact.folder.write_bytes("out.bin", b"1")
    lease = LeaseQueue(artifact.folder, 20).try_acquire()
    assert lease is not None
    artifact.folder.write_bytes("lease/00000002.json", lease.record())
    with pytest.raises(StorageError, match="took this stage over"):
        publish(artifact, "old owner", lease.check)
    assert not artifact.is_complete()


def test_a_manifest_that_is_there_is_never_replaced(folder: Folder) -> None:
    artifact = Artifact("phase", "k", folder)
    folder.write_bytes("out.bin", b"1")
    assert publish(artifact, "first")["run_id"] == "first"
    assert publish(artifact, "second")["run_id"] == "first"


def publish(artifact: Artifact, run_id: str, may_publish: Callable[[], None] = lambda: None) -> dict[str, Any]:
    return artifact.publish(WorkRecord(label="x", inputs={}, settings={}, metrics={}, seconds=1.0, run_id=run_id), may_publish)
