"""The runs in a storage: how far each is, what it cost, how large it is and what resumes it. Needs no cluster and reads no data.

Only records, manifests and sizes are read: counts, names of stages and times of files, nothing of patients.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal

from clinjepa.config.yaml_text import YamlFault, parse_yaml
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.graph.attempts import Attempt
from pipelines.graph.estimates import PlanPart
from pipelines.graph.saved_run import CONFIG_FILE
from pipelines.graph.stage import GPU_KINDS
from pipelines.graph.storage_inventory import StorageInventory, StoredArtifact, StoredRun, read_inventory
from pipelines.scheduling.lease import looks_held

RUNS_SCHEMA_VERSION = 1
RunState = Literal["finished", "running", "interrupted", "failed", "damaged"]
_WRITES_REPORT = ("run",)


class RunEntry(PlanPart):
    """One run of a storage."""

    name: str
    """Name of the run; its folder is `<storage>/runs/<name>`."""
    state: RunState
    """`running`: a process renews a lease of it. `failed`: the last command ended with a fault, or stages are missing at its end.
    `interrupted`: it ended without a word, or by a signal. `damaged`: its records cannot be read."""
    command: str
    """The last command that worked on it; `run` where only its report is there."""
    started: str | None
    """UTC time at which that command began; null for a run of an older version."""
    ended: str | None
    """UTC time at which it ended, or of the report of an older version; null while it works and after it was killed."""
    num_stages: int
    """Stages that the command planned, inputs included; for a run of an older version those that its report is about."""
    num_done: int
    """Of them finished."""
    wall_seconds: float
    """Sum of the durations of the finished stages when they ran, whichever run did the work."""
    gpu_seconds: float
    """Durations times workers of the stages whose workers had GPUs; 0 for a run without `execution.use_gpu`."""
    cpu_seconds: float
    """Durations times workers of all other stages."""
    num_bytes: int
    """Bytes of its folder and of all its artifacts, shared ones included."""
    own_bytes: int
    """Bytes of its folder and of the artifacts that no other run of the storage has."""
    resume: str | None
    """The command that goes on; null for a finished run, and where no command line began it."""
    fault: str | None
    """The error's line of a failed command, or what is wrong with the records."""


class RunList(PlanPart):
    """All runs of a storage."""

    schema_version: int
    """Raised when a field changes its meaning or goes."""
    storage: str
    """Absolute address of the storage."""
    runs: list[RunEntry]
    """The newest first."""
    num_bytes: int
    """Bytes of all artifacts and runs, whether or not a run needs them (`clinjepa gc`)."""


def stored_runs(storage: Folder, now: float | None = None) -> RunList:
    """The runs of a storage.

    Args:
        storage: The storage, local or in an object store.
        now: Time in seconds since 1970; None is the clock's.

    Raises:
        StorageError: It cannot be reached.
        StoreError: The address holds no storage.
    """
    inventory = read_inventory(storage)
    now = time.time() if now is None else now
    needs = {run.name: inventory.closure(_last(run)) for run in inventory.runs.values()}
    users = Counter(name for run in inventory.runs.values() for name in inventory.closure(run.named) | needs[run.name])
    entries = [_entry(inventory, run, needs[run.name], users, now) for run in inventory.runs.values()]
    entries.sort(key=lambda entry: entry.started or entry.ended or "", reverse=True)
    size = sum(each.num_bytes for each in inventory.artifacts.values()) + sum(run.num_bytes for run in inventory.runs.values())
    return RunList(schema_version=RUNS_SCHEMA_VERSION, storage=storage.address, runs=entries, num_bytes=size)


def _last(run: StoredRun) -> list[str]:
    """`<kind>/<key>` of the stages of the last attempt, else of those that the report names."""
    if not run.attempts:
        return run.named
    return [f"{stage['kind']}/{stage['key']}" for stage in run.attempts[0]["stages"]]


def _entry(inventory: StorageInventory, run: StoredRun, needs: set[str], users: Counter[str], now: float) -> RunEntry:
    attempt = run.attempts[0] if run.attempts else None
    there = [each for name in sorted(needs) if (each := inventory.artifacts.get(name))]
    done = [each for each in there if each.manifest is not None]
    state = _state(run, attempt, there, len(done) == len(needs), now)
    wall, gpu, cpu = _seconds(done, _uses_gpu(run, attempt))
    own = run.num_bytes + sum(each.num_bytes for each in there if users[each.name] == 1)
    faults = run.faults or [each.fault for each in there if each.fault]
    return RunEntry(
        name=run.name,
        state=state,
        command=attempt["command"] if attempt else "run",
        started=attempt["started"] if attempt else None,
        ended=attempt["ended"] if attempt else (_utc(run.record_changed) if run.record_changed else None),
        num_stages=len(needs),
        num_done=len(done),
        wall_seconds=wall,
        gpu_seconds=gpu,
        cpu_seconds=cpu,
        num_bytes=run.num_bytes + sum(each.num_bytes for each in there),
        own_bytes=own,
        resume=None if state == "finished" else _resume(run, attempt),
        fault=faults[0] if faults else (attempt["fault"] if attempt and state == "failed" else None),
    )


def _state(run: StoredRun, attempt: Attempt | None, stages: list[StoredArtifact], all_done: bool, now: float) -> RunState:
    if run.faults:
        return "damaged"
    if attempt is None:
        return "finished" if run.record is not None and all_done else "interrupted"
    if any(looks_held(run.folder / f"attempts/{command}", facts, now) for command, facts in run.leases.items()):
        return "running"
    if any(looks_held(each.folder, each.lease, now) for each in stages if not each.is_complete):
        return "running"
    if attempt["outcome"] == "finished" and all_done:
        return "finished" if attempt["command"] not in _WRITES_REPORT or run.record is not None else "interrupted"
    return "interrupted" if attempt["outcome"] in (None, "interrupted") else "failed"


def _seconds(done: list[StoredArtifact], use_gpu: bool) -> tuple[float, float, float]:
    """(wall, GPU, other worker seconds) of finished stages."""
    wall = gpu = cpu = 0.0
    for each in done:
        manifest = each.manifest or {}
        seconds, workers = float(manifest.get("seconds") or 0.0), int(manifest.get("num_workers") or 1)
        wall += seconds
        if use_gpu and each.kind in GPU_KINDS:
            gpu += seconds * workers
        else:
            cpu += seconds * workers
    return round(wall, 3), round(gpu, 3), round(cpu, 3)


def _uses_gpu(run: StoredRun, attempt: Attempt | None) -> bool:
    """Whether the run's workers get GPUs: by its attempt, else by the configuration beside its report."""
    if attempt is not None:
        return attempt["use_gpu"]
    try:
        raw = parse_yaml(run.folder.read_bytes(CONFIG_FILE).decode())
        return bool(raw["execution"]["use_gpu"])
    except (StoreError, YamlFault, UnicodeDecodeError, KeyError, TypeError):
        return False


def _resume(run: StoredRun, attempt: Attempt | None) -> str | None:
    if attempt is not None:
        return attempt["resume"]
    return f"clinjepa run {run.folder.address}/{CONFIG_FILE}" if run.record is not None and run.folder.is_local else None


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
