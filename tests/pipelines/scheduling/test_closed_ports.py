"""A Ray that a command starts is reached from this machine alone, on every port; its figures are there, and Prometheus is told where."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from clinjepa.config import Config
from pipelines.scheduling.metrics import record
from pipelines.scheduling.session import ray_session

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1 and ::ffff:127.0.0.1 as the system's tables write them."""


def listening(ids: set[int]) -> dict[int, str]:
    """By port: the address on which one of the processes listens, as the system writes it."""
    sockets = set()
    for process in ids:
        for entry in Path(f"/proc/{process}/fd").iterdir():
            try:
                sockets.add(os.readlink(entry))
            except OSError:
                continue
    found = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in sockets:
                address, port = words[1].split(":")
                found[int(port, 16)] = address
    return found


def processes() -> set[int]:
    """This process and all that descend from it: those of its Ray, whatever they call themselves."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
    found = {os.getpid()}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@ray.remote(num_cpus=0)
class Worker:
    """A process that has figures."""

    def record(self) -> None:
        record("clinjepa_loss", 2.5, {"stage": "SFT", "recipe": "", "seed": ""})
        record("clinjepa_stages_run", 2, {"kind": "sft"})


def test_every_port_is_on_loopback_and_the_metrics_port_shows_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with ray_session(Config(storage=str(tmp_path), execution={"object_store_mb": 100, "local_num_cpus": 1, "progress": False})):
        session = ray._private.worker.global_worker.node.get_session_dir_path()
        worker = Worker.remote()
        ray.get(worker.record.remote(), timeout=120)
        file = Path(session).parents[1] / "metrics" / f"{os.getpid()}.json"
        ((target,),) = [each["targets"] for each in json.loads(file.read_text())]
        text, deadline = "", time.monotonic() + 90
        while "clinjepa_stages_run" not in text and time.monotonic() < deadline:
            time.sleep(1)
            try:
                text = urllib.request.urlopen(f"http://{target}/metrics", timeout=10).read().decode()
            except OSError:
                continue
        ports = listening(processes())
        assert int(target.rpartition(":")[2]) in ports and len(ports) >= 6, "raylet, control process, agents, workers"
        assert {address for address in ports.values()} <= LOOPBACK
    assert not file.exists()
    assert re.search(r'^ray_clinjepa_loss\{.*stage="SFT".*\} 2\.5$', text, re.MULTILINE)
    assert re.search(r'^ray_clinjepa_stages_run_total\{.*kind="sft".*\} \d', text, re.MULTILINE)
