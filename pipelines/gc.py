"""`clinjepa gc`: what no run of a storage needs; deletes it only when asked to."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.scheduling.interruptions import DELETING_LINE, READING_LINE
from pipelines.terminal.arguments import Debug, StorageAddress, run_as_module
from pipelines.terminal.faults import one_line_errors


def gc(
    storage: StorageAddress,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it, the oldest first; without this nothing is changed.")] = False,
    older_than: Annotated[
        float, typer.Option("--older-than", metavar="DAYS", min=0, help="Keep what changed within so many days, finished or not.")
    ] = 7.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, described in docs/commands.md.")] = False,
    debug: Debug = False,
) -> None:
    """Show the artifacts that no run of a storage needs, with bytes by kind, and with --delete delete them. Reports are never deleted."""
    with one_line_errors(debug, DELETING_LINE if delete else READING_LINE):
        from clinjepa.storage import Folder
        from pipelines.results.garbage import Dispensable, delete_garbage, find_garbage, garbage_list
        from pipelines.results.storage_tables import print_garbage, size_in_words
        from pipelines.scheduling.progress import console

        def told(each: Dispensable) -> None:
            console.print(f"deleting {each.folder.address} ({size_in_words(each.num_bytes)})", highlight=False, markup=False)

        folder = Folder(storage)
        garbage = delete_garbage(folder, older_than, told) if delete else find_garbage(folder, older_than)
        found = garbage_list(folder, garbage, older_than, deleted=delete)
        if as_json:
            typer.echo(found.model_dump_json(indent=1))
        else:
            print_garbage(found)


if __name__ == "__main__":
    run_as_module(gc, "gc")
