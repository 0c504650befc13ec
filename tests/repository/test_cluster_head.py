"""Ray's own control process with the settings of cluster/kubernetes: its database outlives it, and TLS keeps strangers out.

Only that process is started, no cluster.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from tests.support.machines.manifests import KUBERNETES, cluster_spec, documents

SERVER = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
CLIENT = """
import sys, time
from ray._raylet import GcsClient
for _ in range(60):
    try:
        client = GcsClient(address=sys.argv[1])
        break
    except Exception:
        time.sleep(0.5)
else:
    sys.exit("OUT")
if "write" in sys.argv:
    client.internal_kv_put(b"key", b"kept", True, b"test", timeout=20)
print("IN", client.cluster_id, client.internal_kv_get(b"key", b"test", timeout=20), flush=True)
"""


class Head:
    """The control process of a head, which can be killed and started again at the same place."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.folder, self.env = folder, env
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    def start(self) -> None:
        command = [
            str(SERVER),
            f"--log_dir={self.folder}",
            "--config_list=e30=",
            f"--gcs_server_port={self.port}",
            "--metrics-agent-port=0",
        ]
        command += ["--node-ip-address=127.0.0.1", "--session-name=session_test", f"--session-dir={self.folder}", "--ray-commit=x"]
        with open(self.folder / "head.log", "ab") as log:
            self.process = subprocess.Popen([*command, "--node-id=" + "ab" * 28], env=self.env, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=30)

    def ask(self, *words: str, seconds: float = 60, **variables: str) -> str:
        """What a client prints; empty when it got no answer in time."""
        command = [sys.executable, "-c", CLIENT, f"127.0.0.1:{self.port}", *words]
        try:
            done = subprocess.run(command, env=self.env | variables, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip().rpartition("\n")[2]


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Callable[..., Head]]:
    """Starts one with the variables that KubeRay gives the standing cluster's head, a token, and more variables."""
    started = []

    def begin(**variables: str) -> Head:
        (manifest,) = documents(KUBERNETES / "base" / "standing" / "raycluster.yaml")
        named = {
            "RAY_gcs_storage": cluster_spec(manifest)["gcsFaultToleranceOptions"]["backend"],
            "RAY_gcs_storage_path": str(tmp_path / "gcs"),
        }
        (tmp_path / "token").write_text("a" * 64)
        (tmp_path / "token").chmod(0o600)
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}
        started.append(Head(tmp_path, os.environ | named | secret | variables))
        return started[-1]

    yield begin
    for each in started:
        each.kill()


def test_a_head_that_was_killed_comes_back_as_the_same_cluster(head: Callable[..., Head]) -> None:
    server = head()
    before = server.ask("write")
    server.kill()
    server.start()
    after = server.ask()
    assert before.startswith("IN ClusterID(") and before.endswith("b'kept'") and after == before


def test_with_tls_the_token_alone_lets_nobody_in(head: Callable[..., Head], tmp_path: Path) -> None:
    sys.path.insert(0, str(KUBERNETES / "tls"))
    try:
        import node_certificate as maker  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(KUBERNETES / "tls"))

    def variables(name: str) -> dict[str, str]:
        authority, node = tmp_path / name / "authority", tmp_path / name / "node"
        for folder in (authority, node):
            folder.mkdir(parents=True)
        maker.write_authority(authority)
        maker.write_certificate(authority, node, "10.1.2.3")
        names = {"SERVER_CERT": "tls.crt", "SERVER_KEY": "tls.key", "CA_CERT": "ca.crt"}
        return {"RAY_USE_TLS": "1"} | {f"RAY_TLS_{key}": str(node / file) for key, file in names.items()}

    server = head(**variables("ours"))
    assert server.ask().startswith("IN ClusterID(")
    assert server.ask(seconds=12, **variables("strange")) == ""
    assert server.ask(seconds=12, RAY_USE_TLS="0") == ""
