"""`clinjepa submit`: a command as a job on a Ray cluster, its log in this terminal and its exit status as this command's."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from pipelines.terminal.arguments import Debug, run_as_module
from pipelines.terminal.faults import one_line_errors

JobCommand = Literal["run", "grid", "ingest", "pretrain", "evaluate", "report", "score"]
_OF_A_RUN = ("score",)
"""Commands whose first argument is a finished run."""


def submit(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file of configs/; a finished run for `--command score`.")],
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Overrides; after `--` also options of the command, for example -- --source clif."),
    ] = None,
    address: Annotated[str, typer.Option(help="The cluster's dashboard, http://host:8265.")] = "http://127.0.0.1:8265",
    command: Annotated[
        JobCommand, typer.Option(help="The command that the job runs: run, grid, ingest, pretrain, evaluate, report or score.")
    ] = "run",
    resources: Annotated[
        str | None,
        typer.Option(
            "--entrypoint-resources",
            metavar="JSON",
            help="Resources that the node of the driver must have, for example '{\"driver\": 1}'; without this it runs on the head.",
        ),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the job's id on standard output and do not follow its log.")] = False,
    debug: Debug = False,
) -> None:
    """Send code and configurations to a Ray cluster, run a command there and follow it; Ctrl-C ends the following, not the job."""
    with one_line_errors(debug):
        status = submit_job(config, tuple(arguments or ()), address, command, not no_wait, resources)
    if status:
        raise typer.Exit(status)


def submit_job(
    config: str, arguments: tuple[str, ...], address: str, command: JobCommand = "run", wait: bool = True, resources: str | None = None
) -> int:
    """Submit a command as a job.

    Args:
        config: File of the configuration, or address of a finished run.
        arguments: Overrides and options of the command.
        address: Of the cluster's dashboard.
        command: Which command.
        wait: Follow the job to its end.
        resources: What the node of the driver must have, a JSON object of amounts by name.

    Returns:
        The exit status of the job (`following.follow`); 0 without `wait`.

    Raises:
        ConfigError: The configuration or the resources cannot be those of a job, versions differ, the token is refused, or the run is
            being worked on.
        StorageError: The cluster does not answer.
    """
    from pipelines.scheduling.submission import (
        check_working_folder,
        connected,
        entrypoint_resources,
        how_to,
        request_of_config,
        request_of_run,
        submitted,
    )

    check_working_folder()
    asked = entrypoint_resources(resources) if resources is not None else None
    if command in _OF_A_RUN:
        request = request_of_run(command, config, arguments)
    else:
        from clinjepa.config import load_config

        overrides = [each for each in arguments if not each.startswith("-")]
        request = request_of_config(command, load_config(config, overrides), config, arguments)
    from pipelines.scheduling.following import follow
    from pipelines.scheduling.progress import console

    client = connected(address)
    job = submitted(client, request, asked)
    console.print(f"submitted {job}: {how_to(address, job)}", highlight=False, markup=False)
    if not wait:
        typer.echo(job)
        return 0
    return follow(client, job)


if __name__ == "__main__":
    run_as_module(submit, "submit")
