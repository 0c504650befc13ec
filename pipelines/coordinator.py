"""One actor per cluster that budgets logical CPUs between stages and gathers their progress; it needs no CPU itself.

A stage asks for all it will use at once (workers, readers, tasks), and gets it or waits without holding anything, the longest
chain first; so two stages can never hold half of what each needs. A holder that stops renewing is forgotten.
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

NAME = "clinjepa-coordinator-" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
"""Versions of this file do not share an actor: one would be asked for what it does not know. Equal ones share their CPUs."""

NAMESPACE = "clinjepa"
_SILENCE_SECONDS = 15.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Coordinator:
    """Grants slots and keeps the latest progress of every running stage."""

    def __init__(self) -> None:
        self._granted: dict[str, tuple[float, float]] = {}  # holder -> (cpus, last seen)
        self._waiting: dict[str, tuple[float, int, float]] = {}  # holder -> (cpus, priority, last seen)
        self._progress: dict[str, dict[str, Any]] = {}

    def request(self, holder: str, cpus: float, priority: int, budget: float | None) -> bool:
        """True when `holder` may start; otherwise ask again. Renews the holder either way."""
        now = time.monotonic()
        self._forget_silent(now)
        if holder in self._granted:
            self._granted[holder] = (cpus, now)
            return True
        self._waiting[holder] = (cpus, priority, now)
        # The earliest of the longest chains: a dict keeps its order.
        first = max(self._waiting, key=lambda name: self._waiting[name][1])
        in_use = sum(used for used, _ in self._granted.values())
        total = ray.cluster_resources().get("CPU", 0.0) if budget is None else budget
        if holder == first and (not self._granted or in_use + cpus <= total + 1e-6):
            del self._waiting[holder]
            self._granted[holder] = (cpus, now)
            return True
        return False

    def release(self, holder: str) -> None:
        self._granted.pop(holder, None)
        self._waiting.pop(holder, None)

    def report(self, key: str, label: str, done: float, total: float, note: str) -> None:
        self._progress[key] = {"label": label, "done": done, "total": total, "note": note, "time": time.time()}

    def finish(self, key: str) -> None:
        self._progress.pop(key, None)

    def progress(self) -> dict[str, dict[str, Any]]:
        return dict(self._progress)

    def _forget_silent(self, now: float) -> None:
        self._granted = {name: held for name, held in self._granted.items() if now - held[1] < _SILENCE_SECONDS}
        self._waiting = {name: asked for name, asked in self._waiting.items() if now - asked[2] < _SILENCE_SECONDS}


def coordinator() -> Any:
    """The cluster's coordinator, started when there is none."""
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "scheduling_strategy": "DEFAULT"}
    return Coordinator.options(**options).remote()  # type: ignore[attr-defined]


@contextlib.contextmanager
def slot(actor: Any, cpus: float, priority: int, budget: float | None = None) -> Iterator[None]:
    """Hold `cpus` logical CPUs while the block runs; waits, holding nothing, until they are granted."""
    holder = uuid.uuid4().hex
    while not ray.get(actor.request.remote(holder, cpus, priority, budget)):
        time.sleep(0.25)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(_SILENCE_SECONDS / 5):
            actor.request.remote(holder, cpus, priority, budget)

    thread = threading.Thread(target=renew, name="slot", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        ray.get(actor.release.remote(holder))
