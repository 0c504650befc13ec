"""What a command prints and which exit status it has when it fails."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator

import typer
from rich.console import Console
from rich.markup import escape

from clinjepa.errors import ClinJepaError, LeakError, in_safe_words
from clinjepa.redaction import redact_logs, redacted

UNEXPECTED, FAULT, LEAK, INTERRUPTED = 1, 2, 3, 130

EXIT_STATUSES = {
    0: "The command did what it was asked to do.",
    UNEXPECTED: "An error that the program does not expect: please report it, with the output of `--debug`.",
    FAULT: "A fault that you can mend: a wrong argument or setting, data or a storage that cannot be read, too little memory. "
    "One line on standard error names what was found, where, and what to change.",
    LEAK: "`clinjepa data audit` finished and found a leak.",
    INTERRUPTED: "Interrupted (Ctrl-C). Finished stages and checkpoints are kept; the same command resumes.",
}
"""Exit status -> when a command has it. With `--debug` every error has status 1 and a traceback."""

_console = Console(stderr=True, soft_wrap=True)


@contextlib.contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Turn an exception of the block into one line on standard error and an exit status of `EXIT_STATUSES`.

    debug: print the traceback instead, without credentials that a library may have quoted.
    """
    redact_logs()
    try:
        yield
    except KeyboardInterrupt:
        _console.print("interrupted; finished stages and checkpoints are kept, the same command resumes")
        raise typer.Exit(INTERRUPTED) from None
    except ClinJepaError as error:
        if debug:
            raise _with_traceback() from None
        _console.print(f"[bold red]error[/] {_one_line(str(error))}", highlight=False)
        raise typer.Exit(LEAK if isinstance(error, LeakError) else FAULT) from None
    except Exception as error:
        if debug:
            raise _with_traceback() from None
        _console.print(f"[bold red]unexpected[/] {_one_line(in_safe_words(error))} (--debug shows all)", highlight=False)
        raise typer.Exit(UNEXPECTED) from None


def _with_traceback() -> typer.Exit:
    """Print the traceback of the exception that is being handled; returns the exit with status `UNEXPECTED`."""
    _console.print(redacted(traceback.format_exc()).rstrip(), highlight=False, markup=False)
    return typer.Exit(UNEXPECTED)


def _one_line(message: str) -> str:
    return escape(message.strip())
