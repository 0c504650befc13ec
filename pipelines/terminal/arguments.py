"""Arguments that several commands share, and the entry of `python -m pipelines.<command>`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.faults import entered
from pipelines.terminal.usage import Command

if TYPE_CHECKING:
    from clinjepa.config import Config

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, for example configs/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Overrides, for example curriculum.num_steps=100 storage=s3://bucket/prefix."),
]
StorageAddress = Annotated[str, typer.Argument(metavar="STORAGE", help="What storage=… was: a folder or s3://bucket/prefix.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")]


def configured(config: str, overrides: list[str] | None, *options: str) -> Config:
    """The validated configuration, with absolute local addresses. options: what else was typed. Raises ConfigError."""
    from clinjepa.config import load_config
    from pipelines.scheduling.locations import absolute
    from pipelines.scheduling.typed import note_typed

    note_typed([config, *(overrides or ()), *options])
    return absolute(load_config(config, overrides))


def run_as_module(command: Callable[..., None], name: str) -> None:
    """Run one command as `clinjepa NAME` does, with the arguments of this process."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(cls=Command)(command)
    entered(lambda: app(prog_name=f"clinjepa {name}"))
