"""What a start of Ray on this machine needs beyond `ray.init`: time on a busy machine, open files, no signals of a closing terminal."""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import resource
import secrets
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._raylet import persist_port  # type: ignore[attr-defined]  # compiled, its stub lacks it

from pipelines.scheduling.interruptions import hangups_held_back
from pipelines.scheduling.ray_folder import private_ray_folder

START_SECONDS = 300
"""Longest time for Ray's processes to start. Ray gives them 30 s, which a machine with a load of 20 a core exceeds."""

_OPEN_FILES = 65536
"""Open files that Ray recommends for one machine."""


_PORTS_FROM, _USUAL_FIRST_GIVEN_PORT = 20000, 32768

_PATIENCE = {
    "RAY_gcs_server_port_wait_time_s": START_SECONDS,
    "RAY_agent_register_timeout_ms": START_SECONDS * 1000,
    "RAY_worker_register_timeout_seconds": START_SECONDS,
}
"""Ray's settings for how long its processes wait for each other."""

_AGENT_PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port")
"""Ports of Ray's agents, by their names as arguments and as files."""


@contextlib.contextmanager
def local_start() -> Iterator[None]:
    """Start Ray inside this block: on loopback alone, with `START_SECONDS`, as many open files as this user may have, no SIGHUP for it.

    A user without a home folder gets the private folder of Ray as `HOME`, since Ray looks for an access token there.
    """
    _allow_open_files()
    for name, most in _PATIENCE.items():
        os.environ.setdefault(name, str(most))
    if not os.environ.get("HOME"):
        home = os.path.expanduser("~")
        os.environ["HOME"] = home if os.path.isabs(home) else os.path.dirname(private_ray_folder())
    with hangups_held_back(), _waiting_for_the_node(START_SECONDS), _agents_with_known_ports(), _on_loopback_alone():
        yield


@contextlib.contextmanager
def metrics_address_known(ray_folder: str) -> Iterator[None]:
    """Keep a file with the metrics port of the Ray that was started, for Prometheus (`file_sd_configs`), while the block runs.

    `metrics/<process id>.json` beside `ray_folder`. Ray itself writes such a file only where it has a dashboard.
    """
    path = Path(os.path.dirname(ray_folder), "metrics", f"{os.getpid()}.json")
    with contextlib.suppress(OSError, IndexError, KeyError):  # it is only looked at
        port = ray.nodes()[0]["MetricsExportPort"]
        path.parent.mkdir(mode=0o700, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": [f"127.0.0.1:{port}"]}]))
        part.rename(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _allow_open_files() -> None:
    """Raise the limit of open files as far as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def _waiting_for_the_node(seconds: float) -> Iterator[None]:
    """Let `ray.init` wait up to `seconds` for its node, as long as the node's process runs.

    `ray.init` calls `services.get_node` until it answers, and gives up after the first failure behind 30 s, which is no setting. Here
    one such call lasts until the node answers.
    """
    services: Any = ray._private.services
    get_node = services.get_node

    def wait_for_node(*arguments: Any) -> Any:
        deadline = time.monotonic() + seconds
        while True:
            try:
                return get_node(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline or not _child_runs("raylet"):
                    raise
            time.sleep(0.2)

    services.get_node = wait_for_node
    try:
        yield
    finally:
        services.get_node = get_node


@contextlib.contextmanager
def _on_loopback_alone() -> Iterator[None]:
    """Let every process of Ray listen on 127.0.0.1, so that no other machine reaches its ports. Metrics ports ask for no token.

    Ray takes an address that other machines reach, also where it is told 127.0.0.1, except on systems on which it supports no clusters
    (Ray 2.60, `get_node_ip_address`). What says that this is such a system is a constant here and a variable for the processes.
    """
    constants: Any = ray._private.ray_constants
    supported, variable = constants.ENABLE_RAY_CLUSTER, constants.ENABLE_RAY_CLUSTERS_ENV_VAR
    before = os.environ.get(variable)
    constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = supported
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before


@contextlib.contextmanager
def _agents_with_known_ports() -> Iterator[None]:
    """Let the raylet start without waiting for its agents, by choosing their ports for them.

    It reads the ports from files that its agents write when they have started, ends itself if one is not there after 15 s, which is no
    setting (Ray 2.60, `WaitForPersistedPort`), and a busy machine needs longer. With known ports it waits for the first answer instead.
    """
    services: Any = ray._private.services
    start_raylet = services.start_raylet
    parameters = inspect.signature(start_raylet)

    def start(*arguments: Any, **options: Any) -> Any:
        given = parameters.bind(*arguments, **options).arguments
        ports = dict(zip(_AGENT_PORTS, _free_ports(len(_AGENT_PORTS)), strict=True))
        for name, port in ports.items():
            persist_port(given["session_dir"], given["node_id"], name, port)
        return start_raylet(*arguments, **(options | ports))

    services.start_raylet = start
    try:
        yield
    finally:
        services.start_raylet = start_raylet


def _free_ports(number: int) -> list[int]:
    """Ports that no process uses, and that the system gives to none that asks for any port."""
    found: list[int] = []
    for port in secrets.SystemRandom().sample(range(_PORTS_FROM, max(_first_given_port(), _PORTS_FROM + 2000)), 1000):
        if len(found) < number:
            with contextlib.suppress(OSError), socket.socket() as tried:
                tried.bind(("", port))
                found.append(port)
    return found


def _first_given_port() -> int:
    try:
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _USUAL_FIRST_GIVEN_PORT


def _child_runs(name: str) -> bool:
    """Whether this process has a child of this name that has not ended; True where that cannot be known."""
    try:
        children = [pid for thread in Path("/proc/self/task").iterdir() for pid in (thread / "children").read_text().split()]
    except OSError:
        return True
    for pid in children:
        with contextlib.suppress(OSError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            if stat[stat.index("(") + 1 : stat.rindex(")")] == name and stat.rsplit(")", 1)[1].split()[0] not in "ZX":
                return True
    return False


def session_folder() -> Path | None:
    """The folder of the Ray that this process started; None where it started none."""
    node = ray._private.worker._global_node
    return None if node is None else Path(node.get_session_dir_path())


def end_leftover_workers(session: Path) -> int:
    """End the workers of a Ray that was shut down, and return how many there were.

    A worker can hang in its exit functions after its task is done; then it outlives the raylet, which alone would end it. A worker is
    known by its standard output, a file in the session's folder. Does nothing where the system has no /proc.
    """
    logs, ended = f"{os.path.realpath(session)}/logs/worker-", 0
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        number = int(output.parts[2])
        with contextlib.suppress(OSError):  # it has ended meanwhile, or belongs to another user
            if number != os.getpid() and os.readlink(output).startswith(logs):
                os.kill(number, signal.SIGTERM)
                ended += 1
    return ended
