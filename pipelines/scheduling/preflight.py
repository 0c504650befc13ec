"""What can be known to be wrong before hours are spent: of the workers, the model that is adapted, the GPUs that training asks for.

What no command could work with is refused where the configuration is read; this is what training needs, and what takes a look at
the model's files, the storage or the cluster.
"""

from __future__ import annotations

import os

import ray

from clinjepa.config import Config, result_fields
from clinjepa.curriculum.jobs import alignment_shortfall
from clinjepa.curriculum.recipes import load_recipe, phase_steps
from clinjepa.errors import ConfigError, ResourceError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import RunContext
from pipelines.graph.experiment import Experiment
from pipelines.graph.stage import Stage
from pipelines.scheduling.locations import inside_job

_LAYERS_MADE_HERE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
_WITH_GPU = ("sft", "phase", "embed")


def check_workers(config: Config) -> None:
    """Raise ConfigError, before any work, when there may be more workers than micro-batches for them to share."""
    num_micro_batches = {"curriculum.micro_batch": _micro_batches(config)}
    if any(load_recipe(recipe).encoder_start == "sft" for recipe in config.grid.recipes):
        num_micro_batches["sft.micro_tokens"] = -(-config.sft.tokens_per_step // config.sft.micro_tokens)
    for cut, available in num_micro_batches.items():
        if config.execution.max_workers > available:
            raise ConfigError(
                f"execution.num_workers: {config.execution.max_workers} workers would share {available} micro-batches of a step; "
                f"use at most {available} workers or lower {cut}"
            )


def warnings(config: Config) -> list[str]:
    """What will probably not work as hoped, each with its remedy; known before the data are."""
    lines = []
    for recipe in map(load_recipe, config.grid.recipes):
        for phase, steps in zip(recipe.phases, phase_steps(recipe, result_fields(config.curriculum)), strict=True):
            shortfall = alignment_shortfall(phase, steps, config.curriculum.ema_momentum)
            lines += [f"{recipe.name}, {shortfall}"] if shortfall else []
    num_workers, available = config.execution.max_workers, _micro_batches(config)
    if num_workers < available and available % num_workers:
        lines.append(
            f"curriculum.global_batch={config.curriculum.global_batch} is {available} micro-batches for {num_workers} workers; "
            "some will idle: change curriculum.micro_batch"
        )
    return lines


def _micro_batches(config: Config) -> int:
    """Of a step of the phases."""
    return -(-config.curriculum.global_batch // config.curriculum.micro_batch)


def check_model(config: Config, experiment: Experiment) -> None:
    """Refuse a model that is not there or was replaced, and adapters that would go nowhere. What is on other machines is not looked at.

    Raises ConfigError, and CheckpointError when results in storage are of another model of the same name.
    """
    encoder = config.encoder
    if encoder.init == "config":
        if encoder.adaptation == "lora" and not _LAYERS_MADE_HERE.issuperset(encoder.lora.targets):
            unknown = ", ".join(sorted(set(encoder.lora.targets) - _LAYERS_MADE_HERE))
            raise ConfigError(
                f"encoder.lora.targets: {unknown} match no linear layer of this model; it has {', '.join(sorted(_LAYERS_MADE_HERE))}"
            )
        return
    from clinjepa.model.adapters import check_targets
    from clinjepa.model.base_model import check_content
    from clinjepa.model.weights import hollow_model, public_content

    found = public_content(str(encoder.model), encoder.revision)
    if found is None:
        if not _on_a_cluster() and not encoder.allow_download:
            raise ConfigError(
                f"encoder.model={encoder.model} (revision {encoder.revision}) is not on this machine, or has no safetensors; "
                "fetch it first, or set encoder.allow_download=true"
            )
        return
    for stage in experiment.stages:
        base = Artifact.at(Folder(config.storage), stage.kind, stage.key)
        if stage.kind == "base" and base.is_complete():
            check_content(encoder.model, base.folder.read_json("model.json").get("content"), found)
    if encoder.adaptation == "lora":
        import torch

        try:
            model = hollow_model(str(encoder.model), torch.bfloat16, revision=encoder.revision, local_files_only=True)
        except (OSError, ValueError):
            return  # a class that cannot be made without its weights; the workers see for themselves
        check_targets(model, encoder.lora.targets)


def check_gpus(context: RunContext, stages: list[Stage]) -> None:
    """Refuse to wait for GPUs that nobody has: raises ResourceError when what is to do asks for more than the cluster's, or when torch
    can use none of this machine's. On a cluster every worker looks for itself (`pipelines/stages/training.py`, `embed.py`).

    A cluster that grows is waited for: `execution.concurrent_gpus` says that it does.
    """
    execution = context.config.execution
    to_do = {stage.kind for stage in stages if stage.kind in _WITH_GPU and not context.artifact(stage).is_complete()}
    if not execution.use_gpu or not to_do or (_on_a_cluster() and execution.concurrent_gpus is not None):
        return
    needed = 1 if to_do == {"embed"} else execution.min_workers
    there = int(ray.cluster_resources().get("GPU", 0))
    if there < needed:
        asks = "one encoder worker" if to_do == {"embed"} else "execution.num_workers"
        raise ResourceError(
            f"execution.use_gpu=true: {needed} GPUs are needed ({asks}), "
            f"{'the cluster' if _on_a_cluster() else 'this machine'} has {there}; add GPU nodes, lower execution.num_workers, "
            "or set execution.use_gpu=false; if the cluster will grow, set execution.concurrent_gpus to what it may have"
        )
    if not _on_a_cluster():
        from clinjepa.curriculum.dist import require_gpu

        require_gpu()


def _on_a_cluster() -> bool:
    return inside_job() or bool(os.environ.get("RAY_ADDRESS"))
