"""Fixtures shared by all tests: a real S3 server on this machine, and the environment the project's commands set."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.machines.cli import ROOT, SMALL, call

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


def free_port_block(num_ports: int) -> int:
    """First of `num_ports` neighbouring free ports whose +10000 twins (SeaweedFS's gRPC) are free too."""
    starts = list(range(21000, 29000, 50))
    random.shuffle(starts)  # or two test runs on one machine take the same ports at the same moment
    for start in starts:
        try:
            for port in range(start, start + num_ports):
                for candidate in (port, port + 10000):
                    with socket.socket() as probe:
                        probe.bind(("127.0.0.1", candidate))
            return start
        except OSError:
            continue
    pytest.fail("no free ports for the S3 server")


class S3Server:
    """A SeaweedFS server of our own on loopback."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port_block(8)
        self.folder = folder
        self.key, self.secret = "testkey", "testsecret"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port + 5}",
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        binary = shutil.which("weed") or str(Path(os.sys.executable).with_name("weed"))  # type: ignore[attr-defined]
        config = self.folder / "s3.json"
        identity = {
            "name": "p",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        base = self.port
        command = [
            binary,
            "server",
            f"-dir={self.folder}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-master.port={base}",
            f"-volume.port={base + 1}",
        ]
        command += [
            "-filer",
            f"-filer.port={base + 2}",
            "-s3",
            f"-s3.port={base + 5}",
            f"-s3.config={config}",
            "-volume.max=400",
            "-master.volumeSizeLimitMB=256",
        ]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
        log = open(self.folder / "weed.log", "wb")
        self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", base + 5), timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail("the S3 server did not start: " + (self.folder / "weed.log").read_text(errors="replace")[-500:])

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_address(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """`s3://bucket` on the real server, fresh for this test, with the environment set as a user would."""
    import s3fs

    from clinjepa.storage.s3 import PatientS3

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:10]}"
    s3fs.S3FileSystem.clear_instance_cache()
    PatientS3.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    for attempt in range(20):
        try:
            fs.mkdir(bucket)
            break
        except OSError:
            if attempt == 19:
                raise
            time.sleep(0.5)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Storage of one uninterrupted run of the demo in miniature; its terminal output is in `log`."""
    storage = tmp_path_factory.mktemp("small")
    relative = os.path.relpath(storage, ROOT)  # as in configs/
    done = call("run", SMALL, f"storage={relative}", "execution.trackers=[tensorboard]", timeout=900)
    (storage / "log").write_text(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    return storage
