"""A run that is killed goes on where it stopped and finds the same numbers; also when everything lives on a real S3 server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from clinjepa.storage import Folder
from tests.conftest import S3Server
from tests.support.machines.cli import SMALL, call, numbers, read_report, start

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.s3, pytest.mark.timeout(1200)]


def kill_when(process: subprocess.Popen[str], reached, timeout: float) -> None:
    """SIGKILL the driver as soon as `reached()` is true; the rest of its cluster has to notice by itself."""
    deadline = time.monotonic() + timeout
    while not reached():
        if process.poll() is not None or time.monotonic() > deadline:
            output = process.communicate()[0] if process.poll() is not None else "still running"
            pytest.fail(f"the run ended or hung before it could be killed: {output[-3000:]}")
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def test_killed_in_the_middle_of_a_phase_on_s3_it_goes_on_and_finds_what_the_uninterrupted_local_run_found(
    small_run: Path, s3_address: str, s3_server: S3Server
) -> None:
    storage = Folder(s3_address + "/store")
    env = s3_server.environment
    run = start("run", SMALL, f"storage={storage.address}", **env)

    def in_the_middle_of_a_phase() -> bool:
        for key in storage.names("artifacts/phase"):
            saved = storage.names(f"artifacts/phase/{key}/checkpoints")
            if any(storage.exists(f"artifacts/phase/{key}/checkpoints/{step}/manifest.json") for step in saved):
                return not storage.exists(f"artifacts/phase/{key}/manifest.json")
        return False

    kill_when(run, in_the_middle_of_a_phase, 600)
    unfinished = next(key for key in storage.names("artifacts/phase") if not storage.exists(f"artifacts/phase/{key}/manifest.json"))
    saved_steps = storage.names(f"artifacts/phase/{unfinished}/checkpoints")
    assert saved_steps, "there should be a checkpoint to go on from"
    whole = [step for step in saved_steps if storage.exists(f"artifacts/phase/{unfinished}/checkpoints/{step}/manifest.json")]
    goes_on_from = max(int(step.removeprefix("step-")) for step in whole)
    finished = {
        (kind, key)
        for kind in storage.names("artifacts")
        for key in storage.names(f"artifacts/{kind}")
        if storage.exists(f"artifacts/{kind}/{key}/manifest.json")
    }
    made_before = {each: storage.read_bytes(f"artifacts/{each[0]}/{each[1]}/manifest.json") for each in finished}

    again = call("run", SMALL, f"storage={storage.address}", timeout=900, **env)
    assert again.returncode == 0, again.stdout[-4000:]
    report = storage.read_json("runs/small/report.json")
    assert numbers(report) == numbers(read_report(small_run))
    reused = {stage["key"] for stage in report["stages"] if stage["reused"]}
    assert {key for _, key in finished} <= reused
    assert unfinished not in reused
    starts = storage.read_json(f"artifacts/phase/{unfinished}/timing.json")["starts"]
    assert len(starts) == 2 and starts[-1]["step"] >= goes_on_from, "it went on from its newest checkpoint"
    assert {each: storage.read_bytes(f"artifacts/{each[0]}/{each[1]}/manifest.json") for each in finished} == made_before
    local = {path.parent.name: json.loads(path.read_text()) for path in (small_run / "artifacts").rglob("manifest.json")}
    for kind in ("phase", "sft", "embed", "trajectories"):
        for key in storage.names(f"artifacts/{kind}"):
            there = storage.read_json(f"artifacts/{kind}/{key}/manifest.json")
            assert contents(there) == contents(local[key]), f"{kind} differs between the disk and S3"


def contents(manifest: dict) -> dict[str, str]:
    """Digests of an artifact's files, without the two that hold clock times and records of parts."""
    return {
        file["path"]: file["sha256"]
        for file in manifest["files"]
        if file["path"] != "timing.json" and not file["path"].startswith("parts/")
    }
