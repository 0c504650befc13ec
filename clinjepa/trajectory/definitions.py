"""Digests of the clinical definitions that texts are made by, so that texts of other definitions are told apart."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from clinjepa.config.schema import TextConfig
from clinjepa.storage.strays import is_stray

_INGESTED = ("variables.yaml", "exclusions.yaml", "cohorts.yaml", "maps")
"""Definitions that an ingest follows; texts with severity scores follow those of derived quantities too."""


def ingest_definitions(text: TextConfig) -> str:
    """Digest of the definitions that an ingest with these settings of texts follows, as it stands in the key of its stage."""
    return definitions_digest(*_INGESTED, *([] if text.exclusions == "all" else ["derived"]))


@cache
def definitions_digest(*names: str) -> str:
    """First 16 digits of the SHA-256 of files and folders of `clinjepa/clinical/`."""
    sha = hashlib.sha256()
    root = resources.files("clinjepa.clinical")
    for name in names:
        entry = root / name
        files = sorted(entry.iterdir(), key=lambda item: item.name) if entry.is_dir() else [entry]
        for file in files:
            if file.is_file() and file.name.endswith(".yaml") and not is_stray(file.name):
                sha.update(file.name.encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()[:16]
