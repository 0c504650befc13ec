"""The runs of a storage and what no run needs, as tables and lines on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from pipelines.results.garbage import GarbageList
from pipelines.results.stored_runs import RunEntry, RunList

_WIDTH_WITHOUT_TERMINAL = 150


def print_runs(found: RunList) -> None:
    """One row a run on standard output; below it what resumes each that is not finished, and why it failed."""
    console = _console()
    columns = ("run", "state", "command", "started", "stages", "wall", "GPU", "CPU", "size", "own")
    table = Table(*columns, title=f"{len(found.runs)} runs in {found.storage}, {size_in_words(found.num_bytes)}")
    for run in found.runs:
        table.add_row(
            run.name,
            run.state,
            run.command,
            (run.started or run.ended or "").replace("T", " ").removesuffix("Z"),
            f"{run.num_done}/{run.num_stages}",
            *(_hours(seconds) for seconds in (run.wall_seconds, run.gpu_seconds, run.cpu_seconds)),
            size_in_words(run.num_bytes),
            size_in_words(run.own_bytes),
        )
    console.print(table)
    for run in found.runs:
        if line := _line(run):
            console.print(line, highlight=False, markup=False)


def print_garbage(found: GarbageList) -> None:
    """One row a kind on standard output; below it what stays and what to type to delete."""
    console = _console()
    for line in found.blocked:
        console.print(f"cannot be read: {line}", highlight=False, markup=False)
    if found.kinds:
        table = Table("kind", "folders", "size", title=f"No run of {found.storage} needs")
        for kind in found.kinds:
            table.add_row(kind.kind, f"{kind.num_artifacts:,}", size_in_words(kind.num_bytes))
        console.print(table)
    verb = "deleted" if found.deleted else "can be deleted"
    console.print(
        f"{size_in_words(found.num_bytes)} {verb}; {size_in_words(found.needed_bytes)} are needed by runs; needed by none but kept: "
        f"{size_in_words(found.kept_young_bytes)} changed within {found.older_than_days:g} days, "
        f"{size_in_words(found.kept_held_bytes)} in work",
        highlight=False,
        markup=False,
    )
    if found.kinds and not found.deleted:
        console.print("nothing was deleted: give --delete to delete it", highlight=False, markup=False)


def size_in_words(num_bytes: int) -> str:
    """`1.5 GB`, in powers of ten."""
    size, unit = float(num_bytes), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if size < 999.5:
            break
        size, unit = size / 1000, larger
    return f"{size:.0f} {unit}" if unit == "B" or size >= 99.5 else f"{size:.1f} {unit}"


def _console() -> Console:
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=_WIDTH_WITHOUT_TERMINAL)


def _hours(seconds: float) -> str:
    if not seconds:
        return "-"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds:.0f} s"


def _line(run: RunEntry) -> str:
    fault = f"{run.fault}; " if run.fault else ""
    if run.state == "finished" or (not fault and run.resume is None):
        return ""
    verb = "joins" if run.state == "running" else "resumes"
    return f"{run.name}: {fault}{f'{run.resume} {verb} it' if run.resume else 'no command line began it'}"
