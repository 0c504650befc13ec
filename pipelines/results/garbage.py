"""What no run of a storage needs, and its deletion.

Needed is what the record of a run or of an attempt names, and by the manifests all that this was made from: also what a run continues
(`init_from`) or a scoring was fitted on. Some results are no part of a record: scores of new patients and their comparison with training
(`scores`, `shift`), and the baselines. They stay while what they were fitted on is needed. Files of `runs/` are never deleted: who removes
the folder of a run says that it is not needed.

Deletion is safe beside runs that start (`pipelines/scheduling/attempting.py`): it takes the storage's lease first and then reads what
runs need. It is safe when it is interrupted: the manifest goes first, so what is left is unfinished work and no artifact.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import MANIFEST
from pipelines.graph.attempts import PlannedStage
from pipelines.graph.estimates import PlanPart
from pipelines.graph.storage_inventory import TRAIN_STATE, StorageInventory, StoredArtifact, read_inventory
from pipelines.scheduling.attempting import GC_FOLDER, GC_LEASE_SECONDS
from pipelines.scheduling.lease import LeaseQueue, looks_held

GARBAGE_SCHEMA_VERSION = 1
_RESULTS = {"scores": "probes", "shift": "trained_on", "baselines": "labels"}
"""Kind of a result of its own -> the role of its input that must be needed for it to stay."""


class GarbageKind(PlanPart):
    """What can be deleted of one kind."""

    kind: str
    """Kind of stage, or `ray_train`: what Ray Train's controllers left, which no later attempt reads."""
    num_artifacts: int
    """Folders."""
    num_bytes: int
    """Their bytes."""


class GarbageList(PlanPart):
    """What `clinjepa gc --json` prints."""

    schema_version: int
    """Raised when a field changes its meaning or goes."""
    storage: str
    """Absolute address of the storage."""
    older_than_days: float
    """Only what has not changed for so many days is deleted."""
    kinds: list[GarbageKind]
    """What is deleted, or would be, by kind."""
    num_bytes: int
    """Their bytes."""
    kept_young_bytes: int
    """Bytes that no run needs, but that changed later than that."""
    kept_held_bytes: int
    """Bytes that no run needs by its record, but on which a process works."""
    needed_bytes: int
    """Bytes that runs need, their folders included."""
    blocked: list[str]
    """Records and manifests that cannot be read: what they need is not known, so nothing is deleted."""
    deleted: bool
    """Whether it was deleted."""


@dataclass(frozen=True)
class Dispensable:
    """One folder that can be deleted."""

    kind: str
    folder: Folder
    num_bytes: int
    changed: float
    """Time of its newest file."""


@dataclass
class Garbage:
    """What a storage holds beside what its runs need."""

    dispensable: list[Dispensable]
    """The oldest first."""

    kept_young_bytes: int
    kept_held_bytes: int
    needed_bytes: int
    blocked: list[str]


def find_garbage(storage: Folder, older_than_days: float, now: float | None = None) -> Garbage:
    """What no run needs and nobody works on, and has not changed for so many days.

    Args:
        storage: The storage.
        older_than_days: Age of the newest file of a folder, in days.
        now: Time in seconds since 1970; None is the clock's.

    Raises:
        StorageError: It cannot be reached.
        StoreError: The address holds no storage.
    """
    now = time.time() if now is None else now
    inventory = read_inventory(storage)
    needed = needed_artifacts(inventory)
    blocked = [fault for run in inventory.runs.values() for fault in run.faults]
    known = {name for run in inventory.runs.values() for attempt in run.attempts for name in _names(attempt["stages"])}
    blocked += [each.fault for name in sorted(needed - known) if (each := inventory.artifacts.get(name)) and each.fault]
    found = Garbage([], 0, 0, sum(run.num_bytes for run in inventory.runs.values()), blocked)
    held_keys = set()
    for each in inventory.artifacts.values():
        held = looks_held(each.folder, each.lease, now)
        held_keys |= {each.key} if held else set()
        if each.name in needed:
            found.needed_bytes += each.num_bytes
        elif held:
            found.kept_held_bytes += each.num_bytes
        else:
            _add(found, Dispensable(each.kind, each.folder, each.num_bytes, each.changed), now - older_than_days * 86400)
    for name, facts in inventory.train_states.items():
        if name.partition("-")[0] in held_keys:
            found.kept_held_bytes += facts.num_bytes
        else:
            state = Dispensable(TRAIN_STATE, storage / f"{TRAIN_STATE}/{name}", facts.num_bytes, facts.changed)
            _add(found, state, now - older_than_days * 86400)
    found.dispensable.sort(key=lambda each: each.changed)
    if blocked:
        found.dispensable.clear()
    return found


