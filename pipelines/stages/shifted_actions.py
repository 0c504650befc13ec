"""The action texts of the evaluated stays with other doses, through the encoder of the latent store: wrong actions for the drift stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from clinjepa.curriculum.settings import ReadingSettings
from clinjepa.curriculum.shifted_job import DoseShift, ShiftedActionsJob
from clinjepa.trajectory.tokens.changed_actions import finish_changed_actions
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.latents import ShardWorker, embed_job, encode_shards

if TYPE_CHECKING:
    from clinjepa.curriculum.embedding import Embedder


def run_shifted_actions_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `shifted_actions` stages; shards are resumed as those of `embed` stages are."""
    as_latents = embed_job(context, stage, artifact, ReadingSettings.from_json(stage.settings["reading"]))
    ingest = context.artifact(stage.inputs["ingest"]).folder.address
    job = ShiftedActionsJob(**vars(as_latents), ingest=ingest, shift=dose_shift(stage))
    encode_shards(context, stage, _ShiftShards, job)
    return {**finish_changed_actions(artifact.folder)}


def dose_shift(stage: Stage) -> DoseShift:
    """How the texts are changed: split and factor of the stage, and how the stages that it reads wrote and cut their texts."""
    return DoseShift(
        split=stage.settings["split"],
        factor=stage.settings["dose_factor"],
        max_decimals=stage.inputs["ingest"].settings["text"]["max_decimals"],
        max_tokens=stage.inputs["trajectories"].settings["max_tokens"],
    )


class _ShiftShards(ShardWorker):
    """Of action texts with other doses."""

    def embedder(self, job: Mapping[str, object]) -> Embedder:
        from clinjepa.curriculum.shifted_embedding import ShiftedActionEmbedder

        return ShiftedActionEmbedder(ShiftedActionsJob.from_json(job))
