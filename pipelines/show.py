"""`clinjepa data show`: one window's texts and hour grid, on the terminal or as a page."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.terminal.arguments import Debug, run_as_module
from pipelines.terminal.faults import one_line_errors


def show(
    store: Annotated[str, typer.Argument(help="A run's folder (STORAGE/runs/NAME) or a trajectory store's.")],
    window: Annotated[int, typer.Option(help="Number of the window, counted from 0.")] = 0,
    html: Annotated[str | None, typer.Option(help="Also write a page with the plotted hour grid to this file.")] = None,
    credentialed: Annotated[
        bool, typer.Option("--i-am-credentialed", help="The data use agreement covers you, and only you see the output.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print one window's texts and plot its hour grid; credentialed data need `--i-am-credentialed`."""
    with one_line_errors(debug):
        from pipelines.results.window_view import show_window

        show_window(store, window, html, credentialed)


if __name__ == "__main__":
    run_as_module(show, "data show")
