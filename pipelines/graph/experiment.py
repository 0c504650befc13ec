"""The stage graph of an experiment, computed from its configuration without running anything."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from clinjepa.clinical import list_tasks
from clinjepa.config.axes import GridPoint, grid_points
from clinjepa.config.schema import Config, SourceConfig
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Recipe, load_recipes
from clinjepa.errors import ConfigError
from clinjepa.evaluation.settings import BaselineSettings
from clinjepa.sources import source_class
from clinjepa.sources.extraction import has_extractions
from clinjepa.trajectory import STORED_FORMAT
from clinjepa.trajectory.definitions import definitions_digest, ingest_definitions
from clinjepa.trajectory.labels.label_files import LabelFile
from clinjepa.trajectory.settings import GivenLabels, IngestSettings, LabelSettings, TrajectorySettings, tokenizer_settings
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import DataStages, Start, Trial, TrialBuilder


@dataclass(frozen=True)
class Experiment:
    """Everything a configuration asks for."""

    data: tuple[DataStages, ...]
    """Distinct data of the trials, that of the first trial first. More than one only where an axis changes data or labels."""

    trials: tuple[Trial, ...]
    recipes: tuple[Recipe, ...]
    """Of `grid.recipes`, in its order."""

    @property
    def ingest(self) -> Stage:
        return self.data[0].ingest

    @property
    def trajectories(self) -> Stage:
        return self.data[0].trajectories

    @property
    def labels(self) -> Stage:
        return self.data[0].labels

    @property
    def baselines(self) -> Stage:
        return self.data[0].baselines

    def trial(self, recipe: str, seed: int) -> Trial:
        """The first trial of a recipe and seed."""
        return next(t for t in self.trials if (t.recipe, t.seed) == (recipe, seed))

    @cached_property
    def data_stages(self) -> list[Stage]:
        """Inputs first."""
        return _distinct(stage for data in self.data for stage in data.stages)

    @cached_property
    def stages(self) -> list[Stage]:
        found = _distinct([*self.data_stages, *(data.baselines for data in self.data), *(s for trial in self.trials for s in trial.stages)])
        return sorted(found, key=lambda stage: stage.depth)

    @cached_property
    def users(self) -> dict[str, tuple[Trial, ...]]:
        """Key of a stage -> the trials that use it."""
        found: dict[str, list[Trial]] = {}
        for trial in self.trials:
            for stage in trial.stages:
                found.setdefault(stage.key, []).append(trial)
        return {key: tuple(trials) for key, trials in found.items()}


def build_experiment(
    config: Config,
    source_digest: str,
    recipes: Sequence[Recipe] | None = None,
    label_digests: Mapping[str, str] | None = None,
    start: Start | None = None,
) -> Experiment:
    """The graph for every recipe, seed and point of `config.grid`.

    Args:
        config: the experiment.
        source_digest: content digest of the source's files.
        recipes: of `config.grid.recipes`; None reads them. A process on another machine gets them, since a user's files are not there.
        label_digests: content digests of `labels.files` by task, likewise; a task that is not in it has an empty one.
        start: what `init_from` names (`saved_run.read_start`).

    Raises:
        SourceError: a label file cannot be read.
        ConfigError: a task or recipe is not there, a recipe cannot work, shares or weights do not fit it, an axis cannot be used
            (`grid_points`), two trials have the same key, or a recipe continues a run and there is no `start`.
    """
    recipes = tuple(load_recipes(config.grid.recipes) if recipes is None else recipes)
    points = grid_points(config)
    given = label_file_digests(config) if label_digests is None else label_digests
    stages = _Pool()
    data: dict[tuple[str, ...], DataStages] = {}
    trials: list[Trial] = []
    for point in points:
        _check_weights(point.config, recipes)
        made = _data_stages(point.config, source_digest, stages, start, given)
        own = data.setdefault(made.keys, made)
        builder = TrialBuilder(point.config, own, stages.of, point, start)
        trials += [builder.trial(recipe, seed) for seed in config.grid.seeds for recipe in recipes]
    _check_distinct(trials)
    _name_users(trials, points)
    return Experiment(tuple(data.values()), tuple(trials), recipes)


class _Pool:
    """The stages made so far: equal stages of several trials are one object."""

    def __init__(self) -> None:
        self._made: dict[str, Stage] = {}

    def of(self, stage: Stage) -> Stage:
        return self._made.setdefault(stage.key, stage)


def _data_stages(config: Config, source_digest: str, pool: _Pool, start: Start | None, given: Mapping[str, str]) -> DataStages:
    """given: content digests of `labels.files` by task."""
    ingested = result_fields(IngestSettings.of(config))
    source = ingested["source"] | {"digest": source_digest}
    if config.source.kind != "simulator":
        del source["simulator"]
    extracted = {name: value for name, value in source.items() if name != "event_time"}  # both times are in what is extracted
    extract = pool.of(Stage("extract", "extract", {"source": extracted, "definitions": extract_definitions()}))
    definitions = ingest_definitions(config.text)
    inputs = {"extract": extract} if has_extractions(source_class(config.source)) else {}
    settings = ingested | {"source": source, "definitions": definitions} | stored_format(config.source)
    ingest = pool.of(Stage("ingest", "ingest", settings, inputs))
    own = Stage("tokenizer", "tokenizer", result_fields(tokenizer_settings(config)), {"ingest": ingest})
    tokenizer = pool.of(own if start is None else start.tokenizer)
    read = {"ingest": ingest, "tokenizer": tokenizer}
    trajectories = pool.of(Stage("trajectories", "trajectories", result_fields(TrajectorySettings.of(config)), read))
    tasks = _tasks(config)
    files = {name: GivenLabels(column=file.column, digest=given.get(name, "")) for name, file in sorted(config.labels.files.items())}
    hour = config.evaluation.downstream.stay_prediction_hour
    asked = result_fields(LabelSettings(tasks=tasks, stay_prediction_hour=hour, files=files))
    definitions = definitions_digest("derived", *(f"tasks/{name}.yaml" for name in tasks))
    labels = pool.of(Stage("labels", "labels", asked | {"definitions": definitions}, {"ingest": ingest}))
    judged = result_fields(BaselineSettings.of(config))
    baselines = pool.of(Stage("baselines", "baselines", judged, {"ingest": ingest, "labels": labels}))
    return DataStages(ingest, tokenizer, trajectories, labels, baselines)


def stored_format(source: SourceConfig) -> dict[str, int]:
    """What the key of an ingest stage holds beside its format where texts go by the time of storage."""
    return {"stored_format": STORED_FORMAT} if source.event_time == "stored" else {}


def extract_definitions() -> str:
    """Digest of the definitions that an extraction follows."""
    return definitions_digest("variables.yaml", "maps")


def _tasks(config: Config) -> list[str]:
    """Names of all tasks that get labels by their definition. Raises ConfigError for a name that is no task, or two."""
    downstream, known, given = config.evaluation.downstream, list_tasks(), set(config.labels.files)
    if both := sorted(given & set(known)):
        raise ConfigError(
            f"labels.files names {', '.join(both)}, which has a definition (docs/tasks.md); give the file's task another name"
        )
    for key, names in (("evaluation.downstream.tasks", set(downstream.tasks) - given), ("labels.tasks", set(config.labels.tasks or []))):
        if unknown := sorted(names - set(known)):
            raise ConfigError(
                f"{key} names {', '.join(unknown)}, which is no task; docs/tasks.md lists them all, and labels.files adds tasks from files"
            )
    return sorted(set(downstream.tasks) - given | set(known if config.labels.tasks is None else config.labels.tasks))


def label_file_digests(config: Config) -> dict[str, str]:
    """Content digest of every label file by task. Raises SourceError where one cannot be read."""
    return {name: LabelFile(name, file.path, file.column).content_digest() for name, file in config.labels.files.items()}


def _check_weights(config: Config, recipes: Sequence[Recipe]) -> None:
    """Raise ConfigError for a weight of a loss term that no recipe has."""
    known = {term.name for recipe in recipes for phase in recipe.phases for term in phase.loss}
    if unknown := sorted(set(config.curriculum.term_weights) - known):
        near = difflib.get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"curriculum.term_weights (set itself or by an axis of grid.axes) names {', '.join(unknown)}, which is no loss term of "
            f"grid.recipes; {f'did you mean {near[0]}? ' if near else ''}they have {', '.join(sorted(known))}"
        )


def _check_distinct(trials: Sequence[Trial]) -> None:
    """Raise ConfigError when two trials have the same stages."""
    seen: dict[tuple[str, ...], Trial] = {}
    for trial in trials:
        other = seen.setdefault(trial.results, trial)
        if other is not trial:
            idle = [name for name, value in trial.point.values.items() if other.point.values.get(name) != value]
            recipes = f"recipe {trial.recipe}" if trial.recipe == other.recipe else f"recipes {other.recipe} and {trial.recipe}"
            what = f"{', '.join(idle)} changes nothing in {recipes}" if idle else f"{recipes} do the same"
            remedy = "take the recipe out of this grid" if idle else "take one of them out of grid.recipes"
            axis = ", or the axis out of grid.axes" if idle else ""
            raise ConfigError(f"grid: {other.name} and {trial.name} are one trial with the same key: {what}; {remedy}{axis}")


def _name_users(trials: Sequence[Trial], points: Sequence[GridPoint]) -> None:
    """Add to each stage's label the recipe, values of axes and seed it belongs to, where it belongs to one."""
    axes: list[Callable[[Trial], str]] = [_axis_words(name) for name in points[0].words]
    seed: Callable[[Trial], str] = lambda trial: f"seed {trial.seed}"  # noqa: E731
    recipe: Callable[[Trial], str] = lambda trial: trial.recipe  # noqa: E731
    users: dict[str, tuple[Stage, list[Trial]]] = {}
    for trial in trials:
        for stage in trial.stages:
            users.setdefault(stage.key, (stage, []))[1].append(trial)
    facets = [*axes, *([seed] if len({trial.seed for trial in trials}) > 1 else [])]
    for stage, own in users.values():
        if len(own) < len(trials):
            told = [{facet(trial) for trial in own} for facet in ([] if stage.kind in _DATA_KINDS else [recipe]) + facets]
            stage.label += "".join(f" · {next(iter(words))}" for words in told if len(words) == 1)
    for data in {id(trial.data): trial.data for trial in trials}.values():
        own = [trial for trial in trials if trial.data.baselines is data.baselines]
        if len(own) < len(trials) and " · " not in data.baselines.label:
            told = [{axis(trial) for trial in own} for axis in axes]
            data.baselines.label += "".join(f" · {next(iter(words))}" for words in told if len(words) == 1)


_DATA_KINDS = ("extract", "ingest", "tokenizer", "trajectories", "labels")


def _axis_words(name: str) -> Callable[[Trial], str]:
    return lambda trial: trial.point.words[name]


def _distinct(stages: Iterable[Stage]) -> list[Stage]:
    """Each key once, in the order of the first ones."""
    return list({stage.key: stage for stage in stages}.values())
