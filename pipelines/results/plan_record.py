"""What `clinjepa plan` finds, as one record: the stages with keys and states, memory, time and storage, warnings. Writes nothing."""

from __future__ import annotations

from typing import Literal

from clinjepa.config import Config
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.estimates import GpuEstimate, LatentEstimate, PlanPart, gpu_estimate, latent_estimate
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.graph.provenance import by_other_code, other_code_line
from pipelines.graph.stage import Stage
from pipelines.scheduling.preflight import check_workers, warnings

PLAN_SCHEMA_VERSION = 1

State = Literal["to do", "begun", "done", "damaged"]


class TrialName(PlanPart):
    """One trial of the grid."""

    recipe: str
    """Name of the recipe."""
    seed: int
    """Seed of the trial."""


class StagePlan(PlanPart):
    """One stage."""

    label: str
    """Name for people; it is no part of the key."""
    kind: str
    """Kind of stage, for example `ingest` or `phase`."""
    key: str
    """Digest of everything that decides the result; its folder is `<storage>/artifacts/<kind>/<key>`."""
    state: State
    """`begun`: there are checkpoints. `done`: the manifest is there and every file has its size; else `damaged`."""
    seconds: float | None
    """How long the stage took; null unless it is done."""
    other_code: bool
    """True when another version of the code made it."""
    damage: str | None
    """What is wrong with a damaged stage, and the remedy."""
    num_steps: int | None
    """Optimizer steps of a training phase."""
    needs: list[str]
    """Keys of the stages it reads; empty when it reads the source only."""
    used_by: list[TrialName]
    """Trials of the grid that use it; empty for a stage that no trial uses."""


class PlanRecord(PlanPart):
    """The whole plan."""

    schema_version: int
    """Raised when a field changes its meaning or goes."""
    name: str
    """Name of the run."""
    storage: str
    """Absolute address of the storage."""
    stages: list[StagePlan]
    """Every stage, inputs before the stages that read them; empty with `--without-data`."""
    gpu: GpuEstimate | None
    """Memory and time; null unless `execution.use_gpu=true`."""
    latents: LatentEstimate
    """Bytes of the latent stores."""
    refusals: list[str]
    """What `clinjepa run` would refuse in this configuration, each with its remedy."""
    warnings: list[str]
    """What is allowed but will probably disappoint, each with its remedy."""
    other_code: str | None
    """One line on finished stages that another version of the code made."""


def plan_record(config: Config, without_data: bool = False) -> PlanRecord:
    """Plan an experiment.

    Args:
        config: The configuration, with absolute addresses.
        without_data: Do not read the source: no stages, and sizes from assumed texts.

    Raises:
        SourceError: The source cannot be read.
        StorageError: The storage cannot be reached.
        ConfigError: A task or recipe is not there, or a model's sizes are not known.
    """
    experiment = None if without_data else plan_experiment(config, remember=False)
    stages = [_stage_plan(config, experiment, stage) for stage in experiment.stages] if experiment else []
    others = [stage.label for stage in stages if stage.other_code]
    storage = Folder(config.storage).address
    return PlanRecord(
        schema_version=PLAN_SCHEMA_VERSION,
        name=config.name,
        storage=storage,
        stages=stages,
        gpu=gpu_estimate(config, experiment) if config.execution.use_gpu else None,
        latents=latent_estimate(config, experiment),
        refusals=_refusals(config),
        warnings=warnings(config),
        other_code=other_code_line(others, len(stages), storage) if others else None,
    )


def _stage_plan(config: Config, experiment: Experiment, stage: Stage) -> StagePlan:
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    state: State = "to do"
    seconds, other_code, damage = None, False, None
    if artifact.is_complete():
        try:
            manifest = artifact.verify()
            state, seconds, other_code = "done", manifest["seconds"], by_other_code(manifest)
        except StoreError as error:
            state, damage = "damaged", str(error)
    elif artifact.folder.exists("checkpoints"):
        state = "begun"
    return StagePlan(
        label=stage.label,
        kind=stage.kind,
        key=stage.key,
        state=state,
        seconds=seconds,
        other_code=other_code,
        damage=damage,
        num_steps=stage.settings.get("num_steps"),
        needs=list(dict.fromkeys(upstream.key for upstream in stage.inputs.values())),
        used_by=[
            TrialName(recipe=trial.recipe, seed=trial.seed)
            for trial in experiment.trials
            if any(stage.key == used.key for used in trial.stages)
        ],
    )


def _refusals(config: Config) -> list[str]:
    try:
        check_workers(config)
    except ConfigError as refusal:
        return [str(refusal)]
    return []
