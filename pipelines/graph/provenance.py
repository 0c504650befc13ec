"""Which code made the stages that a run reuses.

A stage's key holds the format version of its kind, not its code. An edit of the code keeps finished stages, unless its author raises the
version (`FORMAT_VERSIONS` in each room's `__init__.py`). Manifests record a digest of the code that made them, and a run that reuses stages
of other code reports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from clinjepa.config import Config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.code_digest import code_digest
from pipelines.graph.stage import Stage


def by_other_code(manifest: Mapping[str, Any]) -> bool:
    """Whether an artifact was made by code that differs from the installed one in what its kind of stage uses."""
    return bool(manifest["code_digest"] != code_digest(manifest["kind"]))


def reuse_warning(config: Config, stages: Iterable[Stage]) -> str | None:
    """One line on the finished stages among `stages` that other code made, and how to recompute them; None when there are none.

    Reads the manifests. Raises StoreError for a manifest of another schema version.
    """
    storage = Folder(config.storage)
    asked = list({stage.key: stage for stage in stages}.values())
    artifacts = ((stage, Artifact.at(storage, stage.kind, stage.key)) for stage in asked)
    others = [stage.label for stage, artifact in artifacts if artifact.is_complete() and by_other_code(artifact.manifest())]
    return other_code_line(others, len(asked), storage.address) if others else None


def other_code_line(labels: list[str], num_asked: int, storage: str) -> str:
    """The line that `plan`, `run` and the other commands print. labels: those of the stages; num_asked: stages looked at."""
    shown = ", ".join(labels[:3]) + (f" and {len(labels) - 3} more" if len(labels) > 3 else "")
    return (
        f"{len(labels)} of {num_asked} stages are finished and reused although other code made them, in the same formats ({shown}); "
        f"to make them again remove their folders (`clinjepa plan` marks them; {storage}/artifacts) or give another storage=…"
    )
