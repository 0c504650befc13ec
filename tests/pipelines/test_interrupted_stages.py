"""A command that a signal ends in any kind of stage: one line, status 128 + n, no process left, and the same command goes on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.machines.cli import ROOT, SMALL, environment
from tests.support.machines.processes import none_left

pytestmark = [pytest.mark.ray]

LINE = "interrupted; finished stages are kept, the same command goes on"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALL_KINDS = ("ingest", "tokenizer", "trajectories", "labels", "baselines", "base", "sft", "embed", "phase", "sync")
SEVERAL = ("embed", "phase")
"""Kinds with several stages. The one stage of another kind may have been finished while a stage beside it was interrupted."""
LEAST_KINDS = 10
"""Of the 16 kinds at least so many were caught at work."""
SMALLER = ("source.simulator.num_patients=30", "grid.recipes=[clin_jepa]", "execution.object_store_mb=100")


def modified(file: Path) -> float:
    """Unix time of the last change; 0 for a file that is gone."""
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return 0.0


class Command:
    """A command over one storage, which is started again and again."""

    def __init__(self, storage: Path, name: str = "grid", *more: str) -> None:
        self.storage, self.mark, self.started = storage, f"MARK={storage}", 0.0
        self.words = [sys.executable, "-m", f"pipelines.{name}", SMALL, f"storage={storage}", *SMALLER, *more]

    def start(self) -> subprocess.Popen[str]:
        env = environment(MARK=str(self.storage))
        self.started = time.time()
        return subprocess.Popen(
            self.words, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )

    def finished(self) -> dict[Path, bytes]:
        """Manifests of the finished stages."""
        return {path: path.read_bytes() for path in self.storage.glob("artifacts/*/*/manifest.json")}

    def works_on(self, kind: str) -> bool:
        """Whether the command that was started last has begun a stage of this kind that is not finished."""
        leases = [lease for lease in self.storage.glob(f"artifacts/{kind}/*/lease/*.json") if modified(lease) > self.started]
        return any(not (lease.parents[1] / "manifest.json").exists() for lease in leases)

    def interrupted(self, kind: str, number: signal.Signals, whole_group: bool = False) -> None:
        """Start the command, send the signal while it works on a stage of `kind`, check how it ends."""
        process = self.start()
        deadline = time.monotonic() + 300
        while not self.works_on(kind):
            if process.poll() is not None or time.monotonic() > deadline:
                output = process.communicate()[0] if process.poll() is not None else "still running"
                pytest.fail(f"no stage of kind {kind} was seen at work: {output[-3000:]}")
            time.sleep(0.02)
        before = self.finished()
        (os.killpg if whole_group else os.kill)(process.pid, number)
        output, _ = process.communicate(timeout=100)
        assert process.returncode == 128 + number, output
        after_signal = [line for line in output.splitlines() if not line.startswith(("done ", "warning: "))]
        assert after_signal[-1:] == [LINE] and "Traceback" not in output and "unexpected" not in output, output
        assert none_left(self.mark)
        assert {path: content for path, content in self.finished().items() if path in before} == before

    def finishes(self) -> None:
        process = self.start()
        output, _ = process.communicate(timeout=600)
        assert process.returncode == 0, output[-3000:]
        assert none_left(self.mark)


@pytest.mark.timeout(900)
def test_ctrl_c_in_a_training_of_the_grid_ends_the_command_and_keeps_what_is_finished(tmp_path: Path) -> None:
    Command(tmp_path / "store").interrupted("sft", signal.SIGINT)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_command_after_a_signal_goes_on_behind_what_is_finished(tmp_path: Path) -> None:
    command = Command(tmp_path / "store")
    command.interrupted("sft", signal.SIGINT)
    command.interrupted("phase", signal.SIGTERM)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["run", "evaluate"])
def test_a_signal_in_every_kind_of_stage_ends_the_command_and_the_same_command_goes_on(tmp_path: Path, name: str) -> None:
    command = Command(tmp_path / "store", name)
    kinds = [*ALL_KINDS, "roundtrip", "drift", "geometry", "downstream", "direct_forecasts", "forecasts"]
    caught = []
    for kind, number in zip(kinds, itertools.cycle(SIGNALS), strict=False):
        finished_beside_another = kind not in SEVERAL and list(command.storage.glob(f"artifacts/{kind}/*/manifest.json"))
        if not (name == "evaluate" and kind == "baselines") and not finished_beside_another:
            command.interrupted(kind, number)
            caught.append(kind)
    command.finishes()
    assert len(caught) >= LEAST_KINDS, caught


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "kinds"), [("ingest", ("ingest", "labels")), ("pretrain", ("sft", "embed", "phase")), ("grid", ("phase",))]
)
def test_a_signal_to_all_processes_of_a_terminal_ends_every_command(tmp_path: Path, name: str, kinds: tuple[str, ...]) -> None:
    command = Command(tmp_path / "store", name)
    for kind, number in zip(kinds, (signal.SIGINT, signal.SIGHUP, signal.SIGINT), strict=False):
        command.interrupted(kind, number, whole_group=True)
    command.finishes()


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_signal_while_other_patients_are_scored_ends_the_command_and_the_same_command_goes_on(tmp_path: Path) -> None:
    run = Command(tmp_path / "store", "run")
    run.finishes()
    scoring = Command(run.storage, "score")
    new = ("--source", "simulator", "--name", "elsewhere", "source.simulator.seed=7", "source.simulator.num_patients=30")
    scoring.words = [*scoring.words[:3], f"{run.storage}/runs/small", *new]
    for kind, number in (("ingest", signal.SIGINT), ("embed", signal.SIGTERM), ("scores", signal.SIGINT)):
        scoring.interrupted(kind, number)
    scoring.finishes()
    assert len(list(run.storage.glob("artifacts/scores/*/risk/*.parquet"))) > 1 and (run.storage / "runs/elsewhere/report.html").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0, 4.5, 6.0])
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_command_or_ray_starts_leaves_nothing_behind(tmp_path: Path, seconds: float, number: signal.Signals) -> None:
    command = Command(tmp_path / "store", "ingest")
    process = command.start()
    time.sleep(seconds)
    process.send_signal(number)
    output, _ = process.communicate(timeout=100)
    assert process.returncode in (128 + number, -number), output  # negative: before Python has begun to read the command
    assert "Traceback" not in output or process.returncode < 0, output
    assert none_left(command.mark)
