"""`ray job submit` runs the same configuration on a cluster; its exit status is the run's."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import free_port_block
from tests.support.machines.cli import ROOT, SMALL, environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    def __init__(self, env: dict[str, str], dashboard: str) -> None:
        self.env, self.dashboard = env, dashboard

    def submit(self, *command: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        call = [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", sys.executable, "-m", *command]
        return subprocess.run(call, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=timeout)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A real head node with token authentication, as `cluster/README.md` tells a user to start it."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
    port = free_port_block(6)
    temporary = f"/tmp/ray-test-{os.getpid()}"
    command = [RAY, "start", "--head", f"--port={port}", f"--dashboard-port={port + 1}", "--dashboard-host=127.0.0.1", "--num-cpus=2"]
    command += [
        f"--temp-dir={temporary}",
        "--block",
        "--disable-usage-stats",
        "--include-dashboard=true",
        f"--ray-client-server-port={port + 2}",
    ]
    log = open(folder / "head.log", "wb")
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    dashboard = f"http://127.0.0.1:{port + 1}"
    try:
        for _ in range(60):
            listed = subprocess.run([RAY, "job", "list", "--address", dashboard], env=env, capture_output=True, text=True, timeout=60)
            if listed.returncode == 0:
                break
            if process.poll() is not None:
                pytest.fail("the head did not start: " + (folder / "head.log").read_text()[-2000:])
        else:
            pytest.fail("the head's dashboard does not answer: " + listed.stderr[-2000:])
        yield Head(env, dashboard)
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_a_job_runs_the_configuration_and_succeeds_with_it(head: Head, small_run: Path) -> None:
    done = head.submit("pipelines.run", str(ROOT / SMALL), f"storage={small_run}", "name=as_a_job", "evaluation.drift.num_bootstrap=40")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (small_run / "runs" / "as_a_job" / "report.html").exists()


def test_the_job_of_a_failing_run_fails_with_its_message(head: Head, tmp_path: Path) -> None:
    failed = head.submit(
        "pipelines.run", str(ROOT / SMALL), f"storage={tmp_path}", "source.kind=cinc2012", f"source.path={tmp_path / 'nowhere'}"
    )
    assert failed.returncode != 0
    assert "nowhere" in failed.stdout + failed.stderr


def test_a_relative_storage_is_refused_inside_a_job(head: Head) -> None:
    refused = head.submit("pipelines.run", str(ROOT / SMALL), "storage=runs")
    assert refused.returncode != 0
    assert "vanishes with the job" in (refused.stdout + refused.stderr).replace("\n", " ")
