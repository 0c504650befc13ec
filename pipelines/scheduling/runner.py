"""Running a stage exactly once: first its inputs, then the lease, then CPUs and GPUs, then the work, then the manifest."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from clinjepa.errors import StoreError
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.coordinator import slot
from pipelines.scheduling.lease import LeaseQueue

_POLL_SECONDS = 1.0


def ensure(context: RunContext, stage: Stage, executors: Mapping[str, Executor], chain_length: int | None = None) -> dict[str, Any]:
    """Run a stage and the stages it needs, unless they are finished.

    Two callers of the same stage, in one cluster or in several, run it once: the second waits without holding CPUs.

    Args:
        context: The connected run.
        stage: The stage.
        executors: By stage kind.
        chain_length: Stages on the longest way to the end of the trial; those with more to come after them get CPUs first.

    Returns:
        The manifest.

    Raises:
        StoreError: A finished artifact is damaged or belongs to another stage.
        StorageError: The storage cannot be reached, or another process took the stage over.
    """
    length = stage.depth if chain_length is None else chain_length
    artifact = context.artifact(stage)
    if artifact.is_complete():
        return _checked(artifact, stage)
    for upstream in stage.inputs.values():
        ensure(context, upstream, executors, length)
    queue = LeaseQueue(artifact.folder, context.config.execution.lease_seconds)
    while not artifact.is_complete():
        lease = queue.try_acquire()
        if lease is None:
            time.sleep(_POLL_SECONDS)
            continue
        with lease.held():
            if artifact.is_complete():
                break
            executor = executors[stage.kind]
            config = context.config
            least = executor.least(config) if executor.least else None
            with slot(context.coordinator, executor.needs(config), length - stage.depth, config.execution.budget, least):
                started = time.monotonic()
                try:
                    context.report(stage, 0, 1, "starting")
                    metrics = executor.run(context, stage, artifact)
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
    return artifact.manifest()


def _checked(artifact: Artifact, stage: Stage) -> dict[str, Any]:
    """The manifest of a finished artifact. Raises StoreError when its files are missing or altered, or it is another stage's."""
    manifest = artifact.verify()
    if manifest["key"] != stage.key or manifest["kind"] != stage.kind:
        raise StoreError(
            f"{artifact.folder.address} holds another stage's result ({manifest['kind']} {manifest['key']}); remove it and run again"
        )
    return manifest
