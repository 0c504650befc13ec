"""What `clinjepa plan` estimates: memory and time per phase on a kind of GPU, what to change when it does not fit, bytes of latents.

The arithmetic is in `clinjepa/capacity/memory.py` and `duration.py`; this module hands them the configuration and, where it is there,
the trajectory store. The records are pydantic models because `plan --json` prints them and `docs/commands.md` describes their fields.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from clinjepa.capacity.advice import advice, peak_bytes
from clinjepa.capacity.duration import ASSUMED, PhaseTime, TextFigures, run_times, text_figures
from clinjepa.capacity.memory import ALLOWANCE, GIB, PhaseMemory, RunSizes, run_memory
from clinjepa.capacity.model_sizes import Architecture, known_gpus, known_model
from clinjepa.config import Config
from clinjepa.curriculum.recipes import Recipe, load_recipes
from clinjepa.errors import ClinJepaError, ConfigError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import Artifact
from pipelines.graph.data_sizes import DataSizes, data_sizes, trajectory_store
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import read_start
from pipelines.graph.stage import Stage

_TIGHT = 1 / 1.15
"""Memory estimates are within 15 % of measured peaks; above this share of a GPU's memory that error decides whether a phase fits."""


class PlanPart(BaseModel):
    """A record of `clinjepa plan --json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PhaseEstimate(PlanPart):
    """One training phase or pass of the encoder: bytes per GPU, and time."""

    name: str
    """Name of the phase in its recipe; `sft` and `embed…` are the stages outside the recipe's phases."""
    encoder_bytes: int
    """Weights of the base model: this worker's shard and what is gathered of it at a time."""
    adapter_bytes: int
    """Trained encoder weights and their EMA target, with gradients and optimizer moments."""
    predictor_bytes: int
    """Predictor with gradients and optimizer moments."""
    latent_bytes: int
    """Latents of a micro-batch."""
    activation_bytes: int
    """Largest simultaneous activations."""
    runtime_bytes: int
    """Allowance for CUDA, libraries and fragmentation."""
    total_bytes: int
    """Sum of the fields above."""
    verdict: Literal["fits", "tight", "too large"]
    """`tight`: an estimate 15 % too low would not fit."""
    steps: int
    """Optimizer steps; 0 for a pass without training."""
    encoder_tokens: float
    """Tokens through the encoder; a token that passes twice counts twice."""
    seconds: float
    """Time of this phase alone."""


class RecipeEstimate(PlanPart):
    """Another recipe of the grid, each planned alone."""

    recipe: str
    """Name of the recipe."""
    peak_bytes: int
    """Bytes per GPU of its largest phase."""
    seconds: float
    """Time of all its phases."""


class TextEstimate(PlanPart):
    """The texts that the times are computed from."""

    measured: bool
    """True: counted in the trajectory store; false: lengths of texts are assumed, in the order of MIMIC-IV."""
    hours_per_window: float
    """Mean hours of a training window."""
    tokens_per_static: float
    """Mean tokens of a static text."""
    tokens_per_state: float
    """Mean tokens of an hour's state text."""
    tokens_per_action: float
    """Mean tokens of an hour's action text."""
    num_hours: int
    """Hours of all stays; the upper end of the range where they are not counted. Times are computed with it."""
    least_hours: int
    """The lower end of the range; equal to `num_hours` where they are counted."""
    basis: str
    """What the number of hours comes from."""


class GpuEstimate(PlanPart):
    """Memory and time on `execution.gpu_kind`, of the recipe that needs most memory."""

    workers: str
    """Number of workers, for example `8` or `2 to 8`; memory and time are those of the fewest."""
    gpu_kind: str
    """`execution.gpu_kind`."""
    memory_gib: float
    """Memory of one GPU in GiB."""
    bf16_tflops: float
    """Peak of matrix products in bf16, TFLOP/s."""
    fp32_tflops: float
    """Peak in fp32, TFLOP/s."""
    utilisation: float
    """Share of the peak that is reached (`execution.gpu_utilisation`)."""
    recipe: str
    """Name of the recipe that needs most memory."""
    phases: list[PhaseEstimate]
    """Its phases in order."""
    peak_bytes: int
    """Bytes per GPU of its largest phase."""
    seconds: float
    """Time of all its phases."""
    num_steps: int
    """Optimizer steps of the curriculum."""
    texts: TextEstimate
    """What the times are computed from."""
    other_recipes: list[RecipeEstimate]
    """The grid's other recipes."""
    embed_workers: int
    """GPUs that fill latent stores (`execution.embed_workers`)."""
    num_workers: int
    """GPUs that train."""
    changes: list[str]
    """What to change so that every recipe fits, best first; empty when all fit."""
    changes_for_room: list[str]
    """What to change so that every recipe fits even when the estimate is 15 % too low; empty where `changes` is not."""


