"""Exceptions for faults that a user can act on, one class per kind of fault.

Each message names what was found, where, and what to do about it. No message contains a patient's identifiers, text or times, and none
a credential: every message passes `redaction.redacted`.
"""

from __future__ import annotations

import contextlib
import os
import re
import traceback
from collections.abc import Iterator
from pathlib import Path

from clinjepa.redaction import redacted


class ClinJepaError(Exception):
    """Base of every error that the command line reports as one line, without a traceback."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*(redacted(str(each)) for each in arguments))

    def add_note(self, note: str) -> None:
        """A note that a traceback shows below the message; it passes `redacted` too."""
        super().add_note(redacted(note))


class ConfigError(ClinJepaError):
    """A configuration that cannot be run: unknown key, wrong value, contradiction between fields."""


class SourceError(ClinJepaError):
    """Hospital data that cannot be read: a missing file or column, a cut zip, an unreadable table."""


class StoreError(ClinJepaError):
    """A store or artifact that is missing, truncated, altered or of another schema version."""


class StorageError(ClinJepaError):
    """A storage address that cannot be reached, or a disk that is full."""


class SilentStoreError(StorageError):
    """An object store that gave no usable response within the retry time."""


class CheckpointError(ClinJepaError):
    """A checkpoint that is truncated, altered, of another schema or of another base model."""


class TornCheckpointError(CheckpointError):
    """A checkpoint that is truncated or differs from what was written. The previous checkpoint may be intact."""


class TrainingError(ClinJepaError):
    """Training that must stop: NaN, an exploding norm, a collapse beyond its threshold."""


class EvaluationError(ClinJepaError):
    """Results that cannot be evaluated: scores or latents that are not finite, labels of one class only."""


class ResourceError(ClinJepaError):
    """A machine or cluster that lacks what the configuration asks for: a GPU, or memory on it."""


class LeakError(ClinJepaError):
    """Data leakage: an audit found an excluded field, a later event, or a patient in two splits."""


class AccessError(ClinJepaError):
    """A request to show single patients of a source with credentialed access."""


class HiddenError(RuntimeError):
    """An unexpected exception in safe words, in the place of one whose message may quote a patient's value."""


DEBUG_VARIABLE = "CLINJEPA_DEBUG"
"""Set to 1 in a process, exceptions keep their messages there (`values_hidden`). `--debug` sets it for a Ray on this machine."""


def retold(kind: str, message: str, otherwise: type[Exception] = TrainingError) -> Exception:
    """The exception that another process reported by class name and message.

    Args:
        kind: Name of the exception's class.
        message: Its message.
        otherwise: Class to use when `kind` is not a class of this module.
    """
    found = globals().get(kind)
    return (found if isinstance(found, type) and issubclass(found, ClinJepaError) else otherwise)(message)


_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')
_QUOTED = (OSError, RuntimeError, MemoryError, ImportError, AttributeError)


def in_safe_words(error: BaseException) -> str:
    """One line on an unexpected exception: its class, its source location in this project, and the first line of its message.

    The message is left out for classes whose messages may quote a patient's value: a `KeyError` or `ValueError` of a library quotes
    the value that it failed on. `--debug` shows the full message.
    """
    # Ray Train and Ray Data wrap exceptions in each other. Tracebacks cannot be pickled, so the wrapper's text contains the traceback.
    trace = "".join(traceback.format_tb(error.__traceback__))
    while isinstance(wrapped := getattr(error, "_base_exc", None) or getattr(error, "cause", None), BaseException):
        trace, error = str(error), wrapped
    if isinstance(error, HiddenError):
        return str(error).strip().partition("\n")[0]  # Ray Data adds lines with advice
    kind, places = type(error), _PLACE.findall(trace)
    ours = [(Path(file).name, line) for file, line in places if {"clinjepa", "pipelines"} & set(Path(file).parts[-3:-1])]
    where = f" in {ours[-1][0]}:{ours[-1][1]}" if ours else ""
    words = str(error).strip().splitlines()
    quoted = _may_be_quoted(error)
    return f"{kind.__name__}{where}" + (f": {redacted(words[0])[:300]}" if quoted and words else "")


@contextlib.contextmanager
def values_hidden() -> Iterator[None]:
    """Let no exception with a patient's value leave the block: what runs in a worker of Ray is in one.

    Ray writes an exception with its traceback, and all that it followed, into logs that stay, and its dashboard shows it. So an unexpected
    exception whose message may quote a value becomes a `HiddenError` with the same traceback, whose lines are code alone, and one whose
    message may be shown loses those that it followed if they may not.

    Raises:
        HiddenError: In the place of an exception whose message may quote a value.
    """
    hidden: HiddenError
    try:
        yield
        return
    except Exception as error:
        if os.environ.get(DEBUG_VARIABLE) == "1":
            raise
        if isinstance(error, ClinJepaError) or _may_be_quoted(error):
            if not _followed_may_be_quoted(error):
                error.__cause__ = error.__context__ = None
            raise
        hidden = HiddenError(in_safe_words(error)).with_traceback(error.__traceback__)
    raise hidden from None


def _may_be_quoted(error: BaseException) -> bool:
    """Whether the message of an exception that is not this project's may be shown."""
    return isinstance(error, _QUOTED) or type(error).__module__.partition(".")[0] == "ray"


def _followed_may_be_quoted(error: BaseException) -> bool:
    """Whether that holds for every exception that `error` followed."""
    seen, followed = {id(error)}, error.__cause__ or error.__context__
    while followed is not None and id(followed) not in seen:
        if not (isinstance(followed, ClinJepaError) or _may_be_quoted(followed)):
            return False
        seen.add(id(followed))
        followed = followed.__cause__ or followed.__context__
    return True


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun, for a message: `1 row`, `1,234 rows`. plural: of a noun that does not end in s then."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def first_line(error: BaseException) -> str:
    """First line of an exception's message, redacted, at most 200 characters; the class name when the message is empty."""
    return redacted((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
