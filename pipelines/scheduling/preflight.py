"""May a run start? One check before the cluster (`check_before_cluster`) and one on it (`check_on_cluster`).

Loading a configuration already refuses what no command could work with. These checks look at what training needs, and at the model's
files, the storage, the source and the cluster, before hours are spent.
"""

from __future__ import annotations

import os

from clinjepa.config import Config, result_fields
from clinjepa.curriculum.jobs import alignment_shortfall
from clinjepa.curriculum.recipes import Budget, load_recipes
from clinjepa.curriculum.settings import CurriculumSettings
from clinjepa.errors import ConfigError, ResourceError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.graph.run_record import check_run_folder
from pipelines.graph.stage import GPU_KINDS, Stage
from pipelines.scheduling.locations import on_a_cluster
from pipelines.scheduling.progress import console
from pipelines.scheduling.supply import refuse_never, wait_for
from pipelines.scheduling.trackers import check_trackers

_LAYERS_MADE_HERE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_ENCODING = {"embed", "shifted_actions"}
"""Kinds of stages that start with one encoder worker."""


def check_before_cluster(config: Config, trains: bool = True, writes_report: bool = False) -> Experiment:
    """The stages of the experiment, after every check that needs no cluster; prints warnings on standard error.

    The cheap checks come first: workers, then the storage, then the source (which is read once for its digest), then the model.

    Args:
        config: The configuration, with absolute addresses.
        trains: False where only data stages run: the model and the workers are not looked at.
        writes_report: Also refuse a run folder of another schema version.

    Raises:
        ConfigError: More workers than micro-batches, a recipe's own term that fails, a model that is not there, adapters that match no
            layer, a tracker without address.
        StorageError: The storage cannot be reached or written.
        SourceError: The source's files cannot be read.
        StoreError: The run's folder has another schema version.
        CheckpointError: Results in storage are of another model of the same name.
    """
    if trains:
        check_workers(config)
        check_own_terms(config)
    check_storage(config)
    if writes_report:
        check_run_folder(config)
    experiment = plan_experiment(config)
    if trains:
        for point in {trial.point.name: trial.point.config for trial in experiment.trials}.values():
            check_workers(point)
        check_model(config, experiment)
        for line in warnings(config):
            console.print(f"warning: {line}", highlight=False, markup=False)
    return experiment


def check_storage(config: Config) -> None:
    """Refuse trackers that cannot be used and a storage that cannot be written. Raises ConfigError, StorageError."""
    check_trackers(config)
    Folder(config.storage).check_writable()


