"""The folder of an export: written into an empty place or over an earlier export of the same run, complete when `export.json` is there.

`export.json` has the SHA-256 of every other file and is written last; until then `export.unfinished.json` says whose folder it is.
"""

from __future__ import annotations

from typing import Any

from clinjepa.errors import StoreError
from clinjepa.storage import Folder

SCHEMA_VERSION = 1
MANIFEST, UNFINISHED, CARD = "export.json", "export.unfinished.json", "README.md"
_OWN = ("encoder", "base", "predictor", "tokenizer", CARD)


def begin_export(out: Folder, identity: dict[str, Any]) -> None:
    """Make room: nothing but an earlier export (finished or not) of the same `identity` is removed.

    identity: run, recipe and seed. Raises StoreError when anything else lies there.
    """
    present = out.names()
    if present:
        marker = next((name for name in (MANIFEST, UNFINISHED) if name in present), None)
        found = out.read_json(marker) if marker else None
        if not isinstance(found, dict) or any(found.get(name) != value for name, value in identity.items()):
            what = "another export" if isinstance(found, dict) else f"{len(present)} files or folders that are no export"
            raise StoreError(f"{out.address} holds {what}; give an empty or new folder")
        foreign = sorted(set(present) - {*_OWN, MANIFEST, UNFINISHED})
        if foreign:
            raise StoreError(f"{out.address} holds an earlier export and {len(foreign)} other things; give an empty or new folder")
    out.write_json(UNFINISHED, identity)
    for name in (MANIFEST, *_OWN):
        out.remove(name)


def finish_export(out: Folder, record: dict[str, Any]) -> None:
    """Write `export.json`: `record` and path, bytes and SHA-256 of every file."""
    found = out.files()
    files = [
        {"path": name, "bytes": size, "sha256": out.digest(name)} for name, size in found.items() if name not in (UNFINISHED, MANIFEST)
    ]
    out.write_json(MANIFEST, {"schema_version": SCHEMA_VERSION, **record, "files": files})
    out.remove(UNFINISHED)


def check_export(out: Folder) -> dict[str, Any]:
    """The manifest of a finished export whose files are all as they were written; StoreError names the first that is not."""
    manifest = out.read_json(MANIFEST)
    for entry in manifest["files"]:
        if not out.exists(entry["path"]) or out.digest(entry["path"]) != entry["sha256"]:
            raise StoreError(f"{out.address}/{entry['path']} is missing or was altered after it was written; export again")
    return manifest
