"""Runs on a cluster of several hosts on this machine (`cluster/local`), which tests disturb."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from clinjepa.storage import Folder
from cluster.local.cluster import LocalCluster
from cluster.local.host import Host
from cluster.local.system import why_not
from tests.support.machines.cli import ROOT, environment

QUICK_DEATHS = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}
"""With these Ray calls a silent host dead after some 10 s; its own settings are used where seconds are measured."""

CONFIG = "configs/demo_simulator.yaml"
SETTINGS = [
    "source.num_partitions=3",
    "source.simulator.num_patients=60",
    "source.simulator.mean_stay_hours=48",
    "tokenizer.vocab_size=400",
    "encoder.hidden_size=32",
    "encoder.num_layers=1",
    "encoder.num_heads=2",
    "encoder.num_kv_heads=1",
    "encoder.ffn_size=64",
    "encoder.lora.rank=4",
    "encoder.lora.alpha=8",
    "predictor.hidden_size=32",
    "predictor.num_layers=2",
    "predictor.num_heads=2",
    "predictor.ffn_size=64",
    "sft.num_epochs=1",
    "sft.max_steps=12",
    "curriculum.num_steps=48",
    "curriculum.global_batch=4",
    "curriculum.micro_batch=2",
    "curriculum.ema_momentum=0.3",
    "curriculum.checkpoint_every_steps=4",
    "curriculum.log_every_steps=2",
    "evaluation.drift.contexts=[6,24]",
    "evaluation.drift.headline_context=6",
    "evaluation.drift.horizons=[1,6]",
    "evaluation.drift.num_bootstrap=50",
    "evaluation.geometry.num_bootstrap=50",
    "evaluation.geometry.max_umap_points=200",
    "evaluation.downstream.num_bootstrap=50",
    "evaluation.downstream.min_positives=2",
    "evaluation.downstream.hourly_stride=8",
    "evaluation.downstream.rollout_hours=4",
    "evaluation.downstream.probe.kinds=[linear]",
    "evaluation.downstream.probe.max_epochs=5",
    "evaluation.forecasts.context=6",
    "evaluation.forecasts.starts=[0,12]",
    "evaluation.forecasts.horizons=[1,6]",
    "evaluation.forecasts.num_variables=4",
    "evaluation.forecasts.num_trees=10",
    "evaluation.forecasts.num_bootstrap=50",
    "evaluation.num_roundtrip_hours=500",
    "grid.recipes=[clin_jepa,no_alignment]",
    "execution.lease_seconds=5",
]
"""tests/e2e/small.yaml as overrides, since a job is sent the files of configs/ only."""

ONE_A_HOST = ["execution.num_workers=2", "execution.cpus_per_worker=1.25", "execution.data_cpus=0.25"]
"""Workers of which a host of 2 CPUs has room for one."""


@contextlib.contextmanager
def local_cluster(folder: Path, **options: Any) -> Iterator[LocalCluster]:
    """A cluster for the time of the block, as `LocalCluster.up` makes it; skips the test where no hosts can be made."""
    if (reason := why_not(options.get("store", True))) is not None:
        pytest.skip(reason)
    with LocalCluster(folder) as cluster:
        cluster.up(**options)
        yield cluster


class HostRun:
    """A run submitted to such a cluster, with the time of every line that it prints."""

    def __init__(self, cluster: LocalCluster, command: str, storage: str, overrides: Sequence[str] = ()) -> None:
        """Submit `clinjepa <command>` from this machine; storage: an address that the hosts see."""
        self.lines: list[tuple[float, str]] = []
        self.storage = storage
        words = ["-m", "pipelines.submit", CONFIG, "--address", cluster.dashboard, "--command", command, f"storage={storage}"]
        self.process = subprocess.Popen(
            [sys.executable, *words, *SETTINGS, *overrides],
            cwd=ROOT,
            env=environment(**cluster.client_environment()),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))

    @property
    def said(self) -> str:
        return "\n".join(line for _, line in self.lines)

    def wait_for(self, reached: Callable[[], bool], seconds: float) -> None:
        """Raises RuntimeError when the run ends or the time is over before that."""
        deadline = time.monotonic() + seconds
        while not reached():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"it ended or hung before that: {self.said[-4000:]}")
            time.sleep(0.2)

    def finish(self, seconds: float) -> int:
        """The exit status; RuntimeError when it hangs."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise RuntimeError(f"it hung: {self.said[-4000:]}") from None
        self._reader.join(10)
        return self.process.returncode

    def pause(self, seconds: float = 0.5) -> None:
        """Wait so long, or until the run ends."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def stop(self) -> None:
        """End the following of the run, not the run."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def single_host_run(storage: Path, command: str, overrides: Sequence[str]) -> None:
    """The same on this machine as one host, by two workers. Raises RuntimeError when it fails."""
    words = ["-m", f"pipelines.{command}", CONFIG, f"storage={storage}", *SETTINGS, "execution.num_workers=2", *overrides]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, env=environment(), text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-3000:])


