"""The stages of an experiment as a table, with memory, time and storage estimates; starts nothing and writes nothing."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from clinjepa.config import Config
from clinjepa.errors import ClinJepaError, ConfigError, StoreError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.estimates import gpu_budget, latent_store_lines
from pipelines.graph.experiment import Experiment
from pipelines.graph.planning import plan_experiment
from pipelines.graph.provenance import by_other_code, other_code_line
from pipelines.graph.stage import Stage
from pipelines.scheduling.preflight import check_workers, warnings

_console = Console(width=None if Console().is_terminal else 150)


def print_plan(config: Config) -> None:
    """Print the table of stages, the estimates and the warnings. Raises SourceError when the source cannot be read."""
    try:
        experiment = plan_experiment(config, remember=False)
    except ClinJepaError:
        _print_warnings(config)
        _print_sizes(config, None)  # what GPUs and storage must have can be known before the data is there
        raise
    storage = Folder(config.storage)
    table = Table(
        "stage",
        "kind",
        "key",
        "state",
        "steps",
        "needs",
        "used by",
        title=f"{config.name}: {len(experiment.stages)} stages in {storage.address}",
    )
    others: list[str] = []
    damages: list[str] = []
    for stage in experiment.stages:
        artifact = Artifact.at(storage, stage.kind, stage.key)
        state = "to do"
        if artifact.is_complete():
            state = _finished_state(stage, artifact, others, damages)
        elif artifact.folder.exists("checkpoints"):
            state = "begun"
        needs = ", ".join(dict.fromkeys(upstream.label.split(" · ")[0] for upstream in stage.inputs.values())) or "source"
        table.add_row(
            stage.label, stage.kind, stage.key[:8], state, str(stage.settings.get("num_steps", "")), needs, _users(experiment, stage)
        )
    _console.print(table)
    _console.print("done: the manifest is there and every file it names has its size; contents (SHA-256) were not read", highlight=False)
    for line in damages:
        _console.print(f"damaged: {line}", highlight=False)
    if others:
        _console.print(f"note: {other_code_line(others, len(experiment.stages), storage.address)}", highlight=False)
    _print_sizes(config, experiment)
    _print_warnings(config)


def _print_warnings(config: Config) -> None:
    """What training would refuse, and what it would warn of."""
    try:
        check_workers(config)
    except ConfigError as refusal:
        _console.print(f"change: {refusal}")
    for line in warnings(config):
        _console.print(f"warning: {line}")


def _finished_state(stage: Stage, artifact: Artifact, others: list[str], damages: list[str]) -> str:
    """What the table says of a stage with a manifest; notes it where other code made it or it is not whole."""
    try:
        manifest = artifact.verify()
    except StoreError as error:
        damages.append(str(error))
        return "damaged"
    if not by_other_code(manifest):
        return f"done ({manifest['seconds']:.0f} s)"
    others.append(stage.label)
    return f"done ({manifest['seconds']:.0f} s), other code"


def _print_sizes(config: Config, experiment: Experiment | None) -> None:
    tables, lines = gpu_budget(config, experiment) if config.execution.use_gpu else ([], [])
    for table in tables:
        _console.print(table)
    for line in [*lines, *latent_store_lines(config, experiment)]:
        _console.print(line)


def _users(experiment: Experiment, stage: Stage) -> str:
    recipes = [trial.recipe for trial in experiment.trials if any(stage.key == s.key for s in trial.stages)]
    return "all" if len(recipes) == len(experiment.trials) else ", ".join(dict.fromkeys(recipes))
