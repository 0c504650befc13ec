"""What `clinjepa plan` finds, as one record: the stages with keys and states, memory, time and storage, warnings. Writes nothing."""

from __future__ import annotations

from typing import Literal

from clinjepa.config import Config
from clinjepa.errors import ConfigError, StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.changed_action_sizes import ChangedActionEstimate, changed_action_estimate
from pipelines.graph.estimates import GpuEstimate, LatentEstimate, PlanPart, gpu_estimate, latent_estimate
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.graph.provenance import by_other_code, other_code_line
from pipelines.graph.stage import Stage
from pipelines.results.grid_costs import grid_costs, largest_point
from pipelines.scheduling.preflight import check_own_terms, check_workers, warnings

PLAN_SCHEMA_VERSION = 1

State = Literal["to do", "begun", "done", "damaged"]


class TrialName(PlanPart):
    """One trial of the grid."""

    name: str
    """Recipe, values of the axes and seed, for example `clin_jepa · encoder_lr=1e-05, seed 0`."""
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


class KindPlan(PlanPart):
    """The stages of one kind."""

    kind: str
    """Kind of stage."""
    num_stages: int
    """Distinct stages, which run once each."""
    num_alone: int
    """Stages that the trials would run if each ran alone."""
    num_done: int
    """Finished stages."""


class GridPlan(PlanPart):
    """The grid as a whole: what trials share runs once."""

    num_trials: int
    """Recipes times seeds times points of the axes."""
    num_stages: int
    """Distinct stages."""
    num_alone: int
    """Stages that the trials would run if each ran alone."""
    kinds: list[KindPlan]
    """The stages by kind, in the order of the work."""
    encoder_tokens: float | None
    """Estimate of the tokens through the encoder of all distinct stages; null where the model's sizes are not known."""
    encoder_tokens_alone: float | None
    """The same for every trial alone."""
    seconds: float | None
    """Estimate of the time of all distinct stages, one after the other; null unless `execution.use_gpu=true`."""
    seconds_alone: float | None
    """The same for every trial alone."""
    state_token_share: float | None
    """Share of the states in the tokens of the data's states and actions, counted in the trajectory store; null before that is finished."""


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
    grid: GridPlan | None
    """Trials and what they share; null with `--without-data`."""
    gpu: GpuEstimate | None
    """Memory and time; null unless `execution.use_gpu=true`."""
    latents: LatentEstimate
    """Bytes of the latent stores."""
    changed_actions: ChangedActionEstimate | None
    """Upper bounds of the action texts with other doses; null without `evaluation.drift.dose_factor`."""
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
        ConfigError: A task or recipe is not there, a recipe's own term fails, or a model's sizes are not known.
    """
    check_own_terms(config)
    experiment = None if without_data else plan_experiment(config, remember=False)
    stages = _stage_plans(config, experiment) if experiment else []
    others = [stage.label for stage in stages if stage.other_code]
    storage = Folder(config.storage).address
    return PlanRecord(
        schema_version=PLAN_SCHEMA_VERSION,
        name=config.name,
        storage=storage,
        stages=stages,
        grid=_grid_plan(config, experiment, stages) if experiment else None,
        gpu=gpu_estimate(largest_point(config, experiment), experiment) if config.execution.use_gpu else None,
        latents=latent_estimate(config, experiment),
        changed_actions=changed_action_estimate(config, experiment),
        refusals=_refusals(config),
        warnings=warnings(config),
        other_code=other_code_line(others, len(stages), storage) if others else None,
    )


def _stage_plans(config: Config, experiment: Experiment) -> list[StagePlan]:
    """One row per stage. One listing per kind finds the folders that exist, so a large grid that has not begun costs no request a stage."""
    storage = Folder(config.storage)
    there = {kind: set(storage.names(f"artifacts/{kind}")) for kind in {stage.kind for stage in experiment.stages}}
    names = {trial.name: TrialName(name=trial.name, recipe=trial.recipe, seed=trial.seed) for trial in experiment.trials}
    users = {key: [names[trial.name] for trial in trials] for key, trials in experiment.users.items()}
    return [
        _stage_plan(
            Artifact.at(storage, stage.kind, stage.key) if stage.key in there[stage.kind] else None, stage, users.get(stage.key, [])
        )
        for stage in experiment.stages
    ]


def _stage_plan(artifact: Artifact | None, stage: Stage, used_by: list[TrialName]) -> StagePlan:
    """artifact: None where the stage has no folder yet."""
    state: State = "to do"
    seconds, other_code, damage = None, False, None
    if artifact is not None and artifact.is_complete():
        try:
            manifest = artifact.verify()
            state, seconds, other_code = "done", manifest["seconds"], by_other_code(manifest)
        except StoreError as error:
            state, damage = "damaged", str(error)
    elif artifact is not None and artifact.folder.exists("checkpoints"):
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
        used_by=used_by,
    )


def _grid_plan(config: Config, experiment: Experiment, stages: list[StagePlan]) -> GridPlan:
    kinds: dict[str, tuple[int, int, int]] = {}
    for stage in stages:
        alone = max(1, len(stage.used_by)) if stage.kind != "baselines" else len(experiment.trials)
        count, all_alone, done = kinds.get(stage.kind, (0, 0, 0))
        kinds[stage.kind] = (count + 1, all_alone + alone, done + (stage.state == "done"))
    costs = grid_costs(config, experiment)
    return GridPlan(
        num_trials=len(experiment.trials),
        num_stages=len(stages),
        num_alone=sum(alone for _, alone, _ in kinds.values()),
        kinds=[KindPlan(kind=kind, num_stages=count, num_alone=alone, num_done=done) for kind, (count, alone, done) in kinds.items()],
        encoder_tokens=costs.tokens if costs else None,
        encoder_tokens_alone=costs.tokens_alone if costs else None,
        seconds=costs.seconds if costs and config.execution.use_gpu else None,
        seconds_alone=costs.seconds_alone if costs and config.execution.use_gpu else None,
        state_token_share=costs.state_token_share if costs else None,
    )


def _refusals(config: Config) -> list[str]:
    try:
        check_workers(config)
    except ConfigError as refusal:
        return [str(refusal)]
    return []
