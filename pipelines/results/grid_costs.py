"""What a grid will cost, and what its trials would cost if each ran alone: tokens through the encoder and time, by arithmetic.

A stage that several trials use counts once for the grid and once for every trial alone. Formulas: `clinjepa/capacity/duration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from clinjepa.capacity.advice import peak_bytes
from clinjepa.capacity.duration import PhaseTime, TextFigures, run_times
from clinjepa.capacity.memory import RunSizes
from clinjepa.capacity.model_sizes import known_gpus
from clinjepa.config import Config
from clinjepa.curriculum.recipes import Recipe
from clinjepa.errors import ConfigError
from pipelines.graph.data_sizes import data_sizes
from pipelines.graph.estimates import architecture, text_sizes
from pipelines.graph.experiment import Experiment
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial


@dataclass(frozen=True)
class GridCosts:
    """Sums over the distinct stages of a grid, and over those of every trial alone."""

    tokens: float
    tokens_alone: float
    seconds: float
    """One stage after the other on `execution.gpu_kind`."""
    seconds_alone: float
    state_token_share: float | None
    """Counted in the trajectory store; None before it is finished."""


def grid_costs(config: Config, experiment: Experiment) -> GridCosts | None:
    """The costs of a grid; None where the sizes of the encoder's model are not known. Raises SourceError: the source cannot be read."""
    texts = text_sizes(config, experiment, data_sizes(config, experiment))
    recipes = {recipe.name: recipe for recipe in experiment.recipes}
    once: dict[str, PhaseTime] = {}
    alone: list[PhaseTime] = []
    times: dict[tuple[str, str], list[PhaseTime]] = {}
    for trial in experiment.trials:
        point = trial.recipe, trial.point.name
        try:
            if point not in times:
                times[point] = _times(trial.point.config, recipes[trial.recipe], texts)
        except ConfigError:
            return None
        own = dict(zip((stage.key for stage in costly_stages(trial, recipes[trial.recipe])), times[point], strict=True))
        alone += own.values()
        once |= own
    share = texts.tokens_per_state / texts.tokens_per_hour if texts.measured else None
    return GridCosts(
        tokens=sum(each.encoder_tokens for each in once.values()),
        tokens_alone=sum(each.encoder_tokens for each in alone),
        seconds=sum(each.seconds for each in once.values()),
        seconds_alone=sum(each.seconds for each in alone),
        state_token_share=share,
    )


def costly_stages(trial: Trial, recipe: Recipe) -> list[Stage]:
    """SFT, latent stores and phases of a trial in the order of `run_order`: each store before the first phase that reads it."""
    found: dict[str, Stage] = {}
    first = trial.phases[0]
    start = first.inputs["base"] if first.inputs["base"].kind == "sft" else first.inputs.get("encoder")
    if start is not None and recipe.encoder_start == "sft":  # the SFT of a run that is continued was paid there
        found[start.key] = start
    for stage in trial.phases:
        if "latents" in stage.inputs:
            found[stage.inputs["latents"].key] = stage.inputs["latents"]
        if stage.kind == "phase":
            found[stage.key] = stage
    found[trial.embed.key] = trial.embed
    return list(found.values())


def largest_point(config: Config, experiment: Experiment | None) -> Config:
    """The configuration of the grid's point that needs most memory per GPU; `config` itself where there are no axes."""
    points = {trial.point.name: trial.point.config for trial in experiment.trials} if experiment else {}
    if experiment is None or len(points) < 2:
        return config
    return max(points.values(), key=lambda point: max(peak_bytes(_sizes(point), recipe) for recipe in experiment.recipes))


def _sizes(config: Config) -> RunSizes:
    memory = config.execution.gpu_memory_gb or known_gpus()[config.execution.gpu_kind]["memory_gib"]
    return RunSizes.from_settings(architecture(config), config.model_dump(mode="json"), memory)


def _times(config: Config, recipe: Recipe, texts: TextFigures) -> list[PhaseTime]:
    sections = config.model_dump(mode="json")
    gpu = known_gpus()[config.execution.gpu_kind]
    return run_times(_sizes(config), recipe, texts, sections, config.execution.gpu_tflops or gpu["bf16_tflops"], gpu["fp32_tflops"])
