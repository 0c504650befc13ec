"""What a command prints and which exit status it has when it fails."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from clinjepa.errors import ClinJepaError, LeakError, in_safe_words
from clinjepa.redaction import redact_logs, redacted
from pipelines.scheduling.interruptions import (
    LINE,
    drop_half_made_objects_quietly,
    end_without_destructors,
    first_line,
    interruptible,
    limit_exit,
    say,
)

UNEXPECTED, FAULT, LEAK = 1, 2, 3
_KEPT = (
    "Finished stages and checkpoints, where a command has some, are kept; the same command resumes. It is also how `clinjepa serve` ends."
)

EXIT_STATUSES = {
    0: "The command did what it was asked to do.",
    UNEXPECTED: "An error that the program does not expect: please report it, with the output of `--debug`.",
    FAULT: "A fault that you can mend: a wrong argument or setting, data or a storage that cannot be read, too little memory. "
    "One line on standard error names what was found, where, and what to change.",
    LEAK: "`clinjepa data audit` finished and found a leak.",
    130: f"Interrupted by SIGINT (Ctrl-C). {_KEPT}",
    143: f"Interrupted by SIGTERM (`kill`, `ray job stop`, a batch system). {_KEPT}",
    129: f"Interrupted by SIGHUP (the terminal was closed). {_KEPT}",
}
"""Exit status -> when a command has it. With `--debug` every error has status 1 and a traceback."""

_console = Console(stderr=True, soft_wrap=True)


@contextlib.contextmanager
def one_line_errors(debug: bool, interrupted: str = LINE) -> Iterator[None]:
    """Turn an exception of the block, or a signal, into one line on standard error and an exit status of `EXIT_STATUSES`.

    Args:
        debug: Print the traceback instead, without credentials that a library may have quoted.
        interrupted: The line of a signal; by default that of a command which goes on behind its finished stages.
    """
    redact_logs()
    with interruptible() as interruption:
        interruption.line = interrupted
        try:
            yield
            interruption.check()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) or interruption.number is not None:
                interruption.cleaning_up()
                say(interruption.line)
                raise typer.Exit(interruption.exit_status) from None
            if not isinstance(error, Exception) or isinstance(error, typer.Exit):
                raise
            if debug:
                raise _with_traceback() from None
            raise typer.Exit(_reported(error)) from None


def _reported(error: Exception) -> int:
    """Print an error's line; returns the exit status."""
    if isinstance(error, ClinJepaError):
        _console.print(f"[bold red]error[/] {_one_line(str(error))}", highlight=False)
        return LEAK if isinstance(error, LeakError) else FAULT
    _console.print(f"[bold red]unexpected[/] {_one_line(in_safe_words(error))} (--debug shows all)", highlight=False)
    return UNEXPECTED


def entered(command: Callable[[], None]) -> NoReturn:
    """Run a command as this process's program: signals are handled from here to the end of the process.

    Without this, a signal while modules are imported or arguments are parsed would give a traceback or another status.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a file that is not UTF-8 gets `?` for what it cannot hold
            stream.reconfigure(errors="replace")
    with interruptible() as interruption:
        interruption.line = first_line(sys.orig_argv)
        try:
            command()
            interruption.check()
            status: str | int | None = 0
        except KeyboardInterrupt:
            interruption.cleaning_up()
            say(interruption.line)
            status = interruption.exit_status
        except SystemExit as error:
            status = error.code
            if interruption.number is not None and status != interruption.exit_status:
                say(interruption.line)
                status = interruption.exit_status
    if interruption.number is not None:
        drop_half_made_objects_quietly()
        limit_exit(interruption.exit_status)
        end_without_destructors(interruption.exit_status)
    sys.exit(status)


def _with_traceback() -> typer.Exit:
    """Print the traceback of the exception that is being handled; returns the exit with status `UNEXPECTED`."""
    _console.print(redacted(traceback.format_exc()).rstrip(), highlight=False, markup=False)
    return typer.Exit(UNEXPECTED)


def _one_line(message: str) -> str:
    return escape(message.strip())
