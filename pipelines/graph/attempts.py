"""What a command planned for a run and how it ended: `<storage>/runs/<name>/attempts/<command>.json`.

It is written before the first stage, so that a run is known while it runs and after its cluster died, when there is no report yet. It is
replaced by the next attempt of the same command. `clinjepa runs` and `clinjepa gc` read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.graph.stage import Stage

ATTEMPT_SCHEMA_VERSION = 1
ATTEMPTS = "attempts"
"""Folder of a run that holds one file a command, and the lease of the process that works on it."""

RUNS = "runs"
Outcome = Literal["finished", "failed", "interrupted"]


class PlannedStage(TypedDict):
    """One stage of an attempt."""

    kind: str
    key: str
    label: str


class Attempt(TypedDict):
    """Content of the file."""

    schema_version: int
    command: str
    """Name of the command, for example `run`."""

    resume: str | None
    """What a user types to go on; None where the work was not started by a command line."""

    use_gpu: bool
    run_ids: list[str]
    """Invocations, as manifests name them; of a search all that have been, else the last."""

    open_ended: bool
    """A search: it makes stages that are not among `stages`, which are found by `run_ids`."""

    started: str
    ended: str | None
    """UTC times; `ended` is None until the command ends, and stays so when its process is killed."""

    outcome: Outcome | None
    """How the work on the cluster ended. A finished command may have had trials that failed."""

    fault: str | None
    """The error's line."""

    stages: list[PlannedStage]
    """Every stage the command needs, inputs included."""


def planned(stages: Sequence[Stage]) -> list[PlannedStage]:
    """The stages as an attempt records them, each key once."""
    return [{"kind": each.kind, "key": each.key, "label": each.label} for each in {stage.key: stage for stage in stages}.values()]


def read_attempt(run: Folder, name: str) -> Attempt:
    """One attempt of a run.

    Args:
        run: Folder of the run.
        name: The file's name.

    Raises:
        StoreError: The file is damaged or of another schema version.
    """
    found: Any = run.read_json(f"{ATTEMPTS}/{name}")
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version != ATTEMPT_SCHEMA_VERSION:
        raise StoreError(
            f"{run.address}/{ATTEMPTS}/{name} has schema version {version}, this clinjepa reads {ATTEMPT_SCHEMA_VERSION}; "
            "use the version that wrote it, or remove the file"
        )
    attempt: Attempt = found
    return attempt
