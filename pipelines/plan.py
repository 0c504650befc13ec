"""`clinjepa plan`: the stages of an experiment, which are done, and what each needs; starts nothing and writes nothing."""

from __future__ import annotations

from typing import Annotated

import typer

from pipelines.scheduling.interruptions import READING_LINE
from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors


def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, described in docs/commands.md.")] = False,
    without_data: Annotated[
        bool, typer.Option("--without-data", help="Do not read the source: estimates only, for texts of MIMIC-IV's size.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Print the stages, which are done and what each needs, with estimates of memory, time and storage; starts nothing."""
    with one_line_errors(debug, READING_LINE):
        from clinjepa.storage import Folder
        from pipelines.results.plan_record import plan_record
        from pipelines.results.plan_tables import print_plan

        asked = configured(config, overrides)
        if asked.grid.search.metric is not None:
            from pipelines.trials.search_checks import check_search, search_config

            check_search(asked)
            asked = search_config(asked)  # the stages that the points of a search share, and those of one point
        Folder(asked.storage).check_reachable()
        if asked.source.path is not None and not without_data:
            Folder(asked.source.path).check_reachable()
        found = plan_record(asked, without_data)
        if as_json:
            typer.echo(found.model_dump_json(indent=2))
        else:
            print_plan(found)


if __name__ == "__main__":
    run_as_module(plan, "plan")
