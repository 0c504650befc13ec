"""The `clinjepa` command gathers the commands of this folder; each is also `python -m pipelines.<command>`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines import data, meds_dev
from pipelines.evaluate import evaluate
from pipelines.export import export
from pipelines.forecast import forecast
from pipelines.gc import gc
from pipelines.grid import grid
from pipelines.ingest import ingest
from pipelines.plan import plan
from pipelines.pretrain import pretrain
from pipelines.report import report
from pipelines.run import run
from pipelines.runs import runs
from pipelines.score import score
from pipelines.serve import serve
from pipelines.submit import submit
from pipelines.terminal.faults import entered
from pipelines.terminal.usage import Group

app = typer.Typer(
    cls=Group,
    help="Pretrain a joint-embedding predictive world model of intensive-care patients, and find out honestly whether it works.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(asked: bool) -> None:
    if asked:
        import clinjepa

        typer.echo(f"clinjepa {clinjepa.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    pass


for _command in (run, ingest, pretrain, grid, evaluate, report, score, forecast, plan, export, serve, submit, runs, gc):
    app.command()(_command)
app.add_typer(data.app, name="data")
app.add_typer(meds_dev.app, name="meds-dev")


def main() -> None:
    """The console script."""
    entered(lambda: app(prog_name="clinjepa"))


if __name__ == "__main__":
    main()
