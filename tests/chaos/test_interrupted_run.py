"""A training or a run on a real S3 server that is killed goes on where it stopped and finds what an uninterrupted run on a disk found."""

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
from tests.support.machines.cli import SMALL, call, start

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.s3, pytest.mark.timeout(1200)]

SECONDS_TO_END = 8
"""By then the workers of a killed driver have ended."""


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


@pytest.mark.parametrize(("name", "recipe"), [("pretrain", "no_alignment"), pytest.param("run", "clin_jepa", marks=pytest.mark.long)])
def test_killed_in_the_middle_of_a_phase_on_s3_it_goes_on_and_finds_what_the_uninterrupted_local_run_found(
    small_run: Path, s3_address: str, s3_server: S3Server, name: str, recipe: str
) -> None:
    storage = Folder(s3_address + "/store")
    env = s3_server.environment
    command = (name, SMALL, f"storage={storage.address}", f"grid.recipes=[{recipe}]", "curriculum.checkpoint_every_steps=1")
    for _ in range(3):  # the processes of a killed run end a moment later than its driver: they may have finished the phase
        kill_when(start(*command, **env), lambda: bool(unfinished_phases(storage)), 600)
        time.sleep(SECONDS_TO_END)
        if left := unfinished_phases(storage):
            break
    else:
        pytest.fail("every phase was finished before it could be found unfinished")
    unfinished, goes_on_from = next(iter(left.items()))
    finished = {
        (kind, key)
        for kind in storage.names("artifacts")
        for key in storage.names(f"artifacts/{kind}")
        if storage.exists(f"artifacts/{kind}/{key}/manifest.json")
    }
    made_before = {each: storage.read_bytes(f"artifacts/{each[0]}/{each[1]}/manifest.json") for each in finished}

    again = call(*command, timeout=900, **env)
    assert again.returncode == 0, again.stdout[-4000:]
    if name == "run":
        reused = {stage["key"] for stage in storage.read_json("runs/small/report.json")["stages"] if stage["reused"]}
        assert {key for _, key in finished} <= reused and unfinished not in reused
    starts = storage.read_json(f"artifacts/phase/{unfinished}/timing.json")["starts"]
    assert len(starts) == 2 and starts[-1]["step"] >= goes_on_from, "it went on from its newest checkpoint"
    assert {each: storage.read_bytes(f"artifacts/{each[0]}/{each[1]}/manifest.json") for each in finished} == made_before
    local = {path.parent.name: json.loads(path.read_text()) for path in (small_run / "artifacts").rglob("manifest.json")}
    kinds = storage.names("artifacts")
    assert {"phase", "sft", "embed", "trajectories"} | ({"drift", "geometry", "downstream"} if name == "run" else set()) <= set(kinds)
    for kind in kinds:
        for key in storage.names(f"artifacts/{kind}"):
            there = storage.read_json(f"artifacts/{kind}/{key}/manifest.json")
            assert contents(there) == contents(local[key]), f"{kind} differs between the disk and S3"


def unfinished_phases(storage: Folder) -> dict[str, int]:
    """Key of every phase with a checkpoint and without a result, and the step of its newest checkpoint."""
    found = {}
    for key in storage.names("artifacts/phase"):
        folder = f"artifacts/phase/{key}"
        saved = [step for step in storage.names(f"{folder}/checkpoints") if storage.exists(f"{folder}/checkpoints/{step}/manifest.json")]
        if saved and not storage.exists(f"{folder}/manifest.json"):
            found[key] = max(int(step.removeprefix("step-")) for step in saved)
    return found


def contents(manifest: dict) -> dict[str, str]:
    """Digests of an artifact's files, without the two that hold clock times and records of parts."""
    return {
        file["path"]: file["sha256"]
        for file in manifest["files"]
        if file["path"] != "timing.json" and not file["path"].startswith("parts/")
    }
