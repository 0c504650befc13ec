"""The stage graph of an experiment, computed from its configuration without running anything.

A stage is a pure function of its key: kind and format version, the settings that change results, the keys of its inputs.
Equal prefixes of recipes have equal keys, so they are one stage. Keys are per part: a phase that does not train the encoder
passes the earlier encoder stage on, so recipes that end with the same encoder share its latent store.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from typing import Any

from clinjepa.clinical import list_tasks
from clinjepa.config import Config, result_fields
from clinjepa.curriculum.recipes import Recipe, load_recipe, phase_steps
from clinjepa.errors import ConfigError
from clinjepa.sources import SOURCES
from clinjepa.sources.extraction import has_extractions
from pipelines.artifacts import content_key

FORMAT_VERSIONS = {
    "extract": 2,
    "ingest": 5,
    "tokenizer": 1,
    "trajectories": 2,
    "labels": 3,
    "base": 1,
    "sft": 3,
    "embed": 2,
    "phase": 3,
    "sync": 1,
    "roundtrip": 1,
    "drift": 1,
    "geometry": 2,
    "downstream": 1,
    "baselines": 2,
}
"""Raised when the content of a kind of artifact changes for the same settings."""


@dataclass(eq=False)
class Stage:
    """One unit of cluster work."""

    kind: str
    label: str
    """What the user reads; the one field that is no part of the key."""

    settings: dict[str, Any]
    inputs: dict[str, Stage] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        return content_key(
            {
                "kind": self.kind,
                "format": FORMAT_VERSIONS[self.kind],
                "settings": self.settings,
                "inputs": {name: stage.key for name, stage in sorted(self.inputs.items())},
            }
        )

    @cached_property
    def depth(self) -> int:
        """Stages on the longest way from the data to here."""
        return 1 + max((stage.depth for stage in self.inputs.values()), default=0)

    def closure(self) -> list[Stage]:
        """This stage and all it needs, inputs first, each key once."""
        seen: dict[str, Stage] = {}

        def visit(stage: Stage) -> None:
            if stage.key in seen:
                return
            for upstream in stage.inputs.values():
                visit(upstream)
            seen[stage.key] = stage

        visit(self)
        return list(seen.values())


@dataclass(frozen=True)
class Trial:
    """One recipe with one seed: its phases in order and what judges them."""

    recipe: str
    seed: int
    phases: tuple[Stage, ...]
    final_encoder: Stage
    embed: Stage
    evaluations: dict[str, Stage]

    @property
    def stages(self) -> list[Stage]:
        seen: dict[str, Stage] = {}
        for last in (*self.phases, *self.evaluations.values()):
            seen.update({stage.key: stage for stage in last.closure()})
        return list(seen.values())


@dataclass(frozen=True)
class Experiment:
    """Everything a configuration asks for."""

    ingest: Stage
    trajectories: Stage
    labels: Stage
    baselines: Stage
    trials: tuple[Trial, ...]

    def trial(self, recipe: str, seed: int) -> Trial:
        return next(t for t in self.trials if (t.recipe, t.seed) == (recipe, seed))

    @property
    def data_stages(self) -> list[Stage]:
        return [*self.trajectories.closure(), self.labels]

    @property
    def stages(self) -> list[Stage]:
        seen: dict[str, Stage] = {stage.key: stage for stage in (*self.data_stages, self.baselines)}
        for trial in self.trials:
            seen.update({stage.key: stage for stage in trial.stages})
        return sorted(seen.values(), key=lambda stage: stage.depth)


def build_experiment(config: Config, source_digest: str) -> Experiment:
    """The graph for every recipe and seed of `config.grid`. `source_digest`: content digest of the source's files.

    Raises ConfigError for a task or recipe that is not there, and for shares that do not fit a recipe.
    """
    source = result_fields(config.source)
    if config.source.kind != "simulator":
        del source["simulator"]
    source = source | {"digest": source_digest}
    extracted = {name: value for name, value in source.items() if name != "event_time"}  # both times are in what is extracted
    extract = Stage("extract", "extract", {"source": extracted, "definitions": _definitions_digest("variables.yaml", "maps")})
    ingest = Stage(
        "ingest",
        "ingest",
        {
            "source": source,
            "cohort": result_fields(config.cohort),
            "split": result_fields(config.split),
            "text": result_fields(config.text),
            "definitions": _definitions_digest("variables.yaml", "exclusions.yaml", "cohorts.yaml", "maps"),
        },
        {"extract": extract} if has_extractions(SOURCES[config.source.kind]) else {},
    )
    tokenizer = Stage("tokenizer", "tokenizer", _tokenizer_settings(config), {"ingest": ingest})
    trajectories = Stage(
        "trajectories",
        "trajectories",
        {"windows": result_fields(config.windows), "max_tokens": config.tokenizer.max_tokens},
        {"ingest": ingest, "tokenizer": tokenizer},
    )
    downstream = config.evaluation.downstream
    for key, names in (("evaluation.downstream.tasks", downstream.tasks), ("labels.tasks", config.labels.tasks or [])):
        unknown = sorted(set(names) - set(list_tasks()))
        if unknown:
            raise ConfigError(f"{key} names {', '.join(unknown)}, which is no task; docs/tasks.md lists them all")
    tasks = sorted(set(downstream.tasks) | set(list_tasks() if config.labels.tasks is None else config.labels.tasks))
    labels = Stage(
        "labels",
        "labels",
        {
            "tasks": tasks,
            "stay_prediction_hour": downstream.stay_prediction_hour,
            "definitions": _definitions_digest("derived", *(f"tasks/{name}.yaml" for name in tasks)),
        },
        {"ingest": ingest},
    )
    baselines = Stage("baselines", "gradient boosting", _downstream_settings(config), {"ingest": ingest, "labels": labels})
    builder = _TrialBuilder(config, ingest, tokenizer, trajectories, labels)
    trials = tuple(builder.trial(load_recipe(name), seed) for seed in config.grid.seeds for name in config.grid.recipes)
    _name_users(trials, len(config.grid.seeds) > 1)
    return Experiment(ingest, trajectories, labels, baselines, trials)


def _name_users(trials: tuple[Trial, ...], several_seeds: bool) -> None:
    """Add to each stage's label the recipe (and seed) it belongs to, where it belongs to one."""
    users: dict[str, set[tuple[str, int]]] = {}
    for trial in trials:
        for stage in trial.stages:
            users.setdefault(stage.key, set()).add((trial.recipe, trial.seed))
    everyone = {(trial.recipe, trial.seed) for trial in trials}
    for key, stage in {stage.key: stage for trial in trials for stage in trial.stages}.items():
        own = users[key]
        if own == everyone:
            continue
        recipes, seeds = {recipe for recipe, _ in own}, {seed for _, seed in own}
        if len(recipes) == 1:
            stage.label += f" · {next(iter(recipes))}"
        if several_seeds and len(seeds) == 1:
            stage.label += f" · seed {next(iter(seeds))}"


