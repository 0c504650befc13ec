"""What Ray writes on this process's standard error by itself, whatever the log levels of Python are."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import ray

LEVEL_VARIABLE = "RAY_BACKEND_LOG_LEVEL"
"""Least severity that Ray's compiled parts write. A value of the user is kept."""


@contextlib.contextmanager
def quiet_core() -> Iterator[None]:
    """Connect this process to Ray inside this block; the core of Ray in it then writes fatal errors only.

    Otherwise it prints a line of level error for every pool of Ray Data, whose workers always have arguments in the object store and are
    always restarted: "core_worker.cc … has constructor arguments in the object store and max_restarts > 0" (Ray 2.60). Faults of a task
    reach this process as exceptions, so nothing is lost by it. Other processes of Ray write their logs as before.
    """
    if LEVEL_VARIABLE in os.environ:
        yield
        return
    module: Any = ray._raylet
    core = module.CoreWorker

    def connected(*arguments: Any, **options: Any) -> Any:
        os.environ[LEVEL_VARIABLE] = "fatal"  # read once, when the core starts
        try:
            with _without(LEVEL_VARIABLE):
                return core(*arguments, **options)
        finally:
            del os.environ[LEVEL_VARIABLE]

    module.CoreWorker = connected
    try:
        yield
    finally:
        module.CoreWorker = core


@contextlib.contextmanager
def _without(words: str) -> Iterator[None]:
    """Leave out lines with these words of what is written on standard error inside the block, also by compiled code; the rest follows."""
    with tempfile.TemporaryFile() as held:
        try:
            sys.stderr.flush()
            before = os.dup(2)
        except (OSError, ValueError):  # closed: nothing is read there
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(before, 2)
            os.close(before)
            held.seek(0)
            kept = b"".join(line for line in held if words.encode() not in line)
            with contextlib.suppress(OSError):
                os.write(2, kept)
