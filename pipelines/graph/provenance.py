"""Which code made the stages that a run reuses.

A stage's key holds its kind's format version, not the code: an edit that changes no format keeps what is finished, and whether an edit
changes results is for its author to say (`stages.FORMAT_VERSIONS`). So every manifest records the code, and whoever reuses says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from clinjepa.config import Config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, code_digest
from pipelines.graph.stage import Stage


def by_other_code(manifest: dict[str, Any]) -> bool:
    """True when the artifact was made by another version of the package than this one."""
    return manifest["code_digest"] != code_digest()


def reuse_warning(config: Config, stages: Iterable[Stage]) -> str | None:
    """One line on the finished stages among `stages` that other code made, and how to make them again; None when there is none.

    Reads the manifests; StoreError for one of another schema version.
    """
    storage = Folder(config.storage)
    asked = list({stage.key: stage for stage in stages}.values())
    artifacts = ((stage, Artifact.at(storage, stage.kind, stage.key)) for stage in asked)
    others = [stage.label for stage, artifact in artifacts if artifact.is_complete() and by_other_code(artifact.manifest())]
    return other_code_line(others, len(asked), storage.address) if others else None


def other_code_line(labels: list[str], num_asked: int, storage: str) -> str:
    """What `plan`, `run` and the others print."""
    shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    return (
        f"{len(labels)} of {num_asked} stages are finished and reused although other code made them, in the same formats ({shown}); "
        f"to make them again remove their folders (`clinjepa plan` marks them; {storage}/artifacts) or give another storage=…"
    )
