"""The folder of an export. It is written into an empty folder or over an earlier export of the same run, recipe and seed.

`export.json` holds the SHA-256 of every other file and is written last. Until then `export.unfinished.json` holds its identity.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from clinjepa.errors import StoreError, counted
from clinjepa.export.serving_facts import FORECASTER, PROBES, SERVING
from clinjepa.storage import Folder

SCHEMA_VERSION = 1
MANIFEST, UNFINISHED, CARD = "export.json", "export.unfinished.json", "README.md"
_OWN = ("encoder", "base", "predictor", "tokenizer", PROBES, FORECASTER, SERVING, CARD)
_IDENTIFIED = ("encoder", "base", "predictor", "tokenizer", PROBES, FORECASTER)


def begin_export(out: Folder, identity: Mapping[str, object]) -> None:
    """Prepare the folder: remove an earlier export of the same `identity` (run, recipe and seed), finished or not.

    Raises StoreError when the folder holds anything else.
    """
    present = out.names()
    if present:
        marker = next((name for name in (MANIFEST, UNFINISHED) if name in present), None)
        found = out.read_json(marker) if marker else None
        if not isinstance(found, dict) or any(found.get(name) != value for name, value in identity.items()):
            what = "another export" if isinstance(found, dict) else f"{counted(len(present), 'entry', 'entries')} of no export"
            raise StoreError(f"{out.address} holds {what}; give an empty or new folder")
        foreign = sorted(set(present) - {*_OWN, MANIFEST, UNFINISHED})
        if foreign:
            raise StoreError(
                f"{out.address} holds an earlier export and {counted(len(foreign), 'other thing')}; give an empty or new folder"
            )
    out.write_json(UNFINISHED, dict(identity))
    for name in (MANIFEST, *_OWN):
        out.remove(name)


def finish_export(out: Folder, record: Mapping[str, object]) -> None:
    """Write `export.json`: `record` and path, bytes and SHA-256 of every file."""
    found = out.files()
    files = [
        {"path": name, "bytes": size, "sha256": out.digest(name)} for name, size in found.items() if name not in (UNFINISHED, MANIFEST)
    ]
    out.write_json(MANIFEST, {"schema_version": SCHEMA_VERSION, **record, "files": files})
    out.remove(UNFINISHED)


def check_export(out: Folder) -> dict[str, Any]:
    """The manifest of a finished export; raises StoreError naming the first file that is missing or differs from its SHA-256."""
    manifest: dict[str, Any] = out.read_json(MANIFEST)
    for entry in manifest["files"]:
        if not out.exists(entry["path"]) or out.digest(entry["path"]) != entry["sha256"]:
            raise StoreError(f"{out.address}/{entry['path']} is missing or was altered after it was written; export again")
    return manifest


def weights_digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 in hex over the digests of weights and fitted parts: exports of equal trainings have equal ones. manifest: `export.json`."""
    found = {entry["path"]: entry["sha256"] for entry in manifest["files"] if entry["path"].partition("/")[0] in _IDENTIFIED}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
