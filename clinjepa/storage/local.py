"""Atomic writes on a local disk: a file appears complete or not at all. Used by `Folder`.

What holds or derives from patients is private: folders get the mode 700 and files 600 whatever the umask. Folders that exist already keep
theirs. Only what is made to be shared (an export of a model that may be shared) follows the umask.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o700, 0o600


def temporary_beside(target: Path) -> Path:
    """A path in the same folder, so that a rename or link to `target` is atomic."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")


def make_folders(folder: Path, private: bool = True) -> None:
    """Make a folder and those above it that are missing."""
    if not private:
        folder.mkdir(parents=True, exist_ok=True)
        return
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    if not folder.is_dir():
        raise NotADirectoryError(20, os.strerror(20), str(folder))
    for each in reversed(missing):
        try:
            each.mkdir(FOLDER_MODE)
            each.chmod(FOLDER_MODE)  # a umask can take rights of the owner away
        except FileExistsError:
            continue  # made by another process in the meantime


def close_to_others(folder: Path) -> None:
    """Take the rights of group and others from a folder of this user that an earlier version made; its files need no change then."""
    try:
        found = folder.stat()
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            folder.chmod(FOLDER_MODE)
    except OSError:
        return  # missing, or a file system without modes


def create_file(path: Path, private: bool = True) -> int:
    """Descriptor of a new file, open for writing."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, FILE_MODE if private else 0o666)
    if private:
        os.fchmod(descriptor, FILE_MODE)
    return descriptor


def write_whole(target: Path, data: bytes, private: bool = True) -> None:
    """Replace `target`; a reader sees either the old or the new content."""
    make_folders(target.parent, private)
    temporary = temporary_beside(target)
    try:
        with open(create_file(temporary, private), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def create_whole(target: Path, data: bytes, private: bool = True) -> bool:
    """Create `target`; False when it exists already."""
    make_folders(target.parent, private)
    temporary = temporary_beside(target)
    try:
        with open(create_file(temporary, private), "wb") as file:
            file.write(data)
        os.link(temporary, target)
        return True
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
