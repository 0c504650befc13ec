"""Exclusive work on a stage: a lease in storage, safe between processes, machines and clusters that share only that storage.

A lease is a numbered file that is created atomically; the process that created the highest number owns the stage and renews the file.
A process that sees no renewal for `lease_seconds` creates the next number and takes over; so does one that finds the owner's process
gone on the same machine. The time is taken from the waiting process's clock, and time during which storage is unreachable does not
count. An earlier owner that comes back finds the higher number and stops before it publishes. The file holds its owner's id, so that
an owner recognises a create whose answer was lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clinjepa.errors import StorageError, StoreError
from clinjepa.storage import Folder
from clinjepa.storage.folder import FileFacts

_LONGEST_LEASE = 3600.0
"""Seconds after which a lease that was not renewed is not looked into; a storage holds one for every stage that ever ran."""

CLOCKS_DIFFER = 120.0
"""Seconds by which the clocks of storage and machine may differ where one look must decide (`looks_held`)."""


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"


def _pid_namespace() -> str:
    """Id of the process namespace. Containers share their machine's name and boot id, but process ids are valid in one namespace only."""
    with contextlib.suppress(OSError):
        return str(os.stat("/proc/self/ns/pid").st_ino)
    return "unknown"


def _is_gone(pid: int, started: str | None) -> bool:
    """Whether process `pid` of this machine has ended, or its id now belongs to another process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # another user's process, which exists
    now = _process_start(pid)
    return now is not None and started is not None and now != started


def _process_start(pid: int) -> str | None:
    """Start time of a process, which differs from that of a later process with the same id; None when it is gone or unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


def owner_is_gone(record: Mapping[str, Any]) -> bool:
    """Whether the process of a lease's record has ended; False where it cannot be seen from here."""
    here = {"host": socket.gethostname(), "boot_id": _boot_id(), "pid_namespace": _pid_namespace()}
    if "unknown" in here.values() or any(record.get(name) != value for name, value in here.items()):
        return False  # only a missing renewal shows that it is gone
    return _is_gone(int(record["pid"]), record.get("process_start"))


def looks_held(folder: Folder, facts: Mapping[str, FileFacts], now: float) -> bool:
    """Whether a lease was renewed of late, by one look and without waiting, for a process that wants to know and not to acquire.

    Args:
        folder: The folder with the lease.
        facts: Files of the folder `lease` in it, by name.
        now: Time in seconds since 1970. Clocks that differ by up to `CLOCKS_DIFFER` seconds are allowed for.
    """
    numbers = sorted(name for name in facts if name.endswith(".json"))
    if not numbers or now - facts[numbers[-1]].changed > _LONGEST_LEASE:
        return False
    try:
        record = folder.read_json(f"lease/{numbers[-1]}")
    except StoreError:
        return True  # just removed or being rewritten
    if not isinstance(record, dict) or record.get("released") or owner_is_gone(record):
        return False
    return now - facts[numbers[-1]].changed < 2 * float(record.get("lease_seconds", 20.0)) + CLOCKS_DIFFER


class LeaseQueue:
    """One process's view of the lease on one folder; call `try_acquire` until it returns a lease or the work is done."""

    def __init__(self, folder: Folder, lease_seconds: float) -> None:
        self.folder = folder / "lease"
        self.lease_seconds = lease_seconds
        self._seen: tuple[str, str] | None = None
        self._silent_for = 0.0
        self._looked_at = 0.0

    def try_acquire(self) -> Lease | None:
        free = self._free_number()
        return None if free is None else self._create(free)

    def is_held(self) -> bool:
        """Whether another process holds the lease; silence counts over the looks of this queue, as for `try_acquire`."""
        return self._free_number() is None

    def _free_number(self) -> int | None:
        """The number that the next owner would create; None while the lease is held."""
        numbers = [name for name in self.folder.names() if name.endswith(".json")]
        if not numbers:
            return 1
        latest = numbers[-1]
        try:
            raw = self.folder.read_bytes(latest).decode()
            record = self.folder.read_json(latest)
        except StoreError:
            return None  # just removed or being rewritten: try again
        if record.get("released") or owner_is_gone(record) or self._is_silent(latest, raw):
            return int(latest.removesuffix(".json")) + 1
        return None

    def _create(self, number: int) -> Lease | None:
        lease = Lease(self.folder, number, self.lease_seconds)
        return lease if self.folder.create_bytes(lease.name, lease.record()) else None

    def _is_silent(self, name: str, raw: str) -> bool:
        now = time.monotonic()
        if self._seen != (name, raw):
            self._seen, self._silent_for = (name, raw), 0.0
        else:  # an outage between two looks may have kept the owner from renewing: count at most a quarter of the lease
            self._silent_for += min(now - self._looked_at, self.lease_seconds / 4)
        self._looked_at = now
        return self._silent_for > self.lease_seconds


class Lease:
    """The right to work on one folder."""

    def __init__(self, folder: Folder, number: int, lease_seconds: float) -> None:
        self.folder = folder
        self.number = number
        self.name = f"{number:08d}.json"
        self.lease_seconds = lease_seconds
        self.owner = uuid.uuid4().hex
        self._beats = 0
        self._stop = threading.Event()
        self._lost: str | None = None

    def record(self, released: bool = False) -> bytes:
        pid = os.getpid()
        return json.dumps(
            {
                "owner": self.owner,
                "host": socket.gethostname(),
                "boot_id": _boot_id(),
                "pid_namespace": _pid_namespace(),
                "pid": pid,
                "process_start": _process_start(pid),
                "beat": self._beats,
                "lease_seconds": self.lease_seconds,
                "released": released,
            }
        ).encode()

    @contextlib.contextmanager
    def held(self) -> Iterator[Lease]:
        """Renew in the background while the block runs; release the lease afterwards, unless the block removed the folder."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            if self._lost is None:
                with contextlib.suppress(
                    StorageError, StoreError
                ):  # others then wait until the lease expires; the block's own exception must not be hidden
                    if self.folder.exists(self.name):
                        self.folder.write_bytes(self.name, self.record(released=True))

    def check(self) -> None:
        """Raise StorageError when another process has taken over, so that nothing is published."""
        self._look()
        if self._lost:
            raise StorageError(self._lost)

    def _look(self) -> None:
        names = [name for name in self.folder.names() if name.endswith(".json")]
        if names and names[-1] > self.name:
            self._lost = (
                f"{self.folder.address}: another process took this stage over because this one was silent for {self.lease_seconds:g} s"
            )

    def _renew(self) -> None:
        while not self._stop.wait(self.lease_seconds / 4):
            self._beats += 1
            with contextlib.suppress(StorageError, StoreError):  # the next renewal may succeed
                self._look()
                if self._lost:
                    return
                self.folder.write_bytes(self.name, self.record())
