"""The faults a user can act on.

Each message names what was found, where, and what to do about it; none carries a patient's identifiers, text or times.
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path


class ClinJepaError(Exception):
    """Base of every fault that is reported as one line, without a traceback."""


class ConfigError(ClinJepaError):
    """A configuration that cannot be run: unknown key, wrong value, contradiction between fields."""


class SourceError(ClinJepaError):
    """Hospital data that cannot be read: a missing file or column, a cut zip, an unreadable table."""


class StoreError(ClinJepaError):
    """A store or artifact that is missing, torn, altered or of another schema version."""


class StorageError(ClinJepaError):
    """A storage address that cannot be reached, or a disk that is full."""


class SilentStoreError(StorageError):
    """An object store that gave no usable answer for as long as we wait."""


class CheckpointError(ClinJepaError):
    """A checkpoint that is torn, altered, of another schema or of another base model."""


class TornCheckpointError(CheckpointError):
    """A checkpoint that is not whole, or not what was written; the one before it may be."""


class TrainingError(ClinJepaError):
    """Training that must not go on: NaN, an exploding norm, a collapse beyond its threshold."""


class ResourceError(ClinJepaError):
    """A machine or cluster that lacks what the configuration asks for: a GPU, or memory on it."""


class LeakError(ClinJepaError):
    """Data that tell what they must not: an audit found an excluded field, a later event or a shared patient."""


class AccessError(ClinJepaError):
    """Single patients of a source that not everybody may look at."""


def retold(kind: str, message: str, otherwise: type[Exception] = TrainingError) -> Exception:
    """The fault that another process told by its class's name and its message; of the class `otherwise` where it is none of these."""
    found = globals().get(kind)
    return (found if isinstance(found, type) and issubclass(found, ClinJepaError) else otherwise)(message)


_PLACE = re.compile(r'File "([^"\n]+)", line (\d+)')
_QUOTED = (OSError, RuntimeError, MemoryError, ImportError, AttributeError)


def in_safe_words(error: BaseException) -> str:
    """One line on a fault that nobody foresaw: its kind, where in this project, and its first line where that can hold no patient's value.

    A `KeyError` or `ValueError` of a library quotes what it met; `--debug` shows those.
    """
    # As Ray Train and Ray Data wrap it, one in the other, with the traceback as their text: a traceback itself does not travel.
    told = "".join(traceback.format_tb(error.__traceback__))
    while isinstance(wrapped := getattr(error, "_base_exc", None) or getattr(error, "cause", None), BaseException):
        told, error = str(error), wrapped
    kind, places = type(error), _PLACE.findall(told)
    ours = [(Path(file).name, line) for file, line in places if {"clinjepa", "pipelines"} & set(Path(file).parts[-3:-1])]
    where = f" in {ours[-1][0]}:{ours[-1][1]}" if ours else ""
    words = str(error).strip().splitlines()
    quoted = isinstance(error, _QUOTED) or kind.__module__.partition(".")[0] == "ray"
    return f"{kind.__name__}{where}" + (f": {words[0][:300]}" if quoted and words else "")


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
