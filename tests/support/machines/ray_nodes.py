"""Real Ray nodes on this machine, each with its own raylet and folder, which tests start, drain and take away."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import free_port_block
from tests.support.machines.cli import environment

_RAY = str(Path(sys.executable).with_name("ray"))
_SETTINGS = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_worker_niceness": "0",
}


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

    def __init__(self, head_cpus: int = 1, env: Mapping[str, str] | None = None) -> None:
        """env: more variables of the environment of every node and of the drivers."""
        self._scratch = Path(tempfile.mkdtemp(prefix="clj-"))  # short: Ray puts sockets below it
        token = self._scratch / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.port = free_port_block(6)
        self.env = environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token), **_SETTINGS, **(env or {}))
        self._nodes: list[Node] = []
        self._head_cpus = head_cpus

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def __enter__(self) -> RayNodes:
        head = ["--head", f"--port={self.port}", "--include-dashboard=false", f"--ray-client-server-port={self.port + 2}"]
        self.head = self._start(head, self._head_cpus)
        deadline = time.monotonic() + 180
        while self.head.process.poll() is None and time.monotonic() < deadline:
            if self._status().returncode == 0:
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

    def add(self, num_cpus: int = 1, num_gpus: int = 0) -> Node:
        """Another node, once the cluster sees it, which takes some seconds. num_gpus: what Ray is told, whatever is there."""
        node = self._start([f"--address={self.address}", f"--num-gpus={num_gpus}"], num_cpus)
        self._ask(
            "while not any(node['Alive'] and node['RayletSocketName'].startswith(sys.argv[2] + '/') for node in ray.nodes()):\n"
            "    time.sleep(0.2)\n",
            node.folder,
        )
        return node

    def drain(self, seconds: int) -> None:
        """Give notice that the last node added will be taken away in so many seconds, as a cloud does."""
        said = self._ask(
            "last = [node for node in ray.nodes() if node['Alive'] and node['Resources'].get('last')][0]\n"
            "client = GcsClient(address=ray.get_runtime_context().gcs_address)\n"
            "print(client.drain_node(last['NodeID'], 2, 'taken away', int((time.time() + float(sys.argv[2])) * 1000)))\n",
            str(seconds),
        )
        if not said.startswith("(True"):
            raise RuntimeError(said)

    def _ask(self, code: str, argument: str) -> str:
        """What a driver prints that has joined the cluster and runs this code."""
        code = "import sys, time, ray\nfrom ray._raylet import GcsClient\nray.init(address=sys.argv[1], logging_level='error')\n" + code
        command = [sys.executable, "-c", code, self.address, argument]
        done = subprocess.run(command, env=self.env, text=True, capture_output=True, timeout=90)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout.strip()

    def _start(self, arguments: list[str], num_cpus: int) -> Node:
        folder = str(self._scratch / str(len(self._nodes)))
        command = [_RAY, "start", *arguments, f"--num-cpus={num_cpus}", f"--temp-dir={folder}", "--block", "--disable-usage-stats"]
        if self._nodes:
            command.append('--resources={"last": 1}')
        log = open(f"{folder}.log", "wb")
        process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)
        self._nodes.append(Node(process, folder))
        return self._nodes[-1]

    def _status(self) -> subprocess.CompletedProcess[str]:
        return subprocess.run([_RAY, "status", f"--address={self.address}"], env=self.env, capture_output=True, text=True, timeout=60)
