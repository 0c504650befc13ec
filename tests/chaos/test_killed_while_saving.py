"""A worker that dies in the middle of a save or right after it, or whose disk is full, leaves no torn checkpoint that is taken."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clinjepa.curriculum.jobs import PhaseJob
from tests.support.machines.small_disk import fill, small_disk
from tests.support.training.curriculum_processes import run_job
from tests.support.training.plain_training import STEPS, assert_same, last_start, start, warmup_job
from tests.support.training.saved import checkpoints_in, newest_whole

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> PhaseJob:
    return warmup_job(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def undisturbed(job, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    run_job(replace(job, out=str(out)))
    return out


def kill_when(process: subprocess.Popen[bytes], reached: Any) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, "it ended before that moment came"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_in_the_middle_of_a_save_it_goes_on_from_the_one_before(job, undisturbed, tmp_path):
    job = replace(job, out=str(tmp_path / "out"))
    out = Path(job.out)

    def in_the_middle() -> bool:
        found = checkpoints_in(out)
        return len(found) >= 2 and not found[max(found)]

    kill_when(start(job), in_the_middle)
    torn = [step for step, whole in checkpoints_in(out).items() if not whole]
    assert len(torn) == 1
    goes_on_from = newest_whole(checkpoints_in(out))
    assert 0 < goes_on_from < torn[0]
    with pytest.warns(UserWarning, match="no readable manifest"):
        run_job(job)
    assert last_start(out) == goes_on_from
    assert_same(out, undisturbed)


def test_killed_after_a_save_that_nobody_was_told_of_it_goes_on_from_it(job, undisturbed, tmp_path):
    job = replace(job, out=str(tmp_path / "out"))
    out = Path(job.out)
    kill_when(start(job), lambda: any(checkpoints_in(out).values()))
    goes_on_from = newest_whole(checkpoints_in(out))
    assert 0 < goes_on_from < STEPS
    run_job(job)
    assert last_start(out) == goes_on_from
    assert_same(out, undisturbed)


def test_a_disk_that_fills_up_is_named_and_the_phase_goes_on_when_there_is_room(job, undisturbed, tmp_path):
    with small_disk(tmp_path / "disk", "200m") as disk:
        job = replace(job, out=str(disk / "out"))
        process = start(job, stderr=subprocess.PIPE)
        while not newest_whole(checkpoints_in(job.out)):
            assert process.poll() is None
        filler = fill(disk)
        said = process.communicate(timeout=120)[1].decode()
        assert process.returncode == 1 and "the disk is full" in said and "Traceback" not in said, said
        filler.unlink()
        goes_on_from = newest_whole(checkpoints_in(job.out))
        assert goes_on_from > 0
        run_job(job)
        assert last_start(job.out) == goes_on_from
        assert_same(Path(job.out), undisturbed)
