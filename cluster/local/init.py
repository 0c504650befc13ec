"""Process 1 of a host: `python -m cluster.local.init SPEC` in new namespaces, which `cluster.local.host` starts.

It gives the host its folders, says `ready`, and then collects processes that have ended. When it is killed, the kernel ends every process
of the host and takes away its mounts and its network.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path
from typing import TypedDict

from cluster.local.system import called

_KERNELS_OWN = {
    "proc",
    "sysfs",
    "devtmpfs",
    "devpts",
    "mqueue",
    "cgroup",
    "cgroup2",
    "securityfs",
    "debugfs",
    "tracefs",
    "bpf",
    "hugetlbfs",
}
"""Kinds of file systems that hold no files of users."""


class Spec(TypedDict):
    """What a host shall be."""

    name: str
    disks: dict[str, str]
    """Folder as the host sees it -> folder of this machine that is mounted there."""

    in_memory: dict[str, int]
    """Folder as the host sees it -> size in MiB of a disk in memory that is mounted there."""

    files: dict[str, str]
    """File as the host sees it -> file of this machine."""

    seen: list[str]
    """Folders that the host sees, read-only, at the same place also where a disk hides them."""


def mount_points() -> list[str]:
    """Where file systems with files of users are mounted, outermost first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if after.split()[0] not in _KERNELS_OWN:
            found.append(before.split()[4].encode().decode("unicode_escape"))
    return list(dict.fromkeys(found))


def make_host(spec: Spec) -> None:
    """Give this process's mount and name namespaces the host's folders and name. Raises HostsError."""
    kept = {path: os.open(path, os.O_PATH) for path in spec["seen"]}
    sources = {place: os.open(path, os.O_PATH) for place, path in (spec["disks"] | spec["files"]).items()}
    called("mount", "-t", "proc", "proc", "/proc")
    for place in mount_points():
        called("mount", "-o", "remount,bind,ro", place)
    for place in sources:
        _bind(sources[place], place)
    for place in spec["disks"]:
        called("mount", "-o", "remount,bind,rw", place)
    for place, size in spec["in_memory"].items():
        called("mount", "-t", "tmpfs", "-o", f"size={size}m,mode=1777", "tmpfs", place)
    for path, handle in kept.items():
        if not os.path.exists(path):
            os.makedirs(path)
        _bind(handle, path)
        called("mount", "-o", "remount,bind,ro", path)
    for handle in (*kept.values(), *sources.values()):
        os.close(handle)
    socket.sethostname(spec["name"])


def _bind(handle: int, place: str) -> None:
    # By its handle: its path may be hidden by a disk that was mounted before.
    called("mount", "--no-canonicalize", "--bind", f"/proc/{os.getpid()}/fd/{handle}", place)


def collect_for_ever() -> None:
    """Collect ended processes, as process 1 must."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            time.sleep(0.2)


def main() -> None:
    """Make the host of the specification in the first argument, then wait to be killed."""
    make_host(json.loads(sys.argv[1]))
    print("ready", flush=True)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    collect_for_ever()


if __name__ == "__main__":
    main()
