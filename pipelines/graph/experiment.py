"""The stage graph of an experiment, computed from its configuration without running anything."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from clinjepa.clinical import list_tasks
from clinjepa.config.schema import Config
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Recipe, load_recipes
from clinjepa.errors import ConfigError
from clinjepa.evaluation.settings import BaselineSettings
from clinjepa.sources import SOURCES
from clinjepa.sources.extraction import has_extractions
from clinjepa.storage.strays import is_stray
from clinjepa.trajectory.settings import IngestSettings, LabelSettings, TrajectorySettings, tokenizer_settings
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial, TrialBuilder

_INGESTED = ("variables.yaml", "exclusions.yaml", "cohorts.yaml", "maps")
"""Definitions that an ingest follows; texts with severity scores follow those of derived quantities too."""


@dataclass(frozen=True)
class Experiment:
    """Everything a configuration asks for."""

    ingest: Stage
    trajectories: Stage
    labels: Stage
    baselines: Stage
    trials: tuple[Trial, ...]
    recipes: tuple[Recipe, ...]
    """Of `grid.recipes`, in its order."""

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


def build_experiment(config: Config, source_digest: str, recipes: Sequence[Recipe] | None = None) -> Experiment:
    """The graph for every recipe and seed of `config.grid`.

    Args:
        config: the experiment.
        source_digest: content digest of the source's files.
        recipes: of `config.grid.recipes`; None reads them. A process on another machine gets them, since a user's files are not there.

    Raises:
        ConfigError: a task or recipe is not there, a recipe cannot work, or shares or weights do not fit it.
    """
    ingested = result_fields(IngestSettings.of(config))
    source = ingested["source"] | {"digest": source_digest}
    if config.source.kind != "simulator":
        del source["simulator"]
    extracted = {name: value for name, value in source.items() if name != "event_time"}  # both times are in what is extracted
    extract = Stage("extract", "extract", {"source": extracted, "definitions": _definitions_digest("variables.yaml", "maps")})
    scores = ["derived"] if "exclusions" in ingested["text"] else []
    ingest = Stage(
        "ingest",
        "ingest",
        ingested | {"source": source, "definitions": _definitions_digest(*_INGESTED, *scores)},
        {"extract": extract} if has_extractions(SOURCES[config.source.kind]) else {},
    )
    tokenizer = Stage("tokenizer", "tokenizer", result_fields(tokenizer_settings(config)), {"ingest": ingest})
    trajectories = Stage(
        "trajectories", "trajectories", result_fields(TrajectorySettings.of(config)), {"ingest": ingest, "tokenizer": tokenizer}
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
        result_fields(LabelSettings(tasks=tasks, stay_prediction_hour=downstream.stay_prediction_hour))
        | {"definitions": _definitions_digest("derived", *(f"tasks/{name}.yaml" for name in tasks))},
        {"ingest": ingest},
    )
    baselines = Stage("baselines", "baselines", result_fields(BaselineSettings.of(config)), {"ingest": ingest, "labels": labels})
    builder = TrialBuilder(config, ingest, tokenizer, trajectories, labels)
    recipes = tuple(load_recipes(config.grid.recipes) if recipes is None else recipes)
    _check_weights(config, recipes)
    trials = tuple(builder.trial(recipe, seed) for seed in config.grid.seeds for recipe in recipes)
    _name_users(trials, len(config.grid.seeds) > 1)
    return Experiment(ingest, trajectories, labels, baselines, trials, recipes)


def _check_weights(config: Config, recipes: Sequence[Recipe]) -> None:
    """Raise ConfigError for a weight of a loss term that no recipe has."""
    known = {term.name for recipe in recipes for phase in recipe.phases for term in phase.loss}
    if unknown := sorted(set(config.curriculum.term_weights) - known):
        raise ConfigError(
            f"curriculum.term_weights names {', '.join(unknown)}, which is no loss term of grid.recipes; "
            f"they have {', '.join(sorted(known))}"
        )


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


def _definitions_digest(*names: str) -> str:
    """Digest of clinical definition files, so that a changed definition makes a new key."""
    sha = hashlib.sha256()
    root = resources.files("clinjepa.clinical")
    for name in names:
        entry = root / name
        files = sorted(entry.iterdir(), key=lambda item: item.name) if entry.is_dir() else [entry]
        for file in files:
            if file.is_file() and file.name.endswith(".yaml") and not is_stray(file.name):
                sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:16]
