"""Files that file managers, notebooks and office programs leave beside data: they are never data.

macOS writes `._name` and `.DS_Store`, Jupyter `.ipynb_checkpoints/`, Windows `Thumbs.db` and `desktop.ini`, office programs `~$name`, zip
programs `__MACOSX/`. They may end in `.parquet`, `.txt` or `.json` as the data do. Nothing in this project reads a file whose name begins
with a point by listing a folder.
"""

from __future__ import annotations

_NAMES = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_STARTS = (".", "~$")


def is_stray(name: str) -> bool:
    """Whether a relative path names such a file, or a file in such a folder."""
    return any(part.startswith(_STARTS) or part.casefold() in _NAMES for part in name.split("/"))
