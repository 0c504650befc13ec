"""Real Ray nodes on this machine, each with its own raylet and folder, which tests start, drain and take away."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from tests.conftest import free_port_block
from tests.support.machines.cli import environment

_RAY = str(Path(sys.executable).with_name("ray"))
_SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_worker_niceness": "0",
}


_JOIN = "import sys, time, ray\nfrom ray._raylet import GcsClient\nray.init(address=sys.argv[1], logging_level='error')\n"
_COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
    "cluster_synced_files",
)


class Node:
    """One raylet with its workers: a session of its own (Ray gives each worker a process group)."""

    def __init__(self, process: subprocess.Popen[bytes], folder: str) -> None:
        self.process, self.folder = process, folder

    def lose(self) -> None:
        """SIGKILL the raylet and all its workers at once, as when a machine loses power."""
        for process in self.processes(""):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()

    def processes(self, title: str) -> list[int]:
        """Ids of the node's processes whose command line contains `title`, its own first."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                if os.getsid(int(entry.name)) == self.process.pid and title in (entry / "cmdline").read_bytes().decode(errors="replace"):
                    found.append(int(entry.name))
            except (OSError, ProcessLookupError):
                continue
        return sorted(found)


class RayNodes:
    """A cluster of such nodes; use as a context."""

    def __init__(
        self,
        head_cpus: int = 1,
        env: Mapping[str, str] | None = None,
        groups: Mapping[str, Any] | None = None,
        has_dashboard: bool = False,
    ) -> None:
        """A cluster that is not started yet.

        Args:
            head_cpus: Logical CPUs of the head.
            env: More variables of the environment of every node and of the drivers.
            groups: Node types of Ray's autoscaler, which then starts nodes on this machine by itself; None: no autoscaler.
            has_dashboard: Whether the head has a dashboard, at `dashboard`.
        """
        self._scratch = Path(tempfile.mkdtemp(prefix="clj-"))  # short: Ray puts sockets below it
        token = self._scratch / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.port = free_port_block(6)
        self.env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), **(_SETTINGS | dict(env or {})))
        self._nodes: list[Node] = []
        self._head_cpus = head_cpus
        self._groups = groups
        self._has_dashboard = has_dashboard

    @property
    def folder(self) -> Path:
        """Where the nodes have their temporary folders and the logs of `ray start`."""
        return self._scratch

    @property
    def dashboard(self) -> str:
        """Address of the head's dashboard, where it has one."""
        return f"http://127.0.0.1:{self.port + 1}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> RayNodes:
        head = ["--head", f"--port={self.port}", f"--include-dashboard={str(self._has_dashboard).lower()}"]
        head += [f"--ray-client-server-port={self.port + 2}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port + 1}"]
        if self._has_dashboard:  # it submits jobs by the agent, whose usual port another Ray of this machine may have
            head.append(f"--dashboard-agent-listen-port={self.port + 3}")
        if self._groups is not None:
            head.append(f"--autoscaling-config={self._autoscaling()}")
        self.head = self._start(head, self._head_cpus)
        deadline = time.monotonic() + 180
        while self.head.process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return self
            time.sleep(0.5)
        said = (self._scratch / "0.log").read_text(errors="replace")[-2000:]
        self.__exit__()
        raise RuntimeError(f"the head did not start: {said}")

    def __exit__(self, *_: object) -> None:
        for node in reversed(self._nodes):
            if node.process.poll() is None:
                node.lose()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, num_cpus: int = 1, num_gpus: int = 0, env: Mapping[str, str] | None = None) -> Node:
        """Another node, once the cluster sees it, which takes some seconds.

        Args:
            num_cpus: Its logical CPUs.
            num_gpus: What Ray is told, whatever is there.
            env: Variables of its environment that are not those of the cluster.
        """
        node = self.begin(num_cpus, num_gpus, env)
        self._ask(
            "while not any(node['Alive'] and node['RayletSocketName'].startswith(sys.argv[2] + '/') for node in ray.nodes()):\n"
            "    time.sleep(0.2)\n",
            node.folder,
        )
        return node

    def begin(self, num_cpus: int = 1, num_gpus: int = 0, env: Mapping[str, str] | None = None) -> Node:
        """As `add`, without waiting for the cluster, which may not let it in."""
        return self._start([f"--address={self.address}", f"--num-gpus={num_gpus}"], num_cpus, env)

    def asked(self, path: str) -> bytes:
        """What the dashboard answers to who has the token. Raises OSError when it does not."""
        token = Path(self.env["RAY_AUTH_TOKEN_PATH"]).read_text()
        request = urllib.request.Request(self.dashboard + path, headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def drain(self, seconds: int, node: Node | None = None) -> None:
        """Give notice that a node, the last one added unless given, will be taken away in so many seconds, as a cloud does."""
        folder = (node or self._nodes[-1]).folder
        said = self._ask(
            "folder, seconds = sys.argv[2].split('|')\n"
            "found = [node for node in ray.nodes() if node['Alive'] and node['RayletSocketName'].startswith(folder + '/')][0]\n"
            "client = GcsClient(address=ray.get_runtime_context().gcs_address)\n"
            "print(client.drain_node(found['NodeID'], 2, 'taken away', int((time.time() + float(seconds)) * 1000)))\n",
            f"{folder}|{seconds}",
        )
        if not said.startswith("(True"):
            raise RuntimeError(said)

    def ask(self, code: str, timeout: float = 90) -> str:
        """What a driver prints that has joined the cluster and runs this code."""
        return self._ask(code, "", timeout)

    def asking(self, code: str) -> subprocess.Popen[str]:
        """Such a driver while it runs."""
        command = [sys.executable, "-c", _JOIN + code, self.address, ""]
        return subprocess.Popen(command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def _autoscaling(self) -> Path:
        """The file of Ray's own provider of nodes on one machine, for its autoscaler."""
        self.env |= {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        }
        head = {FAKE_HEAD_NODE_TYPE: {"resources": {"CPU": self._head_cpus}, "node_config": {}, "max_workers": 0}}
        provider = {
            "type": "external",  # by its own name it would read a file that Ray's wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": self.address,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        }
        empty: dict[str, Any] = dict.fromkeys(("auth", "docker", "file_mounts"), {}) | dict.fromkeys(_COMMANDS, [])
        config = empty | {
            "cluster_name": "fake",
            "max_workers": 8,
            "provider": provider,
            "available_node_types": head | dict(self._groups or {}),
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": 1.0,
        }
        path = self._scratch / "autoscaling.yaml"
        path.write_text(json.dumps(config))
        return path

    def _ask(self, code: str, argument: str, timeout: float = 90) -> str:
        """What a driver prints that has joined the cluster and runs this code."""
        command = [sys.executable, "-c", _JOIN + code, self.address, argument]
        done = subprocess.run(command, env=self.env, text=True, capture_output=True, timeout=timeout)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout.strip()

    def _start(self, arguments: list[str], num_cpus: int, env: Mapping[str, str] | None = None) -> Node:
        folder = str(self._scratch / str(len(self._nodes)))
        command = [_RAY, "start", *arguments, f"--num-cpus={num_cpus}", f"--temp-dir={folder}", "--block", "--disable-usage-stats"]
        if self._nodes:
            command.append('--resources={"last": 1}')
        log = open(f"{folder}.log", "wb")
        process = subprocess.Popen(command, env=self.env | (env or {}), stdout=log, stderr=log, start_new_session=True)
        self._nodes.append(Node(process, folder))
        return self._nodes[-1]

    def _answers(self) -> bool:
        """Whether the head answers; on a busy machine the question itself may take longer than its patience."""
        command = [_RAY, "status", f"--address={self.address}"]
        with contextlib.suppress(subprocess.TimeoutExpired, OSError):
            if subprocess.run(command, env=self.env, capture_output=True, timeout=60).returncode == 0:
                return not self._has_dashboard or bool(self.asked("/api/version"))
        return False