class LatentStoreEstimate(PlanPart):
    """One latent store of the grid."""

    label: str
    """Label of its stage."""
    key: str | None
    """Key of its stage; null while the source is not read."""
    encoder: str
    """Label of the stage that made its encoder."""
    num_bytes: int
    """Bytes of its files when it is written, else of its vectors."""
    written: bool
    """True when the store is finished."""


class LatentEstimate(PlanPart):
    """Bytes of every latent store that the grid needs, equal stores once."""

    unknown: str | None
    """Why the sizes are not known; null when they are."""
    num_stores: int
    """Number of stores."""
    num_vectors: int
    """Vectors of one store: a state and an action for each hour, a static text for each stay; the upper end of the range."""
    least_vectors: int
    """The lower end of the range; equal to `num_vectors` where they are counted."""
    measured: bool
    """True: counted in the trajectory store or in the data card of a finished ingest."""
    basis: str
    """What the number of vectors comes from."""
    width: int
    """Values of a vector."""
    value_bytes: int
    """Bytes of a value."""
    bytes_each: int
    """num_vectors * width * value_bytes; a header of some kB a file is not counted."""
    least_bytes_each: int
    """least_vectors * width * value_bytes."""
    stores: list[LatentStoreEstimate]
    """The stores."""
    total_bytes: int
    """Sum over the stores."""
    least_total_bytes: int
    """Sum over the stores, with `least_bytes_each` for those that are not written."""


def gpu_estimate(config: Config, experiment: Experiment | None) -> GpuEstimate:
    """Memory and time of the grid's recipes on the configured GPUs.

    Args:
        config: The configuration.
        experiment: Its stages, whose trajectory store gives the texts' sizes; None when the source was not read.

    Raises:
        ConfigError: The sizes of the encoder's model are not known.
    """
    sections = config.model_dump(mode="json")
    execution = config.execution
    gpu = known_gpus()[execution.gpu_kind]
    memory = execution.gpu_memory_gb or gpu["memory_gib"]
    peak = execution.gpu_tflops or gpu["bf16_tflops"]
    recipes = load_recipes(config.grid.recipes)
    run = RunSizes.from_settings(architecture(config), sections, memory)
    sizes = data_sizes(config, experiment)
    texts = text_sizes(config, experiment, sizes)

    def times_of(each: Recipe) -> list[PhaseTime]:
        return run_times(run, each, texts, sections, peak, gpu["fp32_tflops"])

    largest = max(recipes, key=lambda each: peak_bytes(run, each))
    times = {each.name: each for each in times_of(largest)}
    phases = [_phase_estimate(phase, times[phase.name], memory) for phase in run_memory(run, largest)]
    changes = advice(run, recipes)
    return GpuEstimate(
        workers=execution.workers_in_words,
        gpu_kind=execution.gpu_kind,
        memory_gib=memory,
        bf16_tflops=peak,
        fp32_tflops=gpu["fp32_tflops"],
        utilisation=execution.gpu_utilisation,
        recipe=largest.name,
        phases=phases,
        peak_bytes=max(phase.total_bytes for phase in phases),
        seconds=sum(time.seconds for time in times.values()),
        num_steps=config.curriculum.num_steps,
        texts=TextEstimate(
            measured=texts.measured,
            hours_per_window=texts.hours_per_window,
            tokens_per_static=texts.tokens_per_static,
            tokens_per_state=texts.tokens_per_state,
            tokens_per_action=texts.tokens_per_action,
            num_hours=texts.num_hours,
            least_hours=sizes.least_hours,
            basis=sizes.basis,
        ),
        other_recipes=[
            RecipeEstimate(recipe=each.name, peak_bytes=peak_bytes(run, each), seconds=sum(time.seconds for time in times_of(each)))
            for each in recipes
            if each != largest
        ],
        embed_workers=execution.embed_workers,
        num_workers=run.num_workers,
        changes=changes,
        changes_for_room=[] if changes else advice(replace(run, gpu_memory_gib=run.gpu_memory_gib * _TIGHT), recipes),
    )


