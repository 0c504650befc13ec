"""Content-keyed results of stages in storage.

`<storage>/artifacts/<kind>/<key>/` holds one stage's output; it is complete when its `manifest.json` is there, and the manifest is
written last. The key is a hash of everything that determines the content, so a finished stage is never run twice, whoever asks.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clinjepa
from clinjepa.errors import StoreError
from clinjepa.storage import Folder

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
_NOT_CONTENT = ("lease/", "checkpoints/", MANIFEST)


def content_key(value: Any) -> str:
    """First 20 hex digits of the SHA-256 of a JSON value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()[:20]


@functools.cache
def code_digest() -> str:
    """Digest of the package's own files: the manifest records it, and `plan` says when an artifact was made by other code."""
    sha = hashlib.sha256()
    root = Path(clinjepa.__file__).parent
    for path in sorted(p for p in root.rglob("*") if p.suffix in {".py", ".yaml", ".json"}):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return sha.hexdigest()[:16]


@dataclass(frozen=True)
class Artifact:
    """One stage's output folder."""

    kind: str
    key: str
    folder: Folder

    @classmethod
    def at(cls, storage: Folder, kind: str, key: str) -> Artifact:
        return cls(kind, key, storage / f"artifacts/{kind}/{key}")

    def is_complete(self) -> bool:
        return self.folder.exists(MANIFEST)

    def manifest(self) -> dict[str, Any]:
        """Raises StoreError when the artifact is not finished, or was made under another schema version."""
        manifest = self.folder.read_json(MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
            found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
            raise StoreError(
                f"{self.folder.address}/{MANIFEST} has schema version {found}, this clinjepa reads {SCHEMA_VERSION}; "
                "use the version that wrote it, or another storage=… folder"
            )
        return manifest

    def verify(self, contents: bool = False) -> dict[str, Any]:
        """Check that every file is there with its size (and its digest, when `contents`); returns the manifest.

        Sizes come from one listing, whatever the number of files; without `contents` nothing but the manifest is read.
        """
        manifest = self.manifest()
        sizes = self.folder.files()
        for entry in manifest["files"]:
            name = entry["path"]
            if name not in sizes:
                raise StoreError(
                    f"{self.folder.address}/{name} is missing although its stage is finished; remove {self.folder.address} and run again"
                )
            if sizes[name] != entry["bytes"] or (contents and self.folder.digest(name) != entry["sha256"]):
                raise StoreError(
                    f"{self.folder.address}/{name} was altered after it was written; remove {self.folder.address} and run again"
                )
        return manifest

    def publish(
        self,
        *,
        inputs: dict[str, str],
        settings: dict[str, Any],
        metrics: dict[str, Any],
        seconds: float,
        num_workers: int,
        run_id: str,
        label: str,
        may_publish: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        """Write the manifest, which makes the artifact exist; one that is there is never replaced.

        may_publish: raises when the caller has lost its right; called after the digests, which take long, right before the manifest.
        """
        files = [
            {"path": name, "bytes": size, "sha256": self.folder.digest(name)}
            for name, size in self.folder.files().items()
            if not name.startswith(_NOT_CONTENT)
        ]
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "kind": self.kind,
            "key": self.key,
            "label": label,
            "inputs": inputs,
            "settings": settings,
            "files": files,
            "metrics": metrics,
            "seconds": round(seconds, 3),
            "num_workers": num_workers,
            "run_id": run_id,
            "code_digest": code_digest(),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        may_publish()
        return manifest if self.folder.create_json(MANIFEST, manifest) else self.manifest()
