"""Files on a local disk that appear whole or not at all."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def temporary_beside(target: Path) -> Path:
    """A name in the same folder, so that a rename or link to `target` is atomic."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def write_whole(target: Path, data: bytes) -> None:
    """Replace `target`; a reader sees the old content or the new."""
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
    """Make `target`; False when it is there already."""
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
