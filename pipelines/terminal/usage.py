"""Messages on wrong arguments repeat them; here each passes `redacted` first."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from typer.core import TyperCommand, TyperGroup

from clinjepa.redaction import redacted


@contextlib.contextmanager
def _without_credentials() -> Iterator[None]:
    """Redact the message of an error in the arguments.

    Some versions of typer have a click of their own, so the error is known by what it can do, not by its class.
    """
    try:
        yield
    except Exception as error:
        if hasattr(error, "format_message") and isinstance(message := getattr(error, "message", None), str):
            error.message = redacted(message)  # type: ignore[attr-defined]
        raise


class Command(TyperCommand):
    """A command by itself, as `python -m pipelines.<command>` runs it."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _without_credentials():
            return super().make_context(*arguments, **options)


class Group(TyperGroup):
    """`clinjepa` with its commands, whose arguments are read when the group is invoked."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        with _without_credentials():
            return super().make_context(*arguments, **options)

    def invoke(self, ctx: Any) -> Any:
        with _without_credentials():
            return super().invoke(ctx)
