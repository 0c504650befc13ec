"""`clinjepa data new-task` and `clinjepa data new-variable`: a commented YAML skeleton of a new task or variable.

The steps that follow are in docs/clinical.md.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.terminal.arguments import Debug
from pipelines.terminal.faults import one_line_errors

Name = Annotated[str, typer.Argument(help="Its identifier: lower-case letters, digits and underscores.")]


def new_task(
    name: Name,
    kind: Annotated[str, typer.Option(help="Kind of label: event, time, change, regression, column or stay.")] = "event",
    debug: Debug = False,
) -> None:
    """Write a commented skeleton of a prediction task, as a file NAME.yaml in `clinjepa/clinical/tasks/`."""
    with one_line_errors(debug):
        from clinjepa.clinical.scaffold import write_task

        path = write_task(name, kind)
        typer.echo(f"{path}: fill in the blanks, then follow docs/clinical.md, 'Adding a task'")


def new_variable(name: Name, debug: Debug = False) -> None:
    """Add a commented skeleton of a variable to clinjepa/clinical/variables.yaml."""
    with one_line_errors(debug):
        from clinjepa.clinical.scaffold import write_variable

        path = write_variable(name)
        typer.echo(f"{path}: fill in the blanks of {name}, then follow docs/clinical.md, 'Adding a variable'")
