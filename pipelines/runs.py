"""`clinjepa runs`: the runs in a storage, how far each is, what it cost and what resumes it; starts no cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.scheduling.interruptions import READING_LINE
from pipelines.terminal.arguments import Debug, StorageAddress, run_as_module
from pipelines.terminal.faults import one_line_errors


def runs(
    storage: StorageAddress,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, described in docs/commands.md.")] = False,
    debug: Debug = False,
) -> None:
    """List the runs of a storage: state, stages done, seconds, bytes and what resumes each. Also when their cluster is gone."""
    with one_line_errors(debug, READING_LINE):
        from clinjepa.storage import Folder
        from pipelines.results.storage_tables import print_runs
        from pipelines.results.stored_runs import stored_runs

        found = stored_runs(Folder(storage))
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
        else:
            print_runs(found)


if __name__ == "__main__":
    run_as_module(runs, "runs")
