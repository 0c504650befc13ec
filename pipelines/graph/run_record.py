"""The record of a run, `<storage>/runs/<name>/run.json`: which artifacts its report is about."""

from __future__ import annotations

from typing import TypedDict

from clinjepa.config import Config
from clinjepa.errors import StoreError
from clinjepa.storage import Folder

RUN_SCHEMA_VERSION = 1
RUN_RECORD = "run.json"


class TrialRecord(TypedDict):
    """One finished trial."""

    recipe: str
    seed: int
    values: dict[str, object]
    """Dotted name of a setting -> its value at the trial's point of the axes."""

    artifacts: dict[str, str]
    """Label of a stage -> `<kind>/<key>`."""


class RunRecord(TypedDict):
    """Content of `run.json`."""

    schema_version: int
    name: str
    config_digest: str
    code_digest: str
    other_code: dict[str, str]
    """`<kind>/<key>` of artifacts that another version of the code made -> its digest."""

    trials: list[TrialRecord]


def check_run_folder(config: Config) -> None:
    """Raise StoreError when the run's folder holds a record of another schema version."""
    folder = Folder(config.storage) / f"runs/{config.name}"
    if folder.exists(RUN_RECORD):
        found = folder.read_json(RUN_RECORD).get("schema_version")
        if found != RUN_SCHEMA_VERSION:
            raise StoreError(
                f"{folder.address}/{RUN_RECORD} has schema version {found}, this clinjepa writes {RUN_SCHEMA_VERSION}; "
                "give another name=… or storage=…, or move the folder away"
            )
