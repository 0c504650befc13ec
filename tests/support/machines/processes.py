"""Processes of a command and of everything that it started, found by a mark in their environment."""

from __future__ import annotations

import time
from pathlib import Path


def marked(mark: str) -> list[int]:
    """Processes that have `mark` in their environment, without those that have ended and wait to be collected."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and mark.encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def none_left(mark: str, seconds: float = 60) -> bool:
    """Whether all marked processes have ended within `seconds`. Ray's agents look after their parent every few seconds only."""
    deadline = time.monotonic() + seconds
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
