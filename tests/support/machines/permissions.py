"""Which files and folders other users of the machine could read."""

from __future__ import annotations

import stat
from pathlib import Path


def open_to_others(root: Path) -> list[str]:
    """Files and folders at and below `root` with any right for group or others, or without the owner's."""
    found = []
    for path in [root, *root.rglob("*")]:
        mode = stat.S_IMODE(path.lstat().st_mode)
        if not path.is_symlink() and mode != (0o700 if path.is_dir() else 0o600):
            found.append(f"{path.relative_to(root)} {mode:o}")
    return found
