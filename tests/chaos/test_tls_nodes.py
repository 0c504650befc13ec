"""Two Ray nodes with TLS and the certificates of `cluster/kubernetes/tls`: a training of this project runs on them, and who has no
certificate of the authority is let in neither as a node nor as a driver, although it has the token."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import ray

from clinjepa.storage import Folder
from tests.support.machines.cli import ROOT
from tests.support.machines.ray_nodes import RayNodes
from tests.support.training.trainings import Inputs, Training, steps_of

pytestmark = [pytest.mark.ray, pytest.mark.chaos, pytest.mark.long, pytest.mark.timeout(900)]
WHERE = "@ray.remote(num_cpus=0.1)\ndef where():\n    return ray.get_runtime_context().get_node_id()\n"
ON_BOTH = WHERE + "print(len({ray.get(where.remote()), ray.get(where.options(resources={'last': 0.1}).remote())}))"
ALIVE = "print(sum(node['Alive'] for node in ray.nodes()))"


def maker() -> ModuleType:
    """The script that makes the certificates of pods."""
    path = ROOT / "cluster" / "kubernetes" / "tls" / "node_certificate.py"
    spec = importlib.util.spec_from_file_location("node_certificate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Authority:
    """An authority and the variables of processes that have one of its certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._maker = folder, maker()
        folder.mkdir(parents=True)
        self._maker.write_authority(folder)

    def variables(self, name: str) -> dict[str, str]:
        folder = self.folder.parent / f"{self.folder.name}-{name}"
        folder.mkdir()
        self._maker.write_certificate(self.folder, folder, ray.util.get_node_ip_address())
        files = {"SERVER_CERT": "tls.crt", "SERVER_KEY": "tls.key", "CA_CERT": "ca.crt"}
        return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{key}": str(folder / file) for key, file in files.items()}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    """A head and a node, each with a certificate of its own."""
    authority = Authority(tmp_path_factory.mktemp("tls") / "ours")
    patient = {"RAY_health_check_failure_threshold": "300"}  # no node is lost here, however busy the machine is
    with RayNodes(head_cpus=2, env=authority.variables("head") | patient) as nodes:
        nodes.add(num_cpus=2, env=authority.variables("node"))
        yield nodes


def test_tasks_run_on_both_nodes(nodes: RayNodes) -> None:
    assert nodes.ask(ON_BOTH) == "2"


def test_a_training_of_this_project_runs_on_both_nodes(nodes: RayNodes, tmp_path: Path) -> None:
    inputs = Inputs(tmp_path / "inputs")
    scratch = tmp_path / "driver"
    scratch.mkdir()
    training = Training(nodes, inputs.sft_job(4, Path()), scratch, cpus_per_worker=1.25, start_timeout_seconds=60)
    try:
        training.finish(400)
    finally:
        if training.process.poll() is None:
            training.process.kill()
    assert len(steps_of(Folder(training.folder.address))) == 4 and training.numbers_of_workers() == [2]


@pytest.mark.parametrize("who", ["without a certificate", "of a strange authority"])
def test_a_driver_that_the_authority_does_not_know_is_refused(nodes: RayNodes, tmp_path: Path, who: str) -> None:
    other = {"RAY_USE_TLS": "0"} if who == "without a certificate" else Authority(tmp_path / "strange").variables("driver")
    code = f"import ray\nray.init(address={nodes.address!r}, logging_level='error')\nprint('IN')"
    try:
        done = subprocess.run([sys.executable, "-c", code], env=nodes.env | other, capture_output=True, text=True, timeout=40)
    except subprocess.TimeoutExpired as waited:
        assert b"IN" not in (waited.stdout or b"")
    else:
        assert done.returncode != 0 and "IN" not in done.stdout
    assert nodes.ask(ALIVE) == "2", "those who are known still get answers"


def test_a_node_without_a_certificate_does_not_join(nodes: RayNodes) -> None:
    stranger = nodes.begin(env={"RAY_USE_TLS": "0"})
    deadline = time.monotonic() + 30
    while stranger.process.poll() is None and time.monotonic() < deadline:
        time.sleep(1)
    assert nodes.ask(ALIVE) == "2"
    if stranger.process.poll() is None:
        stranger.lose()
