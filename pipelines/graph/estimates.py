"""What `clinjepa plan` says of a run's GPUs and storage: memory and time per phase, what to change when it does not fit, latents' bytes.

The arithmetic is in `clinjepa/capacity/memory.py` and `timing.py`; here the configuration goes in and tables come out.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from rich.table import Table

from clinjepa.capacity.duration import ASSUMED, PhaseTime, TextFigures, run_times, text_figures
from clinjepa.capacity.memory import ALLOWANCE, GIB, RunSizes, advice, peak_bytes, run_memory
from clinjepa.capacity.model_sizes import Architecture, known_gpus, known_model
from clinjepa.config import Config
from clinjepa.curriculum.recipes import Recipe, load_recipe
from clinjepa.errors import ClinJepaError, ConfigError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader
from pipelines.graph.artifacts import Artifact
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.stage import Stage

_TIGHT = 1 / 1.15
"""Above this share of the memory an estimate that is true to 15 % may be wrong about fitting."""


def gpu_budget(config: Config, experiment: Experiment | None) -> tuple[list[Table], list[str]]:
    """Tables and lines to print: of the grid's recipe that needs most memory, and a line on the others. experiment: None when its data
    cannot be read."""
    sections = config.model_dump(mode="json")
    execution = config.execution
    gpu = known_gpus()[execution.gpu_kind]
    memory = execution.gpu_memory_gb or gpu["memory_gib"]
    peak = execution.gpu_tflops or gpu["bf16_tflops"]
    recipes = list(map(load_recipe, config.grid.recipes))
    run = RunSizes.from_settings(_architecture(config), sections, memory)
    recipe = max(recipes, key=lambda each: peak_bytes(run, each))
    phases = run_memory(run, recipe)
    texts = _texts(config, experiment)

    def times_of(each: Recipe) -> list[PhaseTime]:
        return run_times(run, each, texts, sections, peak, gpu["fp32_tflops"])

    times = {each.name: each for each in times_of(recipe)}
    title = f"{execution.workers_in_words} x {execution.gpu_kind} ({memory:g} GiB): GiB per GPU and time, recipe {recipe.name} (estimates)"
    columns = ("phase", "encoder", "adapters", "predictor", "latents", "activations", "runtime", "total", "", "steps", "tokens", "time")
    table = Table(*columns, title=title)
    for phase in phases:
        parts = (phase.encoder, phase.trained, phase.predictor, phase.latents, phase.activations, ALLOWANCE, phase.total)
        time = times[phase.name]
        table.add_row(
            phase.name,
            *(f"{part / GIB:.2f}" if part else "-" for part in parts),
            _verdict(phase.total / GIB, memory),
            str(time.steps or ""),
            f"{time.encoder_tokens:.2g}" if time.encoder_tokens else "-",
            _duration(time.seconds),
        )
    total = sum(time.seconds for time in times.values())
    table.add_section()
    peak_gib = max(phase.total for phase in phases) / GIB
    table.add_row("together", *[""] * 6, f"{peak_gib:.2f}", "", str(config.curriculum.num_steps), "", _duration(total))
    source = "of the trajectory store" if texts.measured else "assumed, for there is no trajectory store yet"
    lines = [
        f"texts ({source}): {texts.hours_per_window:.1f} h a window, {texts.tokens_per_static:.0f} tokens a static text, "
        f"{texts.tokens_per_state:.0f} a state, {texts.tokens_per_action:.0f} an action, {texts.num_hours:,} hours in all",
        f"time: {peak:g} TFLOP/s bf16, {gpu['fp32_tflops']:g} fp32, at {execution.gpu_utilisation:.0%} of it (execution.gpu_utilisation); "
        "without start-up, reading and communication. Formulas: docs/scaling.md",
    ]
    others = [
        f"{each.name} {peak_bytes(run, each) / GIB:.2f} GiB, {_duration(sum(time.seconds for time in times_of(each)))}"
        for each in recipes
        if each != recipe
    ]
    if others:
        lines.append(f"other recipes, each alone: {'; '.join(others)}. What they share is trained once; further seeds come on top")
    if (pool := execution.embed_workers) < run.num_workers:
        lines.append(f"latent stores are filled by {pool} of {run.num_workers} GPUs (execution.embed_workers)")
    return [table], lines + _changes(run, recipes)


def latent_store_lines(config: Config, experiment: Experiment | None) -> list[str]:
    """Bytes of every latent store that the grid's recipes and seeds need, each once. experiment: None when its data cannot be read.

    Of the vectors alone until a store is there (a header of some kB a file comes on top), then of its files, from its manifest.
    """
    # What the data are changes keys, not how many stores there are.
    graph = experiment or build_experiment(config, "")
    stores = [stage for stage in graph.stages if stage.kind == "embed"]
    try:
        width = _architecture(config).hidden
    except ConfigError as unknown:
        return [f"latent stores: {len(stores)}, of unknown size: {unknown}"]
    value_bytes = 2 if config.encoder.dtype == "bfloat16" else 4
    num_latents, measured = _num_latents(config, experiment)
    expected = num_latents * width * value_bytes
    source = "the trajectory store's" if measured else "assumed, for there is no trajectory store yet"
    lines = [f"latent stores: {num_latents:,} vectors ({source}) x {width:,} x {value_bytes} B = {_gigabytes(expected)} each"]
    total = 0
    for stage in stores:
        written = _written_bytes(config, stage) if experiment else None
        total += expected if written is None else written
        encoder = stage.inputs.get("encoder", stage.inputs["base"]).label.split(" · ")[0]
        name = f"{stage.label} {stage.key[:8]}" if experiment else stage.label
        lines.append(f"  {name}, encoder of {encoder}: {_gigabytes(expected) + ' to write' if written is None else _gigabytes(written)}")
    return [*lines, f"  together: {_gigabytes(total)}"]


def _num_latents(config: Config, experiment: Experiment | None) -> tuple[int, bool]:
    """(vectors of a latent store, whether they were counted)."""
    artifact = _trajectories(config, experiment)
    if artifact is None:
        return ASSUMED.num_latents, False
    try:
        hours = TrajectoryReader(artifact.folder).stays["num_hours"].to_pylist()
    except ClinJepaError:
        return ASSUMED.num_latents, False
    return sum(2 * each + 1 for each in hours), True


def _written_bytes(config: Config, stage: Stage) -> int | None:
    """Bytes of a finished latent store's files; None when it is not finished."""
    artifact = Artifact.at(Folder(config.storage), stage.kind, stage.key)
    try:
        return int(artifact.manifest()["metrics"]["bytes"]) if artifact.is_complete() else None
    except (ClinJepaError, KeyError):
        return None  # damaged: the table of stages says so


