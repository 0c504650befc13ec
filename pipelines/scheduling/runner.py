"""Running a stage exactly once: inputs first, then lease, then CPUs and GPUs, then the work, then the manifest."""

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
    """The manifest of `stage`, after running it and whatever it needs if nobody has.

    Two callers of the same stage, in one cluster or in several, run it once: the other waits without holding CPUs.
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
    """The manifest of a finished artifact; one whose files are gone or altered is refused, not silently used."""
    manifest = artifact.verify()
    if manifest["key"] != stage.key or manifest["kind"] != stage.kind:
        raise StoreError(
            f"{artifact.folder.address} holds another stage's result ({manifest['kind']} {manifest['key']}); remove it and run again"
        )
    return manifest
