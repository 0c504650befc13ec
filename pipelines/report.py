"""`clinjepa report`: the report of finished stages, or several finished runs side by side; starts nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.arguments import Debug, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config


def report(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="A YAML file, for example configs/demo.yaml; with --compare the first RUN."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Overrides, for example storage=s3://bucket/prefix; with --compare the other runs."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Put finished runs side by side: --compare RUN RUN …; a RUN is <storage>/runs/<name>."),
    ] = False,
    out: Annotated[str, typer.Option(help="With --compare: the folder for comparison.html and comparison.json.")] = "comparison",
    debug: Debug = False,
) -> None:
    """Write the report of finished stages again, or compare finished runs; starts nothing."""
    with one_line_errors(debug):
        if compare:
            compare_finished([config, *(overrides or [])], out)
        else:
            report_finished(configured(config, overrides))


def report_finished(config: Config) -> None:
    """Write the report and print its address. Raises StoreError when no trial is finished."""
    from rich.console import Console

    from pipelines.graph.planning import plan_experiment
    from pipelines.results.run_report import write_report

    address = write_report(config, plan_experiment(config), run_id=None)
    Console(soft_wrap=True).print(f"report: {address}", highlight=False, markup=False)


def compare_finished(runs: list[str], out: str) -> None:
    """Write the comparison and print its address. Raises what `write_comparison` raises."""
    from rich.console import Console

    from pipelines.results.run_comparison import write_comparison

    Console(soft_wrap=True).print(f"comparison: {write_comparison(runs, out)}", highlight=False, markup=False)


if __name__ == "__main__":
    run_as_module(report, "report")