def _gigabytes(count: int) -> str:
    return f"{count:,} B ({count / 1e9:.3g} GB)"


def _changes(run: RunSizes, recipes: list[Recipe]) -> list[str]:
    needed = advice(run, recipes)
    careful = [] if needed else advice(replace(run, gpu_memory_gib=run.gpu_memory_gib * _TIGHT), recipes)
    return [*(f"change: {line}" for line in needed), *(f"with room for an estimate 15 % too low: {line}" for line in careful)]


def _verdict(needed: float, there: float) -> str:
    if needed > there:
        return "TOO LARGE"
    return "tight" if needed > _TIGHT * there else "fits"


def _architecture(config: Config) -> Architecture:
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


def _texts(config: Config, experiment: Experiment | None) -> TextFigures:
    artifact = _trajectories(config, experiment)
    try:
        return ASSUMED if artifact is None else text_figures(TrajectoryReader(artifact.folder))
    except ClinJepaError:
        return ASSUMED


def _trajectories(config: Config, experiment: Experiment | None) -> Artifact | None:
    """The finished trajectory store, if there is one."""
    if experiment is None:
        return None
    artifact = Artifact.at(Folder(config.storage), experiment.trajectories.kind, experiment.trajectories.key)
    return artifact if artifact.is_complete() else None


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