def needed_artifacts(inventory: StorageInventory) -> set[str]:
    """`<kind>/<key>` of all artifacts that a run of the storage needs."""
    searched = {run_id for run in inventory.runs.values() for each in run.attempts if each["open_ended"] for run_id in each["run_ids"]}
    roots = {name for run in inventory.runs.values() for name in run.named}
    if searched:
        inventory.read_manifests(inventory.artifacts)
        roots |= {each.name for each in inventory.artifacts.values() if each.manifest and each.manifest.get("run_id") in searched}
    needed = inventory.closure(roots)
    results = [each for each in inventory.artifacts.values() if each.kind in _RESULTS and each.name not in needed]
    inventory.read_manifests(each.name for each in results)
    kept = {each.name for each in results if _stays(each, inventory, needed)}
    return needed | inventory.closure(kept)


def delete_garbage(storage: Folder, older_than_days: float, told: Callable[[Dispensable], None] = lambda _: None) -> Garbage:
    """Delete what `find_garbage` finds, the oldest first.

    Args:
        storage: The storage.
        older_than_days: As for `find_garbage`.
        told: Called before each folder is deleted.

    Returns:
        What was found, and is deleted.

    Raises:
        StoreError: Another process deletes, or records cannot be read, so that what they need is not known.
        StorageError: The storage is away, or this process was silent for so long that it may no longer delete.
    """
    lease = LeaseQueue(storage / GC_FOLDER, GC_LEASE_SECONDS).try_acquire()
    if lease is None:
        raise StoreError(f"another clinjepa gc works in {storage.address}, or did less than a minute ago; try again")
    with lease.held():
        garbage = find_garbage(storage, older_than_days)  # after the lease: a run that starts now is seen, or waits
        if garbage.blocked:
            raise StoreError(f"nothing was deleted, since what is needed is not known: {'; '.join(garbage.blocked)}")
        for each in garbage.dispensable:
            lease.check()
            if each.kind != TRAIN_STATE and looks_held(each.folder, each.folder.times("lease"), time.time()):
                continue
            told(each)
            each.folder.remove(MANIFEST)
            each.folder.remove()
    return garbage


def garbage_list(storage: Folder, garbage: Garbage, older_than_days: float, deleted: bool) -> GarbageList:
    """The record that `clinjepa gc --json` prints."""
    count, size = Counter(each.kind for each in garbage.dispensable), Counter[str]()
    for each in garbage.dispensable:
        size[each.kind] += each.num_bytes
    return GarbageList(
        schema_version=GARBAGE_SCHEMA_VERSION,
        storage=storage.address,
        older_than_days=older_than_days,
        kinds=[GarbageKind(kind=kind, num_artifacts=count[kind], num_bytes=size[kind]) for kind in sorted(count)],
        num_bytes=sum(size.values()),
        kept_young_bytes=garbage.kept_young_bytes,
        kept_held_bytes=garbage.kept_held_bytes,
        needed_bytes=garbage.needed_bytes,
        blocked=garbage.blocked,
        deleted=deleted,
    )


def _add(found: Garbage, each: Dispensable, before: float) -> None:
    if each.changed <= before:
        found.dispensable.append(each)
    else:
        found.kept_young_bytes += each.num_bytes


def _stays(result: StoredArtifact, inventory: StorageInventory, needed: set[str]) -> bool:
    """Whether what a result was fitted on is needed; also where it does not say."""
    if result.manifest is None:
        return result.is_complete
    key = result.manifest["inputs"].get(_RESULTS[result.kind], "")
    return any(each.name in needed for each in inventory.of_key(key))


def _names(stages: list[PlannedStage]) -> Iterator[str]:
    return (f"{stage['kind']}/{stage['key']}" for stage in stages)
