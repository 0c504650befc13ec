"""The evaluations as stages: each reads artifacts, runs one plain function in a Ray task, and writes its result as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from clinjepa.clinical import load_tasks
from clinjepa.config import Config
from clinjepa.evaluation.baselines import evaluate_baselines
from clinjepa.evaluation.downstream import evaluate_downstream
from clinjepa.evaluation.drift import evaluate_drift
from clinjepa.evaluation.geometry import evaluate_geometry
from clinjepa.evaluation.roundtrip import evaluate_roundtrip
from clinjepa.model.identity import check_predictor, encoder_digest
from clinjepa.model.predictor import load_predictor
from clinjepa.storage import Folder
from clinjepa.trajectory.labels.artifact import read_labels
from clinjepa.trajectory.tokens.latent_store import LatentReader
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.tasks import run_remotely

RESULT = "result.json"
_Inputs = dict[str, Folder]


def run_drift_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    return _evaluate(context, stage, artifact, _drift)


def run_geometry_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    return _evaluate(context, stage, artifact, _geometry)


def run_roundtrip_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    return _evaluate(context, stage, artifact, _roundtrip)


def run_downstream_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    return _evaluate(context, stage, artifact, _downstream)


def run_baselines_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
    return _evaluate(context, stage, artifact, _baselines)


def _evaluate(
    context: RunContext, stage: Stage, artifact: Artifact, function: Callable[[Config, _Inputs], dict[str, Any]]
) -> dict[str, Any]:
    inputs = {name: context.artifact(upstream).folder for name, upstream in stage.inputs.items()}
    return run_remotely(context, _write_result, function, context.config, inputs, _encoder_of(context, stage), artifact.folder)


def _encoder_of(context: RunContext, stage: Stage) -> _Inputs:
    """Folders of the encoder that the stage's latents are to be of; none where its latents or their encoder are not stored any more."""
    embed = stage.inputs.get("latents")
    upstream = {name: context.artifact(embed.inputs[name]) for name in ("base", "encoder") if name in embed.inputs} if embed else {}
    return {name: each.folder for name, each in upstream.items()} if all(each.is_complete() for each in upstream.values()) else {}


def _write_result(
    function: Callable[[Config, _Inputs], dict[str, Any]], config: Config, inputs: _Inputs, encoder: _Inputs, out: Folder
) -> dict[str, Any]:
    import torch

    torch.set_num_threads(max(1, int(config.execution.evaluation_cpus)))
    if encoder:
        named = " and ".join(folder.address for folder in encoder.values())
        LatentReader(inputs["latents"]).check_encoder(encoder_digest(encoder["base"], encoder.get("encoder")), named)
    if "predictor" in inputs and "latents" in inputs:
        latents = inputs["latents"]
        check_predictor(inputs["predictor"], LatentReader(latents).encoder_digest, f"that of the latents in {latents.address}")
    out.write_json(RESULT, function(config, inputs))
    return {}


def _drift(config: Config, inputs: _Inputs) -> dict[str, Any]:
    evaluation = config.evaluation
    stays = inputs["ingest"].read_table("stays.parquet")
    return evaluate_drift(
        load_predictor(inputs["predictor"]), LatentReader(inputs["latents"]), stays, evaluation.drift, split=evaluation.split
    )


def _geometry(config: Config, inputs: _Inputs) -> dict[str, Any]:
    evaluation = config.evaluation
    onsets = {task.name: task.horizon_hours for task in load_tasks(evaluation.downstream.tasks) if task.kind == "event"}
    stays, labels = inputs["ingest"].read_table("stays.parquet"), read_labels(inputs["labels"], evaluation.downstream.tasks)
    return evaluate_geometry(LatentReader(inputs["latents"]), stays, labels, onsets, evaluation.geometry, split=evaluation.split)


def _roundtrip(config: Config, inputs: _Inputs) -> dict[str, Any]:
    evaluation = config.evaluation
    stays = inputs["ingest"].read_table("stays.parquet")
    return evaluate_roundtrip(
        LatentReader(inputs["latents"]), inputs["ingest"], stays, evaluation.num_roundtrip_hours, split=evaluation.split
    )


def _downstream(config: Config, inputs: _Inputs) -> dict[str, Any]:
    evaluation = config.evaluation
    return evaluate_downstream(
        load_predictor(inputs["predictor"]),
        LatentReader(inputs["latents"]),
        read_labels(inputs["labels"], evaluation.downstream.tasks),
        inputs["ingest"].read_table("stays.parquet"),
        load_tasks(evaluation.downstream.tasks),
        evaluation.downstream,
        split=evaluation.split,
    )


def _baselines(config: Config, inputs: _Inputs) -> dict[str, Any]:
    evaluation = config.evaluation
    return evaluate_baselines(
        inputs["ingest"],
        read_labels(inputs["labels"], evaluation.downstream.tasks),
        inputs["ingest"].read_table("stays.parquet"),
        load_tasks(evaluation.downstream.tasks),
        evaluation.downstream,
        split=evaluation.split,
    )
