"""Atomic writes on a local disk: a file appears complete or not at all. Used by `Folder`."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def temporary_beside(target: Path) -> Path:
    """A path in the same folder, so that a rename or link to `target` is atomic."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def write_whole(target: Path, data: bytes) -> None:
    """Replace `target`; a reader sees either the old or the new content."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def create_whole(target: Path, data: bytes) -> bool:
    """Create `target`; False when it exists already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    try:
        temporary.write_bytes(data)
        os.link(temporary, target)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