def check_workers(config: Config) -> None:
    """Raise ConfigError when there may be more workers than a step has micro-batches."""
    num_micro_batches = {"curriculum.micro_batch": _micro_batches(config)}
    if any(recipe.encoder_start == "sft" for recipe in load_recipes(config.grid.recipes)):
        num_micro_batches["sft.micro_tokens"] = -(-config.sft.tokens_per_step // config.sft.micro_tokens)
    for cut, available in num_micro_batches.items():
        if config.execution.max_workers > available:
            raise ConfigError(
                f"execution.num_workers: {config.execution.max_workers} workers would share {available} micro-batches of a step; "
                f"use at most {available} workers or lower {cut}"
            )


def check_own_terms(config: Config) -> None:
    """Raise ConfigError for a loss term from a recipe's own file that fails, or is NaN, on random latents."""
    recipes = [recipe for recipe in load_recipes(config.grid.recipes) if recipe.terms_source is not None]
    if recipes:
        from clinjepa.curriculum.steps.term_trial import try_own_terms

        for recipe in recipes:
            try_own_terms(recipe)


def warnings(config: Config) -> list[str]:
    """Settings that are allowed but will probably disappoint, each with its remedy. Needs no data."""
    lines = []
    settings = CurriculumSettings.from_section(result_fields(config.curriculum))
    budget = Budget.from_section(config.curriculum.model_dump())
    for recipe in load_recipes(config.grid.recipes):
        for phase, steps in zip(recipe.phases, budget.steps(recipe), strict=True):
            shortfall = alignment_shortfall(phase, steps, recipe.curriculum(settings, phase).ema_momentum)
            lines += [f"{recipe.name}, {shortfall}"] if shortfall else []
    num_workers, available = config.execution.max_workers, _micro_batches(config)
    if num_workers < available and available % num_workers:
        lines.append(
            f"curriculum.global_batch={config.curriculum.global_batch} is {available} micro-batches for {num_workers} workers; "
            "some will idle: change curriculum.micro_batch"
        )
    return lines


def _micro_batches(config: Config) -> int:
    """Micro-batches of one step of a phase."""
    return -(-config.curriculum.global_batch // config.curriculum.micro_batch)


def check_model(config: Config, experiment: Experiment) -> None:
    """Refuse a model that is missing or was replaced, and adapters that match no layer. Looks at this machine's files only.

    Raises:
        ConfigError: The model is not on this machine and may not be downloaded, or `encoder.lora.targets` match none of its layers.
        CheckpointError: Results in storage are of another model of the same name.
    """
    encoder = config.encoder
    if encoder.init == "config":
        if encoder.adaptation == "lora" and not _LAYERS_MADE_HERE.issuperset(encoder.lora.targets):
            unknown = ", ".join(sorted(set(encoder.lora.targets) - _LAYERS_MADE_HERE))
            raise ConfigError(
                f"encoder.lora.targets: {unknown} match no linear layer of this model; it has {', '.join(sorted(_LAYERS_MADE_HERE))}"
            )
        return
    from clinjepa.model.pretrained.adapters import check_targets
    from clinjepa.model.pretrained.base_model import check_content
    from clinjepa.model.pretrained.model_files import check_model_files
    from clinjepa.model.pretrained.weights import hollow_model, public_content

    # A cluster's machines may have a folder that this one lacks.
    if not on_a_cluster() or os.path.lexists(str(encoder.model)):
        check_model_files(str(encoder.model), encoder.revision)
    found = public_content(str(encoder.model), encoder.revision)
    if found is None:
        if not on_a_cluster() and not encoder.allow_download:
            raise ConfigError(
                f"encoder.model={encoder.model} (revision {encoder.revision}) is not on this machine, or has no safetensors; "
                "fetch it first, or set encoder.allow_download=true"
            )
        return
    for stage in experiment.stages:
        base = Artifact.at(Folder(config.storage), stage.kind, stage.key)
        if stage.kind == "base" and base.is_complete():
            check_content(str(encoder.model), base.folder.read_json("model.json").get("content"), found)
    if encoder.adaptation == "lora":
        import torch

        try:
            model = hollow_model(str(encoder.model), torch.bfloat16, revision=encoder.revision, local_files_only=True)
        except (OSError, ValueError):
            return  # a class that cannot be built without its weights; the workers check it
        check_targets(model, encoder.lora.targets)


def check_on_cluster(context: RunContext, stages: list[Stage]) -> None:
    """Wait until a joined cluster has a CPU, and the GPUs of a stage that can start at once; refuse what it cannot get.

    GPUs of later stages are not asked for yet, or they would stand idle meanwhile: each stage waits for its own
    (`supply.wait_for_stage`). On a cluster every worker also checks its own GPU (`pipelines/stages/ray_train.py`, `latents.py`).

    Args:
        context: The connected run.
        stages: The stages that will run, with all their inputs.

    Raises:
        ResourceError: This machine has too few GPUs or torch can use none of them; or the cluster's node groups have none, or it got none
            within `execution.wait_for_resources_minutes`.
    """
    execution = context.config.execution
    unfinished = [stage for stage in stages if not context.artifact(stage).is_complete()]
    with_gpu = {stage.kind for stage in unfinished}.intersection(GPU_KINDS) if execution.use_gpu else set()
    num_gpus = _num_gpus(with_gpu, execution.min_workers)
    if on_a_cluster():
        later = {"GPU": float(num_gpus)} if num_gpus else {}
        ready = {stage.kind for stage in unfinished if all(context.artifact(each).is_complete() for each in stage.inputs.values())}
        num_now = _num_gpus(with_gpu & ready, execution.min_workers)
        now = {"CPU": 1.0} if unfinished else {}
        refuse_never(later)
        wait_for(({"GPU": float(num_now)} if num_now else {}) | now, execution.wait_for_resources_minutes, _tell)
        return
    if num_gpus:
        _check_gpus_here(num_gpus, "one encoder worker" if with_gpu <= _ENCODING else "execution.num_workers")


def _num_gpus(kinds: set[str], min_workers: int) -> int:
    """GPUs with which stages of these kinds can start."""
    return 0 if not kinds else 1 if kinds <= _ENCODING else min_workers


def _check_gpus_here(needed: int, asks: str) -> None:
    """Raise ResourceError where this machine has fewer GPUs, or torch can use none."""
    import ray  # here, so that `clinjepa plan` does not wait for the import

    there = int(ray.cluster_resources().get("GPU", 0))
    if there < needed:
        raise ResourceError(
            f"execution.use_gpu=true: {needed} GPUs are needed ({asks}), this machine has {there}; lower execution.num_workers, "
            "or set execution.use_gpu=false"
        )
    from clinjepa.curriculum.workers.dist import require_gpu

    require_gpu()


def _tell(line: str) -> None:
    console.print(line, highlight=False, markup=False)
