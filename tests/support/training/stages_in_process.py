"""The executors of all stages run in this process, without a Ray cluster: tasks are called, trainings use the plain feed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from clinjepa.config import Config
from clinjepa.curriculum.dispatch import run_training_job
from clinjepa.curriculum.feed.plain_feed import plain_feed
from clinjepa.curriculum.jobs import Job
from clinjepa.curriculum.training_loop import Launch
from clinjepa.curriculum.workers.dist import Dist
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.stage import Stage
from pipelines.stages import base_model, data, evaluation, latents, scoring, training
from pipelines.stages.executors import EXECUTORS


def without_ray(patch: pytest.MonkeyPatch) -> None:
    """Replace what the executors ask of Ray by calls in this process."""
    for module in (base_model, data, evaluation, training):
        patch.setattr(module, "run_remotely", lambda context, function, *arguments: function(*arguments))
    for module in (data, scoring):
        patch.setattr(module, "map_parts", _each_part)
    patch.setattr(data.ray, "cluster_resources", lambda: {"CPU": 1.0})
    patch.setattr(training, "run_training", _train)
    patch.setattr(latents.ray.data, "from_items", lambda items, **options: _Rows(items))


def run_stage(stage: Stage, config: Config, storage: Folder) -> Folder:
    """Run a stage whose inputs are finished and publish it; returns its folder. config: of the run, from which executors take what changes
    no result."""

    def artifact_of(each: Stage) -> Artifact:
        return Artifact.at(storage, each.kind, each.key)

    context = SimpleNamespace(config=config, run_id="", storage=storage, artifact=artifact_of, report=lambda *news: None)
    artifact = artifact_of(stage)
    metrics = EXECUTORS[stage.kind].run(context, stage, artifact)  # type: ignore[arg-type]
    artifact.publish(WorkRecord(stage.label, {name: each.key for name, each in stage.inputs.items()}, stage.settings, metrics, 1.0))
    return artifact.folder


def _each_part(context: Any, stage: Stage, num_parts: int, build: Callable[[int], None], at_a_time: int | None = None) -> None:
    for index in range(num_parts):
        build(index)


def _train(context: Any, stage: Stage, artifact: Artifact, job: Job) -> dict[str, object]:
    summary = run_training_job(job, Launch(Dist.current(), plain_feed(job), lambda step, metrics, checkpoint: None))
    artifact.folder.remove("checkpoints")
    return summary


class _Rows:
    """Stands for a Ray data set whose rows pass through one worker."""

    def __init__(self, items: Iterable[dict[str, Any]]) -> None:
        self._items = list(items)

    def map_batches(self, worker: type, *, fn_constructor_args: tuple[Any, ...], **options: Any) -> _Rows:
        made = worker(*fn_constructor_args)
        return _Rows(row for item in self._items for row in made(pa.Table.from_pylist([item])).to_pylist())

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        return iter(self._items)
