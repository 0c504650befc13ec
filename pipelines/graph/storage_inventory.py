"""What is in a storage: every artifact with its size, age and lease, and every run with its records. Reads, never writes; no Ray.

Artifacts are taken from one listing of the storage, and manifests are read when they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.storage.folder import MARK, FileFacts
from pipelines.graph.artifacts import MANIFEST, Artifact
from pipelines.graph.attempts import ATTEMPTS, RUNS, Attempt, read_attempt
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION, RunRecord

ARTIFACTS = "artifacts"
TRAIN_STATE = "ray_train"
"""Folder of Ray Train's controllers: `<key of the stage>-<run id>` each."""

_READERS = 16
_LEASE = "lease/"


@dataclass
class StoredArtifact:
    """One folder of `artifacts/<kind>/<key>`, finished or not."""

    kind: str
    key: str
    folder: Folder
    num_bytes: int = 0
    changed: float = 0.0
    """Time of the newest file, in seconds since 1970."""

    is_complete: bool = False
    lease: dict[str, FileFacts] = field(default_factory=dict)
    manifest: Mapping[str, Any] | None = None
    """None until `StorageInventory.read_manifests`, and where it cannot be read."""

    fault: str | None = None
    """Why the manifest cannot be read."""

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.key}"


@dataclass
class StoredRun:
    """One folder of `runs/`."""

    name: str
    folder: Folder
    num_bytes: int = 0
    record: RunRecord | None = None
    record_changed: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    """The newest first."""

    leases: dict[str, dict[str, FileFacts]] = field(default_factory=dict)
    """Command of an attempt -> files of its lease."""

    faults: list[str] = field(default_factory=list)
    """Records that cannot be read."""

    @property
    def named(self) -> list[str]:
        """`<kind>/<key>` of the artifacts that the run's own files name; what they were made from is found by manifests."""
        of_report = [name for trial in (self.record["trials"] if self.record else []) for name in trial["artifacts"].values()]
        of_attempts = [f"{stage['kind']}/{stage['key']}" for attempt in self.attempts for stage in attempt["stages"]]
        return list(dict.fromkeys([*of_report, *of_attempts]))


@dataclass
class StorageInventory:
    """A storage as it stood when it was read."""

    storage: Folder
    artifacts: dict[str, StoredArtifact]
    """By `<kind>/<key>`."""

    runs: dict[str, StoredRun]
    train_states: dict[str, FileFacts]
    """Name of a folder of `ray_train` -> its bytes and its newest time."""

    def read_manifests(self, names: Iterable[str]) -> None:
        """Read the manifests of finished artifacts that are not read yet, many at once."""
        wanted = [each for name in names if (each := self.artifacts.get(name)) and each.is_complete]
        todo = [each for each in wanted if each.manifest is None and each.fault is None]
        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(_read_manifest, todo))

    def of_key(self, key: str) -> list[StoredArtifact]:
        """The artifacts of a key, whose kind a manifest's inputs do not name."""
        return self._by_key.get(key, [])

    @cached_property
    def _by_key(self) -> dict[str, list[StoredArtifact]]:
        found: dict[str, list[StoredArtifact]] = {}
        for each in self.artifacts.values():
            found.setdefault(each.key, []).append(each)
        return found

    def closure(self, names: Iterable[str]) -> set[str]:
        """Those artifacts, and by their manifests all that they were made from, as far as it is there."""
        found: set[str] = set()
        edge = set(names)
        while edge:
            found |= edge
            self.read_manifests(edge)
            made = [each.manifest for name in edge if (each := self.artifacts.get(name)) and each.manifest]
            keys = {key for manifest in made for key in manifest["inputs"].values()}
            edge = {each.name for key in keys for each in self.of_key(key)} - found
        return found


def read_inventory(storage: Folder) -> StorageInventory:
    """List a storage and read the records of its runs.

    Raises:
        StorageError: It cannot be reached.
        StoreError: The address holds no storage of clinjepa.
    """
    storage.check_reachable()
    if not storage.exists(ARTIFACTS) and not storage.exists(RUNS) and not storage.exists(MARK):
        raise StoreError(f"{storage.address} is no storage of clinjepa: it has neither {ARTIFACTS}/ nor {RUNS}/; give what storage=… was")
    runs = _runs(storage)
    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(_read_records, runs.values()))
    return StorageInventory(storage, _artifacts(storage), runs, _train_states(storage))


def _artifacts(storage: Folder) -> dict[str, StoredArtifact]:
    found: dict[str, StoredArtifact] = {}
    for path, facts in storage.times(ARTIFACTS).items():
        kind, _, rest = path.partition("/")
        key, _, file = rest.partition("/")
        if not file:
            continue
        each = found.setdefault(f"{kind}/{key}", StoredArtifact(kind, key, Artifact.at(storage, kind, key).folder))
        each.num_bytes += facts.num_bytes
        each.changed = max(each.changed, facts.changed)
        each.is_complete |= file == MANIFEST
        if file.startswith(_LEASE):
            each.lease[file.removeprefix(_LEASE)] = facts
    return found


def _runs(storage: Folder) -> dict[str, StoredRun]:
    found: dict[str, StoredRun] = {}
    for path, facts in storage.times(RUNS).items():
        name, _, file = path.partition("/")
        if not file:
            continue
        run = found.setdefault(name, StoredRun(name, storage / f"{RUNS}/{name}"))
        run.num_bytes += facts.num_bytes
        parts = file.split("/")
        if file == RUN_RECORD:
            run.record_changed = facts.changed
        elif parts[0] == ATTEMPTS and len(parts) == 4 and parts[2] == _LEASE.rstrip("/"):
            run.leases.setdefault(parts[1], {})[parts[3]] = facts
    return found


def _train_states(storage: Folder) -> dict[str, FileFacts]:
    found: dict[str, FileFacts] = {}
    for path, facts in storage.times(TRAIN_STATE).items():
        name = path.partition("/")[0]
        before = found.get(name, FileFacts(0, 0.0))
        found[name] = FileFacts(before.num_bytes + facts.num_bytes, max(before.changed, facts.changed))
    return found


def _read_records(run: StoredRun) -> None:
    if run.record_changed:
        try:
            record = run.folder.read_json(RUN_RECORD)
            version = record.get("schema_version") if isinstance(record, dict) else None
            if version != RUN_SCHEMA_VERSION:
                raise StoreError(
                    f"{run.folder.address}/{RUN_RECORD} has schema version {version}, this clinjepa reads {RUN_SCHEMA_VERSION}"
                )
            run.record = record
        except StoreError as error:
            run.faults.append(str(error))
    for name in run.folder.names(ATTEMPTS):
        if name.endswith(".json"):
            try:
                run.attempts.append(read_attempt(run.folder, name))
            except StoreError as error:
                run.faults.append(str(error))
    run.attempts.sort(key=lambda attempt: attempt["started"], reverse=True)


def _read_manifest(each: StoredArtifact) -> None:
    where = f"{each.folder.address}/{MANIFEST}"
    try:
        found = Artifact(each.kind, each.key, each.folder).manifest()
        inputs = found.get("inputs")
        if found.get("key") != each.key or not isinstance(inputs, dict) or not all(isinstance(key, str) for key in inputs.values()):
            raise StoreError(f"{where} is not the manifest of this folder, or names no inputs; remove {each.folder.address} and run again")
        each.manifest = found
    except StoreError as error:
        each.fault = str(error)
