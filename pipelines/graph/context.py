"""What a stage is run with: the context of a run, and the executor of a kind of stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from clinjepa.config.schema import Config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.stage import Stage

Needs = dict[str, float]
"""Amounts by Ray's names of resources: `CPU`, `GPU`."""


@dataclass(frozen=True)
class RunContext:
    """Arguments of a run that every executor gets.

    Executors take from `config` only what changes no result (`execution`, places, downloads). Settings come from the stage.
    """

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
        """Report the progress of a stage to the coordinator, which the progress display reads."""
        self.coordinator.report.remote(stage.key, stage.label, done, total, note)


@dataclass(frozen=True)
class StageFunction:
    """The function that runs a kind of stage, by its name: its module and the libraries of that module load when it is called.

    Every trial has a process that holds all executors and mostly waits. So that process loads only what its own stages need.
    """

    module: str
    name: str

    def __call__(self, context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
        run: Callable[[RunContext, Stage, Artifact], dict[str, object]] = getattr(import_module(self.module), self.name)
        return run(context, stage, artifact)


@dataclass(frozen=True)
class Executor:
    """How a kind of stage is run."""

    run: Callable[[RunContext, Stage, Artifact], dict[str, object]]
    """Writes the artifact's files and returns the metrics for its manifest; resumes what an earlier attempt left."""

    needs: Callable[[Config], Needs]
    """Logical CPUs and GPUs that it uses at once, readers included."""

    num_workers: Callable[[Config], int] = lambda config: 1
    least: Callable[[Config], Needs] | None = None
    """The least with which it starts, where that is less than `needs`."""


def one_cpu(config: Config) -> Needs:
    """Of a stage whose tasks Ray Data places itself."""
    return {"CPU": 1.0}


def one_task(config: Config) -> Needs:
    """Of a stage that is one task of evaluation or preparation."""
    return {"CPU": config.execution.evaluation_cpus}
