"""The arguments that a user typed, so that a record can say what to type to go on."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from clinjepa.redaction import redacted
from pipelines.scheduling.locations import inside_job

_typed: list[tuple[str, ...]] = []


def note_typed(arguments: Sequence[str]) -> None:
    """Note the arguments of the command of this process: its file or folder, options and overrides."""
    _typed[:] = [tuple(arguments)]


def typed_command(command: str) -> str | None:
    """`clinjepa COMMAND …` as it was typed, or the `clinjepa submit` that does it for a job; None where nothing was typed."""
    if not _typed:
        return None
    words = shlex.join(_typed[0])
    if not inside_job():
        return redacted(f"clinjepa {command} {words}")
    other = "" if command == "run" else f" --command {command}"
    return redacted(f"clinjepa submit {words} --address ADDRESS{other}")
