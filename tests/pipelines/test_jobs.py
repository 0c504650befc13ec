"""`ray job submit` runs the same configuration on a cluster; its exit status is the run's."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from clinjepa.storage import Folder
from pipelines.results.stored_runs import stored_runs
from tests.conftest import free_port_block
from tests.repository.test_upload import PACKAGES, PLANTED, code_and_configs, tracked
from tests.support.machines.cli import ROOT, SMALL, environment

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
RAY = str(Path(sys.executable).with_name("ray"))


class Head:
    def __init__(self, env: dict[str, str], dashboard: str, folder: Path) -> None:
        self.env, self.dashboard, self.folder = env, dashboard, folder

    def clinjepa_submit(self, root: Path, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, "-m", "pipelines.submit", *arguments, "--address", self.dashboard]
        return subprocess.run(call, cwd=root, env=self.env if env is None else env, text=True, capture_output=True, timeout=300)

    def arrived(self) -> list[set[str]]:
        """Files of every package that was unpacked on the node, without what running them adds."""
        packages = [path for path in self.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*") if path.is_dir()]
        files = [{path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()} for package in packages]
        return [{name for name in found if "__pycache__" not in name} for found in files]

    def submit(self, *command: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
        call = [RAY, "job", "submit", "--address", self.dashboard, "--working-dir", ".", "--", sys.executable, "-m", *command]
        return subprocess.run(call, cwd=ROOT, env=self.env, text=True, capture_output=True, timeout=timeout)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A real head node with token authentication, as `docs/cluster.md` tells a user to start it."""
    folder = tmp_path_factory.mktemp("ray")
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # `python` of a job is the one of the activated environment
    env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), PATH=path)
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
        yield Head(env, dashboard, Path(temporary))
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


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's folder with untracked secrets in it."""
    root = tmp_path_factory.mktemp("project")
    for name in [*tracked(*PACKAGES), ".rayignore", ".gitignore"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    for name in PLANTED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("planted secret\n")
    return root


CONFIG = "configs/demo_simulator.yaml"
FEW = ("source.simulator.num_patients=20", "name=submitted")


def test_submit_sends_code_and_configurations_alone_and_has_the_status_of_the_run(head: Head, root: Path, tmp_path: Path) -> None:
    lost = ["source.kind=cinc2012", f"source.path={tmp_path / 'nowhere'}"]
    failed = head.clinjepa_submit(root, CONFIG, f"storage={tmp_path}", *lost)
    said = failed.stdout + failed.stderr
    assert failed.returncode == 2, said[-3000:]
    assert "nowhere" in failed.stdout and "job clinjepa-" in failed.stderr and "failed" in failed.stderr
    assert head.env["RAY_AUTH_TOKEN_PATH"] not in said and Path(head.env["RAY_AUTH_TOKEN_PATH"]).read_text() not in said
    assert set(code_and_configs(*PACKAGES)) in head.arrived()
    assert not any(files & set(PLANTED) for files in head.arrived())


def test_submit_refuses_a_run_that_a_job_works_on_and_goes_on_after_it(head: Head, root: Path, tmp_path: Path) -> None:
    asked = [CONFIG, f"storage={tmp_path}", *FEW, "--command", "ingest"]
    first = head.clinjepa_submit(root, *asked, "--no-wait")
    assert first.returncode == 0, first.stderr[-3000:]
    job = first.stdout.strip()
    refused = head.clinjepa_submit(root, *asked)
    assert refused.returncode == 2 and f"ray job stop --address {head.dashboard} {job}" in " ".join(refused.stderr.split())
    subprocess.run([RAY, "job", "stop", "--address", head.dashboard, job], env=head.env, capture_output=True, timeout=120, check=True)
    again = head.clinjepa_submit(root, *asked)
    assert again.returncode == 0, (again.stdout + again.stderr)[-3000:]
    assert "data card:" in again.stdout and f"submitted {job.rpartition('-')[0]}-2" in " ".join(again.stderr.split())
    (run,) = stored_runs(Folder(tmp_path)).runs
    assert (run.name, run.state, run.command) == ("submitted", "finished", "ingest") and run.num_done == run.num_stages


def test_submit_without_the_clusters_token_is_one_line(head: Head, root: Path, tmp_path: Path) -> None:
    without = {name: value for name, value in head.env.items() if not name.startswith("RAY_AUTH")} | {"HOME": str(tmp_path)}
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_hex(32))
    for env, word in ((without, "asks for a token"), (head.env | {"RAY_AUTH_TOKEN_PATH": str(wrong)}, "not that of the cluster")):
        refused = head.clinjepa_submit(root, CONFIG, f"storage={tmp_path}", env=env)
        said = " ".join((refused.stdout + refused.stderr).split())
        assert refused.returncode == 2 and word in said and "export RAY_AUTH_MODE=token" in said, said[-2000:]
        assert wrong.read_text() not in said
