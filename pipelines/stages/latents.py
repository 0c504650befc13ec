"""The latent store: every text of a trajectory store through one frozen encoder, once, by a Ray Data pool of encoder workers."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import ray.data

from clinjepa.curriculum.jobs import EmbedJob
from clinjepa.curriculum.settings import ReadingSettings
from clinjepa.errors import ClinJepaError, values_hidden
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import finish_latents
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.base_model import base_settings
from pipelines.stages.needs import EMBED_WORKER_CPUS
from pipelines.stages.tasks import raise_fault

if TYPE_CHECKING:
    from clinjepa.curriculum.embedding import Embedder


class Encoded(NamedTuple):
    """What a pool encoded now, without the shards that an earlier attempt had finished."""

    num_tokens: int
    num_texts: int


def run_embed_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `embed` stages. A shard that this encoder has finished is recognised by its header and skipped after a restart."""
    job = embed_job(context, stage, artifact, ReadingSettings.from_json(stage.settings))
    encoded = encode_shards(context, stage, _EmbedShards, job)
    return {**finish_latents(artifact.folder), **encoded._asdict()}


def embed_job(context: RunContext, stage: Stage, artifact: Artifact, reading: ReadingSettings) -> EmbedJob:
    """What an encoder worker needs, by the addresses of the stage's inputs `trajectories`, `base` and, where it has one, `encoder`."""
    address = {name: context.artifact(upstream).folder.address for name, upstream in stage.inputs.items()}
    return EmbedJob(
        out=artifact.folder.address,
        trajectories=address["trajectories"],
        base=address["base"],
        encoder=address.get("encoder"),
        base_settings=base_settings(stage),
        reading=reading,
        use_gpu=context.config.execution.use_gpu,
    )


def encode_shards(context: RunContext, stage: Stage, worker: type[ShardWorker], job: EmbedJob) -> Encoded:
    """Every shard of the job's trajectory store through a pool of encoder workers.

    Args:
        context: The run.
        stage: The stage whose progress is reported.
        worker: Class of the workers.
        job: What they receive.

    Raises:
        ClinJepaError: A worker's error, with its class and message.
    """
    execution = context.config.execution
    shards = [name.removesuffix(".parquet") for name in Folder(job.trajectories).names("shards")]
    started, done = time.monotonic(), 0
    dataset = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards)).map_batches(
        worker,
        fn_constructor_args=(job.to_json(), execution.threads_per_worker),
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=max(1, min(execution.embed_workers, len(shards)))),
        num_cpus=EMBED_WORKER_CPUS,
        num_gpus=1 if execution.use_gpu else 0,
    )
    num_tokens = num_texts = 0
    for outcome in dataset.iter_rows():
        raise_fault(outcome)
        done += 1
        num_tokens, num_texts = num_tokens + outcome["num_tokens"], num_texts + outcome["num_texts"]
        context.report(stage, done, len(shards), f"{num_tokens / (time.monotonic() - started):,.0f} tokens/s")
    return Encoded(num_tokens, num_texts)


class ShardWorker(ABC):
    """One encoder worker of a pool."""

    def __init__(self, job: Mapping[str, object], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        with values_hidden():
            self._embedder = self.embedder(job)

    @abstractmethod
    def embedder(self, job: Mapping[str, object]) -> Embedder:
        """What encodes a shard. job: in its JSON form."""

    def __call__(self, rows: pa.Table) -> pa.Table:
        counts: dict[str, int | str] = {"num_tokens": 0, "num_texts": 0, "fault": "", "message": ""}
        try:
            with values_hidden():
                for shard in rows["shard"].to_pylist():
                    counts |= self._embedder.embed_shard(shard)
        except ClinJepaError as error:
            counts |= {"fault": type(error).__name__, "message": str(error)}
        return pa.table({name: [value] for name, value in counts.items()})


class _EmbedShards(ShardWorker):
    """Of a latent store."""

    def embedder(self, job: Mapping[str, object]) -> Embedder:
        from clinjepa.curriculum.embedding import Embedder

        return Embedder(EmbedJob.from_json(job))
