"""`clinjepa export`: a finished encoder and predictor as one folder that loads without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def export(
    config: ConfigPath,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write: a new folder, or an earlier export of the same run.")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe of grid.recipes; the first by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="A seed of grid.seeds; the first by default.")] = None,
    debug: Debug = False,
) -> None:
    """Write a trained encoder and predictor as one folder that loads without Ray; starts nothing."""
    with one_line_errors(debug):
        export_and_print(configured(config, overrides), folder, recipe, seed)


def export_and_print(config: Config, folder: str, recipe: str | None, seed: int | None) -> None:
    """Export, then print where the export is and whether the data's terms allow sharing it. Raises what `export_model` raises."""
    from rich.console import Console

    from clinjepa.export.card import data_terms
    from clinjepa.storage import Folder
    from pipelines.results.model_export import export_model

    record = export_model(config, folder, recipe, seed)
    console = Console(soft_wrap=True)
    console.print(f"export: {record['recipe']}, seed {record['seed']} → {Folder(folder).address}", highlight=False, markup=False)
    terms = data_terms(record["access"])
    if not terms["may_be_shared"]:
        console.print(f"trained on {terms['title']}: {terms['text']}", highlight=False, markup=False)


if __name__ == "__main__":
    run_as_module(export, "export")
