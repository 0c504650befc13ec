"""One actor per cluster. It divides logical CPUs and GPUs among stages, and collects their progress and faults. It uses no CPU itself.

A stage requests everything it will use at once: workers, readers, tasks. It gets all of it, or waits without holding anything; the
stage with the most stages after it in its chain is served first. So two stages cannot deadlock by each holding half of what it needs. An
elastic stage gets what is free between its minimum and its maximum, and more when the cluster grows. A grant that is not renewed for 15 s
is released.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from pipelines.graph.context import Needs
from pipelines.scheduling.metrics import record, stage_labels

NAME = "clinjepa-coordinator-" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
"""Holds the digest of this file: drivers with different versions of it use different actors, those with equal versions share CPUs."""

NAMESPACE = "clinjepa"
_NOT_ON_SPOT: dict[str, Any] = {"label_selector": {"ray.io/market-type": "!spot"}, "fallback_strategy": [{"label_selector": {}}]}
"""A node that says of itself that it may be taken away is used only where there is no other; nodes without the label are others."""

_SILENCE_SECONDS = 15.0
"""A grant or request that is not renewed for this long is dropped."""


@dataclass(frozen=True)
class StageProgress:
    """How far a running stage is."""

    label: str
    done: float
    total: float
    """In the unit of `done`: steps, parts or texts."""

    note: str


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Coordinator:
    """Grants CPUs and GPUs and keeps the latest progress of every running stage."""

    def __init__(self) -> None:
        self._granted: dict[str, tuple[Needs, float]] = {}  # holder -> (grant, last renewal)
        self._waiting: dict[str, tuple[int, float]] = {}  # holder -> (priority, last request)
        self._progress: dict[str, StageProgress] = {}
        self._faults: dict[str, tuple[str, str]] = {}

    def request(self, holder: str, most: Needs, priority: int, budget: Needs, least: Needs | None = None) -> bool:
        """Grant or renew a slot; a holder that gets False repeats the request.

        A waiting holder that is not first gets False even if enough is free, so that a large request is not overtaken. A renewal may also
        enlarge the grant, up to `most`, while no other holder waits.

        Args:
            holder: Id of the slot.
            most: What the holder will use at once.
            priority: Stages after this one in its chain; the highest is served first.
            budget: What all holders may use together; the cluster's amount where it names none.
            least: What the holder can start with, where that is less than `most`.

        Returns:
            True when the holder may start or go on.
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
        self._show_slots()
        # The earliest request among the highest priorities, since a dict keeps its order.
        first = max(self._waiting, key=lambda name: self._waiting[name][0])
        enough = least or most
        # With no other grant the first holder starts even if it needs more than there is: no release could free more.
        if holder == first and (not self._granted or all(enough[name] <= free[name] for name in enough)):
            del self._waiting[holder]
            granted = {name: min(most[name], free[name]) for name in most} if self._granted and least else most
            self._granted[holder] = (granted, now)
            self._show_slots()
            return True
        return False

    def _show_slots(self) -> None:
        record("clinjepa_slots_waiting", len(self._waiting))
        record("clinjepa_slots_granted", len(self._granted))

    def _free(self, needs: Needs, budget: Needs, apart_from: str) -> Needs:
        """What is left of the budget or cluster for each resource of `needs`, not counting the grant of `apart_from`."""
        total = ray.cluster_resources() | budget
        used = [held for name, (held, _) in self._granted.items() if name != apart_from]
        # 1e-6: tolerance for rounding
        return {name: total.get(name, 0.0) + 1e-6 - sum(held.get(name, 0.0) for held in used) for name in needs}

    def release(self, holder: str) -> None:
        self._granted.pop(holder, None)
        self._waiting.pop(holder, None)
        self._show_slots()

    def report(self, key: str, label: str, done: float, total: float, note: str) -> None:
        self._progress[key] = StageProgress(label, done, total, note)
        record("clinjepa_stage_running", 1, stage_labels(label))
        record("clinjepa_stage_done_ratio", done / total if total else 0.0, stage_labels(label))

    def finish(self, key: str) -> None:
        known = self._progress.pop(key, None)
        if known is not None:
            record("clinjepa_stage_running", 0, stage_labels(known.label))

    def note_fault(self, name: str, kind: str, message: str) -> None:
        """Record a fault of the training `name` that a restart does not remove (class name, message).

        Later faults of that training are ignored.
        """
        self._faults.setdefault(name, (kind, message))

    def fault(self, name: str) -> tuple[str, str] | None:
        return self._faults.get(name)

    def forget_fault(self, name: str) -> None:
        self._faults.pop(name, None)

    def progress(self) -> dict[str, StageProgress]:
        """By stage key."""
        return dict(self._progress)

    def _forget_silent(self, now: float) -> None:
        self._granted = {name: held for name, held in self._granted.items() if now - held[1] < _SILENCE_SECONDS}
        self._waiting = {name: asked for name, asked in self._waiting.items() if now - asked[1] < _SILENCE_SECONDS}


def coordinator() -> Any:
    """The cluster's coordinator; starts it when there is none."""
    options = {"name": NAME, "namespace": NAMESPACE, "get_if_exists": True, "lifetime": "detached", "scheduling_strategy": "DEFAULT"}
    return Coordinator.options(**options, **_NOT_ON_SPOT).remote()  # type: ignore[attr-defined]


@contextlib.contextmanager
def slot(actor: Any, most: Needs, priority: int, budget: Needs | None = None, least: Needs | None = None) -> Iterator[None]:
    """Hold a grant while the block runs; waits without holding anything until it is given.

    Args:
        actor: The coordinator.
        most: What the block will use at once.
        priority: Stages after this one in its chain.
        budget: What all holders may use together; the cluster's amount for resources it does not name.
        least: What the block can start with, where that is less than `most`.
    """
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
