"""Records an attempt of a command on a run, and shows by a lease that its process works; waits while `clinjepa gc` deletes.

The order makes a run and a deletion safe beside each other: a run writes what it needs and then looks for a deletion; a deletion takes
its lease and then reads what runs need (`pipelines/results/garbage.py`). So at least one of them sees the other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

from clinjepa.config import Config
from clinjepa.errors import ClinJepaError, StorageError, StoreError, in_safe_words
from clinjepa.storage import Folder
from pipelines.graph.attempts import ATTEMPT_SCHEMA_VERSION, ATTEMPTS, RUNS, Attempt, Outcome, planned, read_attempt
from pipelines.graph.stage import Stage
from pipelines.scheduling.lease import LeaseQueue
from pipelines.scheduling.progress import console
from pipelines.scheduling.typed import typed_command

GC_FOLDER = "gc"
"""Folder of a storage with the lease of the process that deletes."""

GC_LEASE_SECONDS = 20.0
SEARCH = "search"
"""`clinjepa grid` with a metric to search for."""

_ATTEMPT_LEASE_SECONDS = 60.0
_POLL_SECONDS = 0.5


class AttemptRecord:
    """The record of the attempt that is under way."""

    def __init__(self, run: Folder, attempt: Attempt) -> None:
        self._run, self._attempt = run, attempt

    def joined(self, run_id: str) -> None:
        """Note the invocation that manifests will name; those of earlier attempts stay only in a search."""
        before = self._attempt["run_ids"] if self._attempt["open_ended"] else []
        self._attempt["run_ids"] = [*before, run_id]
        self.write()

    def end(self, outcome: Outcome, fault: str | None = None) -> None:
        """Note how the work ended; a storage that is away does not hide the fault that ended it."""
        self._attempt |= {"ended": _now(), "outcome": outcome, "fault": fault}
        with contextlib.suppress(StorageError, StoreError):
            self.write()

    def write(self) -> None:
        """Write the file whole."""
        self._run.write_json(f"{ATTEMPTS}/{self._attempt['command']}.json", self._attempt)


@contextlib.contextmanager
def attempted(config: Config, command: str, stages: Sequence[Stage]) -> Iterator[AttemptRecord]:
    """Record an attempt while the block runs.

    Args:
        config: The configuration.
        command: Name of the command, or `SEARCH`, which makes more stages than these.
        stages: Every stage it needs, inputs included.

    Raises:
        StorageError: The record cannot be written.
    """
    run, open_ended = Folder(config.storage) / f"{RUNS}/{config.name}", command == SEARCH
    attempt: Attempt = {
        "schema_version": ATTEMPT_SCHEMA_VERSION,
        "command": command,
        "resume": typed_command("grid" if open_ended else command),
        "use_gpu": config.execution.use_gpu,
        "run_ids": _earlier(run, command) if open_ended else [],
        "open_ended": open_ended,
        "started": _now(),
        "ended": None,
        "outcome": None,
        "fault": None,
        "stages": planned(stages),
    }
    record = AttemptRecord(run, attempt)
    record.write()
    with _lease(run, command):
        _wait_for_deletion(Folder(config.storage))
        try:
            yield record
        except Exception as error:
            record.end("failed", str(error)[:500] if isinstance(error, ClinJepaError) else in_safe_words(error))
            raise
        except BaseException:
            record.end("interrupted")
            raise
        record.end("finished")


def _earlier(run: Folder, command: str) -> list[str]:
    """The invocations of earlier attempts of a search."""
    if not run.exists(f"{ATTEMPTS}/{command}.json"):
        return []
    return read_attempt(run, f"{command}.json")["run_ids"]


@contextlib.contextmanager
def _lease(run: Folder, command: str) -> Iterator[None]:
    """Hold the lease of the attempt; without it where another process has it, since stages are run once anyway."""
    lease = LeaseQueue(run / f"{ATTEMPTS}/{command}", _ATTEMPT_LEASE_SECONDS).try_acquire()
    if lease is None:
        console.print(
            f"another process works on {command} of {run.address}, or did a minute ago: each stage is run by one of them",
            highlight=False,
            markup=False,
        )
        yield
        return
    with lease.held():
        yield


def _wait_for_deletion(storage: Folder) -> None:
    """Wait while `clinjepa gc --delete` is at work in the storage."""
    queue, told = LeaseQueue(storage / GC_FOLDER, GC_LEASE_SECONDS), False
    while queue.is_held():
        if not told:
            console.print("waiting until clinjepa gc has deleted what no run needs", highlight=False, markup=False)
            told = True
        time.sleep(_POLL_SECONDS)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
