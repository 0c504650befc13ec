"""Workers that outlive their Ray are ended; those of another session are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.scheduling.local_ray import end_leftover_workers

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")


def sleeper(session: Path, name: str) -> subprocess.Popen[bytes]:
    (session / "logs").mkdir(parents=True, exist_ok=True)
    with (session / "logs" / name).open("wb") as output:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"], stdout=output)


def test_only_workers_of_the_session_are_ended(tmp_path):
    worker = sleeper(tmp_path / "session_1", "worker-ab-01000000-7.out")
    others = [sleeper(tmp_path / "session_2", "worker-ab-01000000-8.out"), sleeper(tmp_path / "session_1", "trial.out")]
    try:
        assert end_leftover_workers(tmp_path / "session_1") == 1
        assert worker.wait(timeout=60) == -15
        assert [other.poll() for other in others] == [None, None]
    finally:
        for process in (worker, *others):
            process.kill()
            process.wait()
