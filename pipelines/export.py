"""`clinjepa export`: a finished encoder and predictor as one folder that loads without Ray."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.arguments import Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config
    from pipelines.graph.experiment import Experiment


def export(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a finished run: <storage>/runs/<name>; or a configuration, by its YAML file.")
    ],
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write: a new folder, or an earlier export of the same run.")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe of grid.recipes; the first by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="A seed of grid.seeds; the first by default.")] = None,
    debug: Debug = False,
) -> None:
    """Write a trained encoder and predictor as one folder that loads without Ray; starts nothing."""
    with one_line_errors(debug):
        config, experiment = trained(run, overrides or [])
        export_and_print(config, folder, recipe, seed, experiment)


def trained(run: str, overrides: list[str]) -> tuple[Config, Experiment | None]:
    """The configuration that a command line names, with the stages where it names a finished run: then the source's files are not read.

    Args:
        run: A configuration's file, known by its ending `.yaml` or `.yml` or as a file; else the folder of a finished run.
        overrides: Of any setting for a configuration, of `execution` for a finished run.

    Raises:
        ConfigError: The configuration cannot be used, or an override changes a result of a finished run.
        StoreError: The folder holds no finished run, or one of another format version.
    """
    if run.lower().endswith((".yaml", ".yml")) or os.path.isfile(run):
        return configured(run, overrides), None
    from pipelines.graph.saved_run import open_saved_run

    found = open_saved_run(run, overrides)
    return found.config, found.experiment


def export_and_print(config: Config, folder: str, recipe: str | None, seed: int | None, experiment: Experiment | None = None) -> None:
    """Export, then print where the export is and whether the data's terms allow sharing it. Raises what `export_model` raises."""
    from rich.console import Console

    from clinjepa.export.card import data_terms
    from clinjepa.storage import Folder
    from pipelines.results.model_export import export_model

    record = export_model(config, folder, recipe, seed, experiment)
    console = Console(soft_wrap=True)
    console.print(f"export: {record['recipe']}, seed {record['seed']} → {Folder(folder).address}", highlight=False, markup=False)
    terms = data_terms(record["access"])
    if not terms["may_be_shared"]:
        console.print(f"trained on {terms['title']}: {terms['text']}", highlight=False, markup=False)


if __name__ == "__main__":
    run_as_module(export, "export")
