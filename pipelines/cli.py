"""The `clinjepa` command: `clinjepa <command> CONFIG [key=value ...]`; every command is also `python -m pipelines.<command> …`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console

from clinjepa.config import Config, load_config
from clinjepa.errors import ClinJepaError, in_safe_words
from pipelines.scheduling.locations import absolute

app = typer.Typer(
    help="Pretrain a joint-embedding predictive world model of intensive-care patients, and find out honestly whether it works.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data: open and simulated ICU data sets, and a look at what a run made of its own.", no_args_is_help=True)
app.add_typer(data_app, name="data")
_errors = Console(stderr=True, soft_wrap=True)

ConfigPath = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, for example configs/demo.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, for example curriculum.num_steps=100 storage=s3://bucket/prefix."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the workers' logs.")]


def guarded(action: Callable[[], Any], debug: bool) -> None:
    """Run an action; a fault the user can act on becomes one line and exit status 2, anything else one line and 1."""
    try:
        action()
    except KeyboardInterrupt:
        _errors.print("interrupted; finished stages and checkpoints are kept, the same command goes on from there")
        raise typer.Exit(130) from None
    except ClinJepaError as error:
        if debug:
            raise
        _errors.print(f"[bold red]error[/] {_plain(error)}", highlight=False)
        raise typer.Exit(2) from None
    except Exception as error:
        if debug:
            raise
        _errors.print(f"[bold red]unexpected[/] {_plain(in_safe_words(error))} (--debug shows all)", highlight=False)
        raise typer.Exit(1) from None


def _plain(error: BaseException | str) -> str:
    from rich.markup import escape

    return escape(str(error).strip())


def _configured(config: str, overrides: list[str] | None, debug: bool, command: Callable[[Config], Any]) -> None:
    guarded(lambda: command(absolute(load_config(config, overrides))), debug)


@app.command()
def run(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """The main job: data, five phases for every recipe and seed, evaluations, report."""
    from pipelines.run import run as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, debug))


@app.command()
def ingest(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Hospital tables to trajectories and labels."""
    from pipelines.ingest import ingest as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, debug))


@app.command()
def pretrain(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train the first recipe of the grid with its first seed, phase by phase; no evaluation."""
    from pipelines.pretrain import pretrain as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, debug))


@app.command()
def grid(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Train and judge every recipe x seed in parallel on Ray Tune."""
    from pipelines.grid import grid as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, debug))


@app.command()
def evaluate(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """The evaluations of what is trained (and whatever they still need)."""
    from pipelines.evaluate import evaluate as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, debug))


@app.command()
def report(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Write the report again from finished stages; starts nothing."""
    from pipelines.report import report as command

    _configured(config, overrides, debug, command)


@app.command()
def plan(config: ConfigPath, overrides: Overrides = None, debug: Debug = False) -> None:
    """Print the stages, which are done and what each needs; starts nothing."""
    from pipelines.plan import plan as command

    _configured(config, overrides, debug, command)


@app.command()
def export(
    config: ConfigPath,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where to write it: a new folder, or an earlier export of the same run.")],
    overrides: Overrides = None,
    recipe: Annotated[str | None, typer.Option(help="A recipe of grid.recipes; the first by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="A seed of grid.seeds; the first by default.")] = None,
    debug: Debug = False,
) -> None:
    """Write a trained encoder and predictor as one folder that loads without Ray; starts nothing."""
    from pipelines.export import export_command as command

    _configured(config, overrides, debug, lambda loaded: command(loaded, folder, recipe, seed))


@data_app.command("list")
def data_list() -> None:
    """Open data sets this project knows, with licence and address."""
    from pipelines.data import list_data

    guarded(list_data, False)


@data_app.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="A name of `clinjepa data list`.")],
    folder: Annotated[str | None, typer.Argument(help="Where to put it; default data/NAME.")] = None,
    debug: Debug = False,
) -> None:
    """Get an open data set, verified by checksums."""
    from pipelines.data import get_data

    guarded(lambda: get_data(name, folder or f"data/{name}"), debug)


@data_app.command("simulate")
def data_simulate(
    folder: Annotated[str, typer.Argument(metavar="OUT", help="Folder or object store address for hosp/ and icu/.")],
    patients: Annotated[int, typer.Option(min=4, help="Simulated patients; about 1.2 stays each.")] = 1000,
    seed: Annotated[int, typer.Option(help="Patient i is the same whatever the number of patients.")] = 0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default one per CPU.")] = None,
    debug: Debug = False,
) -> None:
    """Write simulated patients as MIMIC-IV tables (csv.gz), to measure scale without hospital data."""
    from pipelines.data import simulate_data

    guarded(lambda: simulate_data(folder, patients, seed, workers), debug)


@data_app.command("audit")
def data_audit(
    config: ConfigPath,
    overrides: Overrides = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the source that are read again.")] = 4,
    stays: Annotated[int, typer.Option(min=1, help="Stays of them that are rebuilt from charts cut short.")] = 200,
    debug: Debug = False,
) -> None:
    """Look for leaks in finished texts, grid, splits and labels; exit status 2 when there is one."""
    from pipelines.audit import audit_data

    _configured(config, overrides, debug, lambda loaded: audit_data(loaded, partitions, stays))


@data_app.command("show")
def data_show(
    store: Annotated[str, typer.Argument(help="A run's folder (STORAGE/runs/NAME) or a trajectory store's.")],
    window: Annotated[int, typer.Option(help="Number of the window, from 0 on.")] = 0,
    html: Annotated[str | None, typer.Option(help="Write a page with the plotted hour grid to this file, too.")] = None,
    credentialed: Annotated[
        bool, typer.Option("--i-am-credentialed", help="You have the data use agreement of these data, and nobody else looks on.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print one window's texts and plot its hour grid; credentialed data only with a word of yours."""
    from pipelines.show import show

    guarded(lambda: show(store, window, html, credentialed), debug)


def main(*command: str) -> None:
    """Entry of `python -m pipelines.<command>`."""
    sys.argv[1:1] = command
    app()


if __name__ == "__main__":
    main()
