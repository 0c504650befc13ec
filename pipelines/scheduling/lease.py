"""Who may work on a stage: a lease in storage, safe between processes, machines and clusters that share nothing else.

A lease is a numbered file made by an atomic create; the highest number owns. Its owner renews it; who sees no renewal for
`lease_seconds` (by their own clock, times when storage did not answer left out), or finds the owner's process gone on the same
machine, creates the next number and owns. The earlier owner, should it come back, finds the higher number and stops before it
publishes anything. A record holds its owner's id, so a create whose answer was lost is recognised as one's own.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clinjepa.errors import StorageError, StoreError
from clinjepa.storage import Folder


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "unknown"


def _pid_namespace() -> str:
    """Process ids mean something only inside their namespace: containers of one machine share its name and boot id, not its processes."""
    with contextlib.suppress(OSError):
        return str(os.stat("/proc/self/ns/pid").st_ino)
    return "unknown"


def _is_gone(pid: int, started: str | None) -> bool:
    """True when process `pid` of this machine has ended (or its number went to another one)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # somebody else's process, and there
    now = _process_start(pid)
    return now is not None and started is not None and now != started


def _process_start(pid: int) -> str | None:
    """A value that tells a process from a later one with the same id; None when it is gone or cannot be known."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None


class LeaseQueue:
    """One process's view of the lease on one folder; call `try_acquire` until it gives a lease or the work is done."""

    def __init__(self, folder: Folder, lease_seconds: float) -> None:
        self.folder = folder / "lease"
        self.lease_seconds = lease_seconds
        self._seen: tuple[str, str] | None = None
        self._silent_for = 0.0
        self._looked_at = 0.0

    def try_acquire(self) -> Lease | None:
        numbers = [name for name in self.folder.names() if name.endswith(".json")]
        if not numbers:
            return self._create(1)
        latest = numbers[-1]
        try:
            raw = self.folder.read_bytes(latest).decode()
            record = self.folder.read_json(latest)
        except StoreError:
            return None  # removed or being rewritten at this moment: look again
        if record.get("released") or self._owner_is_gone(record) or self._is_silent(latest, raw):
            return self._create(int(latest.removesuffix(".json")) + 1)
        return None

    def _create(self, number: int) -> Lease | None:
        lease = Lease(self.folder, number, self.lease_seconds)
        return lease if self.folder.create_bytes(lease.name, lease.record()) else None

    def _is_silent(self, name: str, raw: str) -> bool:
        now = time.monotonic()
        if self._seen != (name, raw):
            self._seen, self._silent_for = (name, raw), 0.0
        else:  # between two looks an outage may have kept both of us from storage: it is not the owner's silence
            self._silent_for += min(now - self._looked_at, self.lease_seconds / 4)
        self._looked_at = now
        return self._silent_for > self.lease_seconds

    @staticmethod
    def _owner_is_gone(record: dict[str, Any]) -> bool:
        here = {"host": socket.gethostname(), "boot_id": _boot_id(), "pid_namespace": _pid_namespace()}
        if "unknown" in here.values() or any(record.get(name) != value for name, value in here.items()):
            return False  # not ours to see: only its silence tells
        return _is_gone(int(record["pid"]), record.get("process_start"))


class Lease:
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
                "released": released,
            }
        ).encode()

    @contextlib.contextmanager
    def held(self) -> Iterator[Lease]:
        """Renew in the background while the block runs; release afterwards unless the block removed the folder."""
        thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._stop.set()
            thread.join()
            if self._lost is None:
                with contextlib.suppress(StorageError, StoreError):  # then others wait for its silence; what the block raised counts more
                    if self.folder.exists(self.name):
                        self.folder.write_bytes(self.name, self.record(released=True))

    def check(self) -> None:
        """Raises StorageError when somebody else has taken over: nothing may be published then."""
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
            with contextlib.suppress(StorageError, StoreError):  # a missed beat is not the end: the next one may succeed
                self._look()
                if self._lost:
                    return
                self.folder.write_bytes(self.name, self.record())
