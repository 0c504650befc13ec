"""What a start of Ray on this machine needs beyond `ray.init`: time on a busy machine, open files, no signals of a closing terminal."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from pipelines.scheduling.interruptions import hangups_held_back

START_SECONDS = 300
"""Longest time for Ray's processes to start. Ray gives them 30 s, which a machine with a load of 20 a core exceeds."""

_OPEN_FILES = 65536
"""Open files that Ray recommends for one machine."""


@contextlib.contextmanager
def local_start() -> Iterator[None]:
    """Start Ray inside this block: with `START_SECONDS`, as many open files as this user may have, and no SIGHUP for Ray's processes."""
    _allow_open_files()
    os.environ.setdefault("RAY_gcs_server_port_wait_time_s", str(START_SECONDS))
    with hangups_held_back(), _waiting_for_the_node(START_SECONDS):
        yield


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
