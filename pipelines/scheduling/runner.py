"""Running a stage exactly once: first its inputs, then the lease, then CPUs and GPUs, then the work, then the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import ray

from clinjepa.errors import ClinJepaError, StorageError, StoreError, retold
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.coordinator import slot
from pipelines.scheduling.lease import Lease, LeaseQueue
from pipelines.scheduling.metrics import record
from pipelines.scheduling.supply import wait_for_stage

_POLL_SECONDS = 1.0
_counted: set[str] = set()
"""Keys of stages that this process has counted."""


def ensure(
    context: RunContext, stage: Stage, executors: Mapping[str, Executor], chain_length: int | None = None, fails_once: bool = False
) -> dict[str, Any]:
    """Run a stage and the stages it needs, unless they are finished.

    Two callers of the same stage, in one cluster or in several, run it once: the second waits without holding CPUs.

    Args:
        context: The connected run.
        stage: The stage.
        executors: By stage kind.
        chain_length: Stages on the longest way to the end of the trial; those with more to come after them get CPUs first.
        fails_once: Do not run a stage again that failed for another caller of this run, but raise its fault.

    Returns:
        The manifest.

    Raises:
        StoreError: A finished artifact is damaged or belongs to another stage.
        StorageError: The storage cannot be reached, or another process took the stage over.
        ClinJepaError: The stage's own fault.
    """
    length = stage.depth if chain_length is None else chain_length
    artifact = context.artifact(stage)
    if artifact.is_complete():
        _count_once("reused", stage)
        return _checked(artifact, stage)
    for upstream in stage.inputs.values():
        ensure(context, upstream, executors, length, fails_once)
    queue = LeaseQueue(artifact.folder, context.config.execution.lease_seconds)
    while not artifact.is_complete():
        if fails_once:
            _raise_noted(context, stage)
        lease = queue.try_acquire()
        if lease is None:
            time.sleep(_POLL_SECONDS)
            continue
        with lease.held():
            if artifact.is_complete():
                break
            if fails_once:
                _raise_noted(context, stage)
            _work(context, stage, artifact, executors[stage.kind], length - stage.depth, lease)
            _count_once("run", stage)
            return artifact.manifest()
    _count_once("shared", stage)
    return artifact.manifest()


def _work(context: RunContext, stage: Stage, artifact: Artifact, executor: Executor, priority: int, lease: Lease) -> None:
    """Wait for CPUs and GPUs, run the stage and publish it. Its fault is noted for other callers of this run."""
    config = context.config
    least = executor.least(config) if executor.least else None
    wait_for_stage(context, stage, least or executor.needs(config))
    kind, asked = {"kind": stage.kind}, time.monotonic()
    with slot(context.coordinator, executor.needs(config), priority, config.execution.budget, least):
        started = time.monotonic()
        record("clinjepa_slot_wait_seconds", started - asked, kind)
        try:
            context.report(stage, 0, 1, "starting")
            metrics = executor.run(context, stage, artifact)
        except Exception as error:
            record("clinjepa_stages_failed", 1, kind)
            if not isinstance(error, ClinJepaError):
                raise
            if not isinstance(error, StorageError):  # a storage may answer the next caller
                ray.get(context.coordinator.note_fault.remote(_fault_name(context, stage), type(error).__name__, str(error)))
            raise
        finally:
            context.coordinator.finish.remote(stage.key)
        work = WorkRecord(
            label=stage.label,
            inputs={name: upstream.key for name, upstream in stage.inputs.items()},
            settings=stage.settings,
            metrics=metrics,
            seconds=time.monotonic() - started,
            num_workers=executor.num_workers(config),
            run_id=context.run_id,
        )
        artifact.publish(work, may_publish=lease.check)
        record("clinjepa_stage_seconds", work.seconds, kind)


def _count_once(how: str, stage: Stage) -> None:
    """Count how a stage came to be finished, the first time that this process asks for it."""
    if stage.key not in _counted:
        _counted.add(stage.key)
        record(f"clinjepa_stages_{how}", 1, {"kind": stage.kind})


def _raise_noted(context: RunContext, stage: Stage) -> None:
    """Raise the fault with which the stage failed for another caller of this run."""
    noted: tuple[str, str] | None = ray.get(context.coordinator.fault.remote(_fault_name(context, stage)))
    if noted is not None:
        raise retold(*noted)


def _fault_name(context: RunContext, stage: Stage) -> str:
    return f"{context.run_id}/{stage.key}"


def _checked(artifact: Artifact, stage: Stage) -> dict[str, Any]:
    """The manifest of a finished artifact. Raises StoreError when its files are missing or altered, or it is another stage's."""
    manifest = artifact.verify()
    if manifest["key"] != stage.key or manifest["kind"] != stage.kind:
        raise StoreError(
            f"{artifact.folder.address} holds another stage's result ({manifest['kind']} {manifest['key']}); remove it and run again"
        )
    return manifest