def _phase_estimate(memory: PhaseMemory, time: PhaseTime, gpu_memory_gib: float) -> PhaseEstimate:
    needed = memory.total / GIB
    verdict: Literal["fits", "tight", "too large"] = "fits"
    if needed > gpu_memory_gib:
        verdict = "too large"
    elif needed > _TIGHT * gpu_memory_gib:
        verdict = "tight"
    return PhaseEstimate(
        name=memory.name,
        encoder_bytes=memory.encoder,
        adapter_bytes=memory.trained,
        predictor_bytes=memory.predictor,
        latent_bytes=memory.latents,
        activation_bytes=memory.activations,
        runtime_bytes=ALLOWANCE,
        total_bytes=memory.total,
        verdict=verdict,
        steps=time.steps,
        encoder_tokens=time.encoder_tokens,
        seconds=time.seconds,
    )


def latent_estimate(config: Config, experiment: Experiment | None) -> LatentEstimate:
    """Bytes of every latent store: of its vectors until the store is finished, then of its files.

    Args:
        config: The configuration.
        experiment: Its stages; None when the source was not read.

    Raises:
        ConfigError: As `build_experiment`.
    """
    graph = experiment or build_experiment(
        config, "", label_digests={}, start=read_start(config)
    )  # the source decides keys, not how many stores there are
    stages = [stage for stage in graph.stages if stage.kind == "embed"]
    sizes = data_sizes(config, experiment)
    value_bytes = 2 if config.encoder.dtype == "bfloat16" else 4
    unknown, width = None, 0
    try:
        width = architecture(config).hidden
    except ConfigError as error:
        unknown = str(error)
    each, least = (number * width * value_bytes for number in (sizes.most_latents, sizes.least_latents))
    stores = [] if unknown else [_store_estimate(config, stage, each, experiment is not None) for stage in stages]
    return LatentEstimate(
        unknown=unknown,
        num_stores=len(stages),
        num_vectors=sizes.most_latents,
        least_vectors=sizes.least_latents,
        measured=sizes.counted,
        basis=sizes.basis,
        width=width,
        value_bytes=value_bytes,
        bytes_each=each,
        least_bytes_each=least,
        stores=stores,
        total_bytes=sum(store.num_bytes for store in stores),
        least_total_bytes=sum(store.num_bytes if store.written else least for store in stores),
    )


def _store_estimate(config: Config, stage: Stage, expected: int, keys_known: bool) -> LatentStoreEstimate:
    written = _written_bytes(config, stage) if keys_known else None
    return LatentStoreEstimate(
        label=stage.label,
        key=stage.key if keys_known else None,
        encoder=stage.inputs.get("encoder", stage.inputs["base"]).label.split(" · ")[0],
        num_bytes=expected if written is None else written,
        written=written is not None,
    )


def _written_bytes(config: Config, stage: Stage) -> int | None:
    """Bytes of a finished latent store's files; None when it is not finished, or damaged, which the table of stages shows."""
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    try:
        return int(artifact.manifest()["metrics"]["bytes"]) if artifact.is_complete() else None
    except (ClinJepaError, KeyError):
        return None


def architecture(config: Config) -> Architecture:
    """Sizes of the encoder's model. Raises ConfigError: they are not known here."""
    encoder = config.encoder
    if encoder.init == "config":
        return Architecture(
            hidden=encoder.hidden_size,
            layers=encoder.num_layers,
            heads=encoder.num_heads,
            kv_heads=encoder.num_kv_heads,
            head_dim=encoder.hidden_size // encoder.num_heads,
            ffn=encoder.ffn_size,
            vocab=config.tokenizer.vocab_size,
            tied=True,
        )
    name = str(encoder.model)
    found = _config_file(name, encoder.revision)
    if found is not None:
        return Architecture.from_config(json.loads(found.read_text(encoding="utf-8")))
    known = known_model(name)
    if known is None:
        raise ConfigError(f"the sizes of encoder.model={name} are not known here; fetch the model first, then plan again")
    return known


def _config_file(name: str, revision: str | None) -> Path | None:
    if (local := Path(name, "config.json")).is_file():
        return local
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def text_sizes(config: Config, experiment: Experiment | None, sizes: DataSizes) -> TextFigures:
    """Figures of the trajectory store; assumed lengths of texts and the upper end of `sizes` where it is not finished."""
    store = trajectory_store(config, experiment)
    with contextlib.suppress(ClinJepaError):
        if store is not None:
            return text_figures(TrajectoryReader(store.folder))
    return replace(ASSUMED, num_hours=sizes.most_hours, num_stays=sizes.most_stays)
