"""Executors of SFT, phases and hard syncs: from the settings in a stage's key to a job, which Ray Train runs (`ray_train`)."""

from __future__ import annotations

from typing import TypedDict

from clinjepa.config import Config
from clinjepa.curriculum.jobs import PhaseJob, SftJob, SyncJob
from clinjepa.curriculum.recipes.phases import Phase
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, LoraSettings, PredictorSettings, Recompute, SftSettings
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.stage import Stage
from pipelines.stages.base_model import base_settings
from pipelines.stages.ray_train import run_training
from pipelines.stages.tasks import run_remotely


class _Execution(TypedDict):
    """Fields of a training job that change how it is computed, never its result."""

    checkpoint_every_steps: int
    keep_checkpoints: int
    asynchronous_checkpoints: bool
    log_every_steps: int
    activation_checkpointing: Recompute


def run_phase_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `phase` stages."""
    settings, address = stage.settings, _addresses(context, stage)
    job = PhaseJob(
        out=artifact.folder.address,
        trajectories=address["trajectories"],
        latents=address.get("latents"),
        base=address["base"],
        encoder=address.get("encoder"),
        target=address.get("target"),
        predictor=address.get("predictor"),
        heads=address.get("heads"),
        ingest=address.get("ingest"),
        label=stage.label,
        terms_source=stage.texts.get("terms"),
        phase=Phase.from_json(settings["phase"]),
        num_steps=settings["num_steps"],
        first_step=settings["first_step"],
        total_steps=settings["total_steps"],
        seed=settings["seed"],
        encoder_settings=EncoderSettings.from_json(settings["encoder"]),
        predictor_settings=PredictorSettings.from_json(settings["predictor"]),
        curriculum_settings=CurriculumSettings.from_json(settings["curriculum"]),
        **_execution(context.config),
    )
    return run_training(context, stage, artifact, job)


def run_sft_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of the `sft` stage."""
    settings, address = stage.settings, _addresses(context, stage)
    job = SftJob(
        out=artifact.folder.address,
        trajectories=address["trajectories"],
        base=address["base"],
        seed=settings["seed"],
        base_settings=base_settings(stage),
        sft_settings=SftSettings.from_json(settings["sft"]),
        lora=LoraSettings.from_json(settings["lora"]) if "lora" in settings else None,
        **_execution(context.config),
    )
    return run_training(context, stage, artifact, job)


def run_sync_stage(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, object]:
    """Executor of `sync` stages: target := online, checked; an operation on checkpoints."""
    from clinjepa.curriculum.hard_sync import hard_sync

    address = _addresses(context, stage)
    return run_remotely(context, hard_sync, SyncJob(artifact.folder.address, address["online"], address["target"]))


def _addresses(context: RunContext, stage: Stage) -> dict[str, str]:
    """Addresses of the artifacts of a stage's inputs."""
    return {name: context.artifact(upstream).folder.address for name, upstream in stage.inputs.items()}


def _execution(config: Config) -> _Execution:
    curriculum = config.curriculum
    return {
        "checkpoint_every_steps": curriculum.checkpoint_every_steps,
        "keep_checkpoints": curriculum.keep_checkpoints,
        "asynchronous_checkpoints": curriculum.asynchronous_checkpoints,
        "log_every_steps": curriculum.log_every_steps,
        "activation_checkpointing": config.encoder.activation_checkpointing,
    }