def contents(storage: Folder) -> dict[str, str]:
    """SHA-256 of every file of every finished stage, by kind, key and path, without those that hold times and records of parts."""
    found = {}
    for kind in storage.names("artifacts"):
        for key in storage.names(f"artifacts/{kind}"):
            if storage.exists(f"artifacts/{kind}/{key}/manifest.json"):
                for file in storage.read_json(f"artifacts/{kind}/{key}/manifest.json")["files"]:
                    if file["path"] != "timing.json" and not file["path"].startswith("parts/"):
                        found[f"{kind}/{key}/{file['path']}"] = file["sha256"]
    return found


def processes_of(cluster: LocalCluster, host: str, title: str) -> list[int]:
    """Processes of a host whose command line holds `title`, by their numbers on this machine."""
    found = []
    for process in cluster.host(host).processes():
        with contextlib.suppress(OSError):
            if title in Path(f"/proc/{process}/cmdline").read_bytes().decode(errors="replace"):
                found.append(process)
    return found


def training_on(cluster: LocalCluster) -> list[str]:
    """Worker hosts on which a training worker runs now."""
    return [name for name in cluster.hosts if name.startswith("worker") and processes_of(cluster, name, "ray::RayTrainWorker")]


def checkpoints(storage: Folder) -> dict[str, int]:
    """Key of every phase without a result -> steps in its newest whole checkpoint."""
    found = {}
    for key in storage.names("artifacts/phase"):
        folder = f"artifacts/phase/{key}"
        saved = [name for name in storage.names(f"{folder}/checkpoints") if storage.exists(f"{folder}/checkpoints/{name}/manifest.json")]
        if saved and not storage.exists(f"{folder}/manifest.json"):
            found[key] = max(int(name.removeprefix("step-")) for name in saved)
    return found


@contextlib.contextmanager
def environment_of(cluster: LocalCluster) -> Iterator[None]:
    """This process reads the cluster's store inside the block."""
    import s3fs

    from clinjepa.storage.s3 import PatientS3

    before = dict(os.environ)
    os.environ.update(cluster.store_environment())
    s3fs.S3FileSystem.clear_instance_cache()
    PatientS3.clear_instance_cache()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
        s3fs.S3FileSystem.clear_instance_cache()
        PatientS3.clear_instance_cache()


_LOOK = """
import json, os, platform, sys, ray
ray.init(address="auto", logging_level="error")

@ray.remote(num_cpus=0)
def look():
    open(f"/tmp/only-{platform.node()}", "w").close()
    own = sorted(name for name in os.listdir("/tmp") if name.startswith("only-"))
    first = open("/proc/1/cmdline").read().split(chr(0))[2]
    return {"host": platform.node(), "address": ray.util.get_node_ip_address(), "first": first, "only": own}

print(json.dumps({name: ray.get(look.options(resources={name: 0.1}).remote()) for name in sys.argv[1:]}))
"""


def ask_every_host(cluster: LocalCluster, names: Sequence[str]) -> dict[str, Any]:
    """What a Ray task on each of these worker hosts finds there: its host name, the number of its process 1's program, its files."""
    done = cluster.host("head").run([sys.executable, "-c", _LOOK, *names], timeout=120)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def here_on(host: Host, command: str, storage: str, overrides: Sequence[str]) -> subprocess.Popen[str]:
    """`clinjepa <command>` on a host without a cluster, where it starts Ray of its own."""
    words = [sys.executable, "-m", f"pipelines.{command}", CONFIG, f"storage={storage}", *SETTINGS, *overrides]
    process: subprocess.Popen[str] = host.popen(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return process
