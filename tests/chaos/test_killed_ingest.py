"""An ingest of raw tables that is killed looks unfinished, and the same command goes on from the parts that were finished."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from clinjepa.config.schema import SimulatorConfig
from clinjepa.sources.simulated.mimic_writer import write_simulated_mimic
from clinjepa.storage import Folder
from tests.support.machines.cli import SMALL, call, start

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.timeout(900)]


def ingest(tables: Path, storage: Path) -> list[str]:
    source = ["source.kind=mimic_iv", f"source.path={tables}", "source.num_partitions=6", "cohort.min_stay_hours=4"]
    return ["ingest", SMALL, f"storage={storage}", *source]


def unfinished(storage: Path, kind: str) -> Path | None:
    """The folder of a stage that has a finished part and no manifest."""
    for folder in storage.glob(f"artifacts/{kind}/*"):
        if not (folder / "manifest.json").exists() and list(folder.glob("parts/*.json")):
            return folder
    return None


def kill_in(kind: str, tables: Path, storage: Path) -> dict[Path, int]:
    """Start an ingest and SIGKILL its driver in a stage; returns the records of that stage's finished parts and when each was written."""
    process = start(*ingest(tables, storage))
    deadline = time.monotonic() + 300
    while (folder := unfinished(storage, kind)) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it could not be killed in {kind}: {process.communicate()[0][-3000:]}")
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # tasks that were at work end with their cluster
    assert not (folder / "manifest.json").exists()
    return {path: path.stat().st_mtime_ns for path in folder.glob("parts/*.json")}


def digests(storage: Path) -> dict[str, str]:
    """SHA-256 of every file of every stage, by stage and path."""
    found = {}
    for path in storage.glob("artifacts/*/*/manifest.json"):
        manifest = json.loads(path.read_text())
        found |= {f"{manifest['kind']}/{file['path']}": file["sha256"] for file in manifest["files"]}
    return found


@pytest.mark.parametrize("stages", [("ingest",), pytest.param(("extract", "ingest", "trajectories"), marks=pytest.mark.long)], ids=len)
def test_killed_in_each_stage_in_turn_it_costs_no_finished_part_and_changes_no_file(tmp_path: Path, stages: tuple[str, ...]) -> None:
    tables = tmp_path / "tables"
    write_simulated_mimic(Folder(tables), SimulatorConfig(num_patients=24, seed=5, mean_stay_hours=30))
    undisturbed = call(*ingest(tables, tmp_path / "undisturbed"))
    assert undisturbed.returncode == 0, undisturbed.stdout[-3000:]
    storage = tmp_path / "killed"
    finished = {path: written for kind in stages for path, written in kill_in(kind, tables, storage).items()}
    again = call(*ingest(tables, storage))
    assert again.returncode == 0, again.stdout[-3000:]
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert digests(storage) == digests(tmp_path / "undisturbed")
