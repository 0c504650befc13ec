"""`clinjepa score`: a finished run on patients that it never saw."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from pipelines.terminal.arguments import Debug, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clinjepa.config import Config
    from clinjepa.config.schema import SourceConfig
    from clinjepa.storage import Folder
    from pipelines.graph.experiment import Experiment
    from pipelines.graph.saved_run import SavedRun
    from pipelines.graph.trial_stages import Trial


def score(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run: <storage>/runs/<name>.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings of the new source and of execution, for example source.time_zone=US/Central."),
    ] = None,
    source: Annotated[str, typer.Option(help="Format of the new data, as source.kind; the run's own by default.")] = "",
    path: Annotated[str, typer.Option(help="Where the new data are, as source.path.")] = "",
    name: Annotated[str, typer.Option(help="Name of the results, <storage>/runs/<name>; by default from the run's and the source's.")] = "",
    patients: Annotated[
        Literal["all", "held_out"],
        typer.Option(help="Score every patient, or those that the run's own rule puts into held_out."),
    ] = "all",
    recipe: Annotated[str | None, typer.Option(help="A recipe of the run; the first by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="A seed of the run; all by default.")] = None,
    evaluation: Annotated[bool, typer.Option(help="Evaluate the run on the new patients too, where they have outcomes.")] = True,
    debug: Debug = False,
) -> None:
    """Score new patients with a finished run, frozen: probabilities and forecasts by hour, and the whole evaluation where outcomes are."""
    with one_line_errors(debug):
        from pipelines.scheduling.typed import note_typed

        asked = Scoring(run, tuple(overrides or ()), source, path, name, patients, recipe, seed, evaluation)
        note_typed(asked.words())
        score_patients(asked, debug)


class Scoring(NamedTuple):
    """What `clinjepa score` was asked for; empty texts stand for defaults."""

    run: str
    overrides: tuple[str, ...] = ()
    source: str = ""
    path: str = ""
    name: str = ""
    patients: Literal["all", "held_out"] = "all"
    recipe: str | None = None
    seed: int | None = None
    evaluation: bool = True

    def words(self) -> list[str]:
        """The arguments that ask for it on a command line."""
        options = {"--source": self.source, "--path": self.path, "--name": self.name, "--recipe": self.recipe, "--seed": self.seed}
        given = [word for option, value in options.items() if value not in ("", None) for word in (option, str(value))]
        given += ["--patients", self.patients] if self.patients != "all" else []
        return [self.run, *self.overrides, *given, *([] if self.evaluation else ["--no-evaluation"])]


def score_patients(asked: Scoring, debug: bool = False) -> None:
    """Run the unfinished stages of a scoring and write its report; prints how far the new data are from training before it encodes.

    Raises:
        StoreError: The run is not finished, of another format, or altered.
        ConfigError: An override or option cannot be used.
        SourceError: The new data cannot be read.
    """
    from pipelines.graph.planning import source_digest
    from pipelines.graph.saved_run import open_saved_run
    from pipelines.graph.scoring import score_stage, scoring_config, scoring_experiment, shift_stage
    from pipelines.results.run_report import write_report
    from pipelines.scheduling.locations import absolute
    from pipelines.scheduling.opening import opened
    from pipelines.scheduling.progress import console
    from pipelines.scheduling.runner import ensure
    from pipelines.stages.executors import EXECUTORS

    for_execution = [each for each in asked.overrides if not each.startswith("source.")]
    run = open_saved_run(asked.run, for_execution)
    trials = _trials(run, asked.recipe, asked.seed)
    source = _source(asked, run)
    name = asked.name or f"{run.config.name}-on-{source.name.replace(' ', '_').lower()}"
    _check_name(name, run)
    config = absolute(scoring_config(run.config, source, name, asked.patients))
    experiment = scoring_experiment(run, trials, config, source_digest(config))
    _check_results(config, experiment)
    shift = shift_stage(run, experiment)
    scores = {trial.name: score_stage(trial) for trial in experiment.trials}
    judged = [stage for trial in experiment.trials for stage in trial.evaluations.values()] if asked.evaluation else []
    stages = [experiment.ingest, shift, *scores.values(), experiment.labels, *judged]
    say = partial(console.print, highlight=False, markup=False)
    head = [f"The run {run.config.name}, finished and frozen, on the patients of {source.name}: nothing was trained or fitted on them."]
    if differ := settings_that_differ(source, run.config.source, asked.overrides):
        say(differ)
    with opened(config, lambda _: stages, debug, writes_report=asked.evaluation, experiment=experiment, command="score") as scoring:
        for stage in stages:
            ensure(scoring.context, stage, EXECUTORS)
            if stage is shift:
                lines = _shift_lines(scoring.context.artifact(shift).folder, source)
                head += [*lines, *([differ] if differ else [])]
                for line in lines:
                    say(line)
    for name, stage in scores.items():
        say(f"scores of {name}: {scoring.context.artifact(stage).folder.address}")
    if asked.evaluation:
        say(f"report: {write_report(config, experiment, scoring.context.run_id, head)}")


def _trials(run: SavedRun, recipe: str | None, seed: int | None) -> list[Trial]:
    """The finished trials that score: of one recipe, by default the first, and of one seed or all."""
    recipe = run.trials[0].recipe if recipe is None else recipe
    found = [trial for trial in run.trials if trial.recipe == recipe and seed in (None, trial.seed)]
    if not found:
        from clinjepa.errors import ConfigError

        there = ", ".join(dict.fromkeys(trial.name for trial in run.trials))
        raise ConfigError(f"the run has no finished trial of recipe {recipe}{'' if seed is None else f' with seed {seed}'}; it has {there}")
    return found


def _check_name(name: str, run: SavedRun) -> None:
    """Raise ConfigError for a name that is no folder below `runs/`, or that of the run itself."""
    import re

    from clinjepa.errors import ConfigError

    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise ConfigError("--name is the name of a folder of <storage>/runs: use letters, digits, _, - and dots")
    if name == run.config.name:
        raise ConfigError(f"--name {name} is the run itself, whose record would be lost; give another name")


def _check_results(config: Config, experiment: Experiment) -> None:
    """Raise ConfigError where the folder of the results holds those of other data; StoreError for a record of another version."""
    from clinjepa.errors import ConfigError
    from clinjepa.storage import Folder
    from pipelines.graph.run_record import RUN_RECORD, check_run_folder

    check_run_folder(config)
    out = Folder(config.storage) / f"runs/{config.name}"
    if not out.exists(RUN_RECORD):
        return
    own = f"ingest/{experiment.ingest.key}"
    if any(own not in trial["artifacts"].values() for trial in out.read_json(RUN_RECORD)["trials"]):
        raise ConfigError(f"{out.address} holds the report of other data or another run; give another --name")


def _source(asked: Scoring, run: SavedRun) -> SourceConfig:
    """The source of the new patients."""
    from clinjepa.config.load import apply_overrides, validated
    from clinjepa.errors import ConfigError

    if not asked.source and not asked.path:
        if asked.patients == "all":
            raise ConfigError("name the new data: --source KIND --path P; the run's own held-out patients are --patients held_out")
        raw = {"source": run.config.source.model_dump(mode="json")}
    else:
        kind = asked.source or run.config.source.kind
        rule = {"event_time": run.config.source.event_time}  # of texts, which are the run's
        raw = {"source": {"kind": kind, "name": kind, **rule, **({"path": asked.path} if asked.path else {})}}
    own = [each for each in asked.overrides if each.startswith("source.")]
    return validated(apply_overrides(raw, own), "the new source").source


def settings_that_differ(source: SourceConfig, trained_on: SourceConfig, overrides: Sequence[str] = ()) -> str:
    """One line on the settings of the new source that differ from the run's though no override names them; empty where none does.

    Another hospital has its own time zone, codes and parts, so the new data are read with the settings of the command alone; only
    `event_time`, a rule of texts, is the run's; another one is told even if an override names it. Of other settings, data of another kind
    than the run's have nothing to compare.
    """
    given = {each.partition("=")[0].removeprefix("source.") for each in overrides}
    others = ("time_zone", "map", "subsets", "max_stays") if source.kind == trained_on.kind else ()
    names = ("event_time", *(name for name in others if name not in given))
    pairs = {name: (getattr(source, name), getattr(trained_on, name)) for name in names}
    told = [f"source.{name} is {_as_yaml(new)} here and {_as_yaml(old)} in the run" for name, (new, old) in pairs.items() if new != old]
    return (
        f"settings of the run's source are not taken over: {'; '.join(told)}; give KEY=VALUE where these data need another" if told else ""
    )


def _as_yaml(value: object) -> str:
    """A setting as it is typed on a command line."""
    return "null" if value is None else f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _shift_lines(shift: Folder, source: SourceConfig) -> list[str]:
    """The comparison of new and training patients, for the terminal and the report."""
    from clinjepa.evaluation.shift import in_words
    from pipelines.graph.artifacts import RESULT

    return in_words(shift.read_json(RESULT), is_cut=source.max_stays is not None)


if __name__ == "__main__":
    run_as_module(score, "score")
