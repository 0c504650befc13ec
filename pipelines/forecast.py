"""`clinjepa forecast`: the coming hours of one stay under several versions of its treatment."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.terminal.arguments import Debug, run_as_module
from pipelines.terminal.faults import one_line_errors


def forecast(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a finished run or scoring: <storage>/runs/<name>.")],
    stay: Annotated[int, typer.Option(help="The stay, by its id in the data.")],
    hour: Annotated[int | None, typer.Option(help="Last known hour of the stay, from 0; its last hour by default.")] = None,
    actions: Annotated[str | None, typer.Option(metavar="PLAN", help="YAML file with a plan of treatment for the hours after it.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe of the run; the first by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="A seed of the run; the first by default.")] = None,
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder for forecast.json and forecast.html.")] = "forecast",
    credentialed: Annotated[
        bool, typer.Option("--i-am-credentialed", help="The data use agreement covers you, and only you see the output.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Forecast one stay under its last actions, none, a plan and what was recorded; starts nothing. An association, not an effect."""
    with one_line_errors(debug):
        from rich.console import Console

        from pipelines.results.what_if import Question, write_what_if

        written = write_what_if(Question(run, stay, hour, actions, recipe, seed, credentialed), out)
        console = Console(soft_wrap=True, highlight=False)
        for warning in written.warnings:
            console.print(f"warning: {warning}", markup=False)
        for address in (written.json, written.page):
            console.print(f"forecast: {address}", markup=False)
        console.print("they show one patient: keep them where the data may lie", markup=False)


if __name__ == "__main__":
    run_as_module(forecast, "forecast")
