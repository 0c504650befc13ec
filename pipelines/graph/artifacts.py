"""Content-keyed results of stages in storage.

`<storage>/artifacts/<kind>/<key>/` holds one stage's output. The manifest is written last, so an artifact is complete when its
`manifest.json` exists. The key is a hash of everything that determines the content, so a finished stage is never run twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.graph.code_digest import code_digest

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
RESULT = "result.json"
"""What an evaluation found."""
_NOT_CONTENT = ("lease/", "checkpoints/", MANIFEST)


def content_key(value: Any) -> str:
    """First 20 hex digits of the SHA-256 of a JSON value with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class WorkRecord:
    """How an artifact was made; its manifest records this beside the files."""

    label: str
    """Name of the stage for the user."""

    inputs: dict[str, str]
    """Role -> key of the input artifact."""

    settings: Mapping[str, Any]
    """The stage's settings, as in its key."""

    metrics: Mapping[str, Any]
    """What the executor returned."""

    seconds: float
    """Duration of the work."""

    num_workers: int = 1
    run_id: str = ""
    """The invocation that did the work."""


@dataclass(frozen=True)
class Artifact:
    """The output folder of one stage."""

    kind: str
    key: str
    folder: Folder

    @classmethod
    def at(cls, storage: Folder, kind: str, key: str) -> Artifact:
        """The artifact of a kind and key in a storage folder, whether or not it exists yet."""
        return cls(kind, key, storage / f"artifacts/{kind}/{key}")

    def is_complete(self) -> bool:
        """Whether the manifest exists."""
        return self.folder.exists(MANIFEST)

    def manifest(self) -> dict[str, Any]:
        """The content of the manifest. Raises StoreError when it does not exist or has another schema version."""
        manifest = self.folder.read_json(MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("schema_version") != SCHEMA_VERSION:
            found = manifest.get("schema_version") if isinstance(manifest, dict) else type(manifest).__name__
            raise StoreError(
                f"{self.folder.address}/{MANIFEST} has schema version {found}, this clinjepa reads {SCHEMA_VERSION}; "
                "use the version that wrote it, or another storage=… folder"
            )
        return manifest

    def verify(self, contents: bool = False) -> dict[str, Any]:
        """Check that every file of the manifest exists with its size; with `contents` also its digest.

        Sizes come from one listing, whatever the number of files. Without `contents` only the manifest is read.

        Returns the manifest. Raises StoreError naming the file that is missing or altered.
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

    def publish(self, work: WorkRecord, may_publish: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Write the manifest, which completes the artifact. An existing manifest is never replaced.

        Args:
            work: how the artifact was made.
            may_publish: raises when the caller no longer holds the stage's lease. Called right before the manifest is written, after the
                digests of the files, which take long.

        Returns:
            The manifest that is in storage.
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
            "label": work.label,
            "inputs": work.inputs,
            "settings": work.settings,
            "files": files,
            "metrics": work.metrics,
            "seconds": round(work.seconds, 3),
            "num_workers": work.num_workers,
            "run_id": work.run_id,
            "code_digest": code_digest(self.kind),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        may_publish()
        return manifest if self.folder.create_json(MANIFEST, manifest) else self.manifest()
