"""`clinjepa data audit`: the leak audit of a configuration's finished data stages; starts no cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.terminal.arguments import ConfigPath, Debug, Overrides, configured, run_as_module
from pipelines.terminal.faults import one_line_errors

if TYPE_CHECKING:
    from clinjepa.config import Config

_STYLES = {"ok": "green", "leak": "bold red", "note": "yellow", "skipped": "dim"}


def audit(
    config: ConfigPath,
    overrides: Overrides = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the source to read again.")] = 4,
    stays: Annotated[int, typer.Option(min=1, help="Stays to rebuild from charts that are cut short.")] = 200,
    debug: Debug = False,
) -> None:
    """Look for leaks in finished texts, grid, splits and labels; exit status 3 when there is one."""
    with one_line_errors(debug):
        audit_data(configured(config, overrides), partitions, stays)


def audit_data(config: Config, num_partitions: int = 4, num_stays: int = 200) -> None:
    """Audit, write `<storage>/runs/<name>/audit.json` and print the checks.

    Raises StoreError when the ingest is not finished, LeakError when a check finds a leak.
    """
    from rich.console import Console
    from rich.table import Table

    from clinjepa.errors import LeakError
    from pipelines.results.leak_audit import audit_stages

    found, address = audit_stages(config, num_partitions, num_stays)
    table = Table("check", "", "checked", "found", "", title=f"leak audit of {config.source.name}")
    for check in found["checks"]:
        style = _STYLES[check["outcome"]]
        counted = f"{check['num_checked']:,} {check['unit']}" if check["unit"] else ""
        number = "" if check["outcome"] == "skipped" else f"{check['num_found']:,}"
        table.add_row(check["name"], f"[{style}]{check['outcome']}[/]", counted, number, check["detail"])
    console = Console()
    console.print(table)
    console.print(f"audit: {address}", highlight=False, soft_wrap=True)
    if found["num_leaks"]:
        names = "; ".join(check["name"] for check in found["checks"] if check["outcome"] == "leak")
        raise LeakError(f"{found['num_leaks']} checks found a leak ({names}); docs/leak_audit.md explains each check and where to look")


if __name__ == "__main__":
    run_as_module(audit, "data audit")
