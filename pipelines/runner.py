"""Running a stage exactly once: inputs first, then lease, then CPUs and GPUs, then the work, then the manifest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clinjepa.config import Config
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.artifacts import Artifact
from pipelines.coordinator import Needs, slot
from pipelines.lease import LeaseQueue
from pipelines.stages import Stage

_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RunContext:
    """What every stage's executor is given."""

    config: Config
    run_id: str
    coordinator: Any
    """Handle of the cluster's coordinator actor."""

    debug: bool = False

    storage: Folder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "storage", Folder(self.config.storage))

    def artifact(self, stage: Stage) -> Artifact:
        return Artifact.at(self.storage, stage.kind, stage.key)

    def report(self, stage: Stage, done: float, total: float, note: str = "") -> None:
        """Tell whoever watches how far a stage is."""
        self.coordinator.report.remote(stage.key, stage.label, done, total, note)


@dataclass(frozen=True)
class Executor:
    """How a kind of stage is run."""

    run: Callable[[RunContext, Stage, Artifact], dict[str, Any]]
    """Does the work into the artifact's folder and returns the metrics for its manifest; resumes what an earlier attempt left."""

    needs: Callable[[Config], Needs]
    """Logical CPUs and GPUs it uses at once, everything included."""

    num_workers: Callable[[Config], int] = lambda config: 1
    least: Callable[[Config], Needs] | None = None
    """What it does not start without, where it can do with less than `needs`."""


def ensure(context: RunContext, stage: Stage, executors: dict[str, Executor], chain_length: int | None = None) -> dict[str, Any]:
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
                lease.check()
                artifact.publish(
                    inputs={name: upstream.key for name, upstream in stage.inputs.items()},
                    settings=stage.settings,
                    metrics=metrics,
                    seconds=time.monotonic() - started,
                    num_workers=executor.num_workers(config),
                    run_id=context.run_id,
                    label=stage.label,
                )
    return artifact.manifest()


def _checked(artifact: Artifact, stage: Stage) -> dict[str, Any]:
    """The manifest of a finished artifact; one whose files are gone or altered is refused, not silently used."""
    manifest = artifact.verify()
    if manifest["key"] != stage.key or manifest["kind"] != stage.kind:
        raise StoreError(
            f"{artifact.folder.address} holds another stage's result ({manifest['kind']} {manifest['key']}); remove it and run again"
        )
    return manifest
