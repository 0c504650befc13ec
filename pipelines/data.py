"""`clinjepa data …`: open ICU data sets, simulated tables, a look at finished data, new clinical definitions.

`data audit` is in `audit.py`, `data show` in `show.py`, `data new-task` and `data new-variable` in `new_definition.py`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.audit import audit
from pipelines.new_definition import new_task, new_variable
from pipelines.show import show
from pipelines.terminal.arguments import Debug
from pipelines.terminal.faults import entered, one_line_errors
from pipelines.terminal.usage import Group

_HELP = "Open and simulated ICU data sets, finished data, new clinical definitions."
app = typer.Typer(cls=Group, help=_HELP, no_args_is_help=True, pretty_exceptions_enable=False)
app.command("audit")(audit)
app.command("show")(show)
app.command("new-task")(new_task)
app.command("new-variable")(new_variable)


@app.command("list")
def list_data() -> None:
    """List the open data sets this project can get, with licence, size and address; tab-separated where the output is no terminal."""
    with one_line_errors(False):
        from rich.console import Console
        from rich.table import Table

        from clinjepa.sources.open_data import list_open_data

        console = Console()
        rows = [(entry.name, entry.title, entry.licence, entry.size_text, entry.address) for entry in list_open_data()]
        if not console.is_terminal:
            for row in rows:
                typer.echo("\t".join(row))
            return
        table = Table()
        for column in ("name", "what", "licence", "size", "address"):
            table.add_column(column, no_wrap=column == "name", min_width=max(len(row[0]) for row in rows) if column == "name" else None)
        for row in rows:
            table.add_row(*row)
        console.print(table)


@app.command("get")
def get_data(
    name: Annotated[str, typer.Argument(help="A name of `clinjepa data list`.")],
    folder: Annotated[str | None, typer.Argument(help="Where to put it; default data/NAME.")] = None,
    debug: Debug = False,
) -> None:
    """Get an open data set and verify it by checksums."""
    with one_line_errors(debug):
        from clinjepa.sources.open_data import get_open_data

        get_open_data(name, folder or f"data/{name}")


@app.command("simulate")
def simulate_data(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="Folder or object store address for hosp/ and icu/.")],
    patients: Annotated[int, typer.Option(min=4, help="Simulated patients; about 1.2 stays each.")] = 1000,
    seed: Annotated[int, typer.Option(help="Patient i is the same whatever the number of patients.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one per CPU.")] = None,
    debug: Debug = False,
) -> None:
    """Write simulated patients as MIMIC-IV tables (csv.gz), to measure scale without hospital data."""
    with one_line_errors(debug):
        _simulate(folder, patients, seed, workers)


def _simulate(folder: str, patients: int, seed: int, workers: int | None) -> None:
    """Write the tables with a progress bar. workers: processes; default one per CPU that this process may use."""
    import os

    from rich.console import Console
    from rich.progress import Progress

    from clinjepa.config.schema import SimulatorConfig
    from clinjepa.sources.simulated.mimic_writer import MIMIC_DENSITY, MIMIC_STAY_HOURS, PATIENTS_PER_BLOCK, write_simulated_mimic
    from clinjepa.storage import Folder

    console = Console(soft_wrap=True)
    settings = SimulatorConfig(num_patients=patients, seed=seed, mean_stay_hours=MIMIC_STAY_HOURS, measurement_density=MIMIC_DENSITY)
    number = workers or min(len(os.sched_getaffinity(0)), -(-patients // PATIENTS_PER_BLOCK))
    out = Folder(folder, private=False)  # no patient is behind these tables
    with Progress(console=console, disable=not console.is_interactive) as progress:
        task = progress.add_task(f"{patients} patients", total=patients)
        record = write_simulated_mimic(out, settings, number, on_progress=lambda done: progress.update(task, completed=done))
    rows = sum(record["rows"].values())
    console.print(
        f"{record['num_stays']} stays, {rows} rows in {out.address}; read them with source.kind=mimic_iv source.path={out.address}"
    )


if __name__ == "__main__":
    entered(lambda: app(prog_name="clinjepa data"))
