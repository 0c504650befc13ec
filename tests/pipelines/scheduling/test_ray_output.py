"""What Ray's core writes on the terminal by itself is left out, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import ray

from pipelines.scheduling.ray_output import LEVEL_VARIABLE, quiet_core
from tests.support.machines.cli import ROOT, environment


class Core:
    """Stands for the core of Ray: what it finds in the environment, and lines of compiled code."""

    def __init__(self, fails: bool = False) -> None:
        self.level = os.environ.get(LEVEL_VARIABLE)
        os.write(2, f"Set ray log level from environment variable {LEVEL_VARIABLE} to 3\na fault of the start\n".encode())
        if fails:
            raise OSError("no core")


def test_the_core_starts_with_fatal_errors_only_and_what_else_is_said_then_is_kept(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(LEVEL_VARIABLE, raising=False)
    monkeypatch.setattr(ray._raylet, "CoreWorker", Core)
    with quiet_core():
        core = ray._raylet.CoreWorker()
        assert LEVEL_VARIABLE not in os.environ  # workers of later processes have Ray's own level
        with pytest.raises(OSError, match="no core"):
            ray._raylet.CoreWorker(fails=True)
    assert core.level == "fatal" and ray._raylet.CoreWorker is Core and LEVEL_VARIABLE not in os.environ
    assert capfd.readouterr().err == "a fault of the start\n" * 2
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_a_level_of_the_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LEVEL_VARIABLE, "info")
    monkeypatch.setattr(ray._raylet, "CoreWorker", Core)
    with quiet_core():
        assert ray._raylet.CoreWorker().level == "info"


POOL = """
import os, ray
from pipelines.scheduling.session import ray_connection

class Worker:
    def __call__(self, rows):
        return rows

with ray_connection({"num_cpus": 2, "object_store_memory": 100 << 20}):
    pool = ray.data.from_items([{"n": 1}]).map_batches(Worker, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=1)
    print(sum(row["n"] for row in pool.iter_rows()))
"""


@pytest.mark.ray
def test_a_pool_of_workers_of_ray_data_says_nothing() -> None:
    words = [sys.executable, "-c", POOL]
    done = subprocess.run(words, cwd=ROOT, env=environment(PYTHONPATH=str(ROOT)), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip() == "1", done.stderr[-2000:]
    assert "core_worker" not in done.stderr and "log level" not in done.stderr, done.stderr