class _TrialBuilder:
    def __init__(self, config: Config, ingest: Stage, tokenizer: Stage, trajectories: Stage, labels: Stage) -> None:
        self.config = config
        self.ingest, self.tokenizer, self.trajectories, self.labels = ingest, tokenizer, trajectories, labels
        encoder = result_fields(config.encoder)
        self.encoder = encoder
        self.reading = {name: encoder[name] for name in ("latent_from", "append_eos", "dtype", "token_budget")}
        self.architecture = {name: value for name, value in encoder.items() if name not in (*self.reading, "adaptation", "lora")} | {
            "dtype": encoder["dtype"]
        }

        self._pool: dict[str, Stage] = {}

    def _stage(self, kind: str, label: str, settings: dict[str, Any], inputs: dict[str, Stage]) -> Stage:
        """The stage with that content: equal ones of several trials are one object."""
        stage = Stage(kind, label, settings, inputs)
        return self._pool.setdefault(stage.key, stage)

    def trial(self, recipe: Recipe, seed: int) -> Trial:
        base, encoder = self._start(recipe, seed)
        steps = phase_steps(recipe, result_fields(self.config.curriculum))
        total = sum(steps)
        first = 0
        done: list[Stage] = []
        predictor: Stage | None = None
        target: Stage | None = None
        for phase, num_steps in zip(recipe.phases, steps, strict=True):
            name = phase.name
            if phase.trains == "nothing":
                if encoder is None or target is None:
                    raise ValueError(f"recipe {recipe.name}: {phase.name} has no target to synchronise")
                stage = self._stage(
                    "sync",
                    name,
                    {"phase": {part: value for part, value in phase.to_dict().items() if part != "shares"}},
                    {"online": encoder, "target": target, "after": done[-1], "base": base, "trajectories": self.trajectories},
                )
                target = stage
            else:
                inputs = {"trajectories": self.trajectories, "base": base}
                if phase.trains == "predictor":
                    inputs["latents"] = self._embed(base, encoder)
                optional = {"encoder": encoder, "target": target if phase.target == "ema" else None, "predictor": predictor}
                inputs |= {part: stage for part, stage in optional.items() if stage is not None}
                if done and done[-1].kind == "sync":
                    inputs["after"] = done[-1]
                stage = self._stage("phase", name, self._phase_settings(phase.to_dict(), num_steps, first, total, seed), inputs)
                predictor = stage
                if phase.trains == "both":
                    encoder = target = stage
                elif phase.ema_moves:
                    target = stage
            done.append(stage)
            first += num_steps
        if predictor is None:
            raise ValueError(f"recipe {recipe.name} trains no predictor")
        embed = self._embed(base, encoder)
        return Trial(recipe.name, seed, tuple(done), encoder or base, embed, self._evaluations(embed, predictor))

    def _start(self, recipe: Recipe, seed: int) -> tuple[Stage, Stage | None]:
        """The base and, where the base is a public model that SFT gave a LoRA, the stage that holds it."""
        base = self._stage("base", "base model", {"encoder": self.architecture, "seed": seed}, {"tokenizer": self.tokenizer})
        if recipe.encoder_start != "sft":
            return base, None
        settings = {"sft": result_fields(self.config.sft), "seed": seed}
        adapters = self.config.encoder.init == "pretrained" and self.config.encoder.adaptation == "lora"
        if adapters:
            settings["lora"] = self.encoder["lora"]
        sft = self._stage("sft", "SFT", settings, {"base": base, "trajectories": self.trajectories})
        return (base, sft) if adapters else (sft, None)

    def _embed(self, base: Stage, encoder: Stage | None) -> Stage:
        inputs = {"base": base, "trajectories": self.trajectories} | ({"encoder": encoder} if encoder else {})
        adaptation = {name: self.encoder[name] for name in ("adaptation", "lora")} if encoder else {}
        return self._stage("embed", "latents", self.reading | adaptation, inputs)

    def _phase_settings(self, phase: dict[str, Any], num_steps: int, first: int, total: int, seed: int) -> dict[str, Any]:
        curriculum = {name: value for name, value in result_fields(self.config.curriculum).items() if name not in ("num_steps", "shares")}
        phase = {name: value for name, value in phase.items() if name != "shares"}
        return {
            "phase": phase,
            "num_steps": num_steps,
            "first_step": first,
            "total_steps": total,
            "seed": seed,
            "curriculum": curriculum,
            "encoder": self.encoder,
            "predictor": result_fields(self.config.predictor),
        }

    def _evaluations(self, embed: Stage, predictor: Stage) -> dict[str, Stage]:
        evaluation = self.config.evaluation
        space = {"latents": embed, "ingest": self.ingest}
        return {
            "roundtrip": self._stage(
                "roundtrip", "round trip", {"split": evaluation.split, "num_hours": evaluation.num_roundtrip_hours}, space
            ),
            "drift": self._stage(
                "drift",
                "drift",
                {"split": evaluation.split, "drift": result_fields(evaluation.drift)},
                space | {"predictor": predictor},
            ),
            "geometry": self._stage(
                "geometry",
                "geometry",
                {"split": evaluation.split, "geometry": result_fields(evaluation.geometry)},
                space | {"labels": self.labels},
            ),
            "downstream": self._stage(
                "downstream",
                "downstream",
                _downstream_settings(self.config),
                space | {"labels": self.labels, "predictor": predictor},
            ),
        }


def _downstream_settings(config: Config) -> dict[str, Any]:
    return {"split": config.evaluation.split, "downstream": result_fields(config.evaluation.downstream)}


def _tokenizer_settings(config: Config) -> dict[str, Any]:
    if config.tokenizer.init == "train":
        return {"init": "train", "vocab_size": config.tokenizer.vocab_size}
    return {"init": "pretrained", "model": config.encoder.model, "revision": config.encoder.revision}


def _definitions_digest(*names: str) -> str:
    """Digest of clinical definition files, so that a changed definition makes a new key."""
    sha = hashlib.sha256()
    root = resources.files("clinjepa.clinical")
    for name in names:
        entry = root / name
        files = sorted(entry.iterdir(), key=lambda item: item.name) if entry.is_dir() else [entry]
        for file in files:
            if file.is_file() and file.name.endswith(".yaml"):
                sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:16]
