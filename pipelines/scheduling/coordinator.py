"""One actor per cluster that budgets logical CPUs and GPUs between stages and gathers their progress and faults; it needs none itself.

A stage asks for all it will use at once (workers, readers, tasks), and gets it or waits without holding anything, the longest
chain first; so two stages can never hold half of what each needs. An elastic one gets what is free between its least and its most,
and more when the cluster grows. A holder that stops renewing is forgotten.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray

from pipelines.graph.context import Needs

NAME = "clinjepa-coordinator-" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
"""Versions of this file do not share an actor: one would be asked for what it does not know. Equal ones share their CPUs."""

NAMESPACE = "clinjepa"
_SILENCE_SECONDS = 15.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Coordinator:
    """Grants slots and keeps the latest progress of every running stage."""

    def __init__(self) -> None:
        self._granted: dict[str, tuple[Needs, float]] = {}  # holder -> (what it has, last seen)
        self._waiting: dict[str, tuple[int, float]] = {}  # holder -> (priority, last seen)
        self._progress: dict[str, dict[str, Any]] = {}
        self._faults: dict[str, tuple[str, str]] = {}

    def request(self, holder: str, most: Needs, priority: int, budget: Needs, least: Needs | None = None) -> bool:
        """True when `holder` may start; otherwise ask again. Renews the holder either way.

        most: what it will use at once; least: what it can start with, where that is less; budget: what all may use together, the
        cluster's where it says nothing.
        """
        now = time.monotonic()
        self._forget_silent(now)
        free = self._free(most, budget, apart_from=holder)
        if holder in self._granted:
            has = self._granted[holder][0]
            grown = has if self._waiting else {name: max(has[name], min(most[name], free[name])) for name in most}
            self._granted[holder] = (grown, now)
            return True
        self._waiting[holder] = (priority, now)
        # The earliest of the longest chains: a dict keeps its order.
        first = max(self._waiting, key=lambda name: self._waiting[name][0])
        enough = least or most
        if holder == first and (not self._granted or all(enough[name] <= free[name] for name in enough)):
            del self._waiting[holder]
            granted = {name: min(most[name], free[name]) for name in most} if self._granted and least else most
            self._granted[holder] = (granted, now)
            return True
        return False

    def _free(self, needs: Needs, budget: Needs, apart_from: str) -> Needs:
        total = ray.cluster_resources() | budget
        used = [held for name, (held, _) in self._granted.items() if name != apart_from]
        return {name: total.get(name, 0.0) + 1e-6 - sum(held.get(name, 0.0) for held in used) for name in needs}

    def release(self, holder: str) -> None:
        self._granted.pop(holder, None)
        self._waiting.pop(holder, None)

    def report(self, key: str, label: str, done: float, total: float, note: str) -> None:
        self._progress[key] = {"label": label, "done": done, "total": total, "note": note, "time": time.time()}

    def finish(self, key: str) -> None:
        self._progress.pop(key, None)

    def note_fault(self, name: str, kind: str, message: str) -> None:
        """A fault of the training `name` that no restart mends: the name of its class and its message. The first one stays."""
        self._faults.setdefault(name, (kind, message))

    def fault(self, name: str) -> tuple[str, str] | None:
        return self._faults.get(name)

    def forget_fault(self, name: str) -> None:
        self._faults.pop(name, None)

    def progress(self) -> dict[str, dict[str, Any]]:
        return dict(self._progress)

    def _forget_silent(self, now: float) -> None:
        self._granted = {name: held for name, held in self._granted.items() if now - held[1] < _SILENCE_SECONDS}
        self._waiting = {name: asked for name, asked in self._waiting.items() if now - asked[1] < _SILENCE_SECONDS}


def coordinator() -> Any:
    """The cluster's coordinator, started when there is none."""
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "scheduling_strategy": "DEFAULT"}
    return Coordinator.options(**options).remote()  # type: ignore[attr-defined]


@contextlib.contextmanager
def slot(actor: Any, most: Needs, priority: int, budget: Needs | None = None, least: Needs | None = None) -> Iterator[None]:
    """Hold up to `most` while the block runs; waits, holding nothing, until that (or `least`) is granted."""
    holder = uuid.uuid4().hex
    while not ray.get(actor.request.remote(holder, most, priority, budget or {}, least)):
        time.sleep(0.25)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(_SILENCE_SECONDS / 5):
            actor.request.remote(holder, most, priority, budget or {}, least)

    thread = threading.Thread(target=renew, name="slot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        ray.get(actor.release.remote(holder))
