"""`serving.json` of an export: how texts of new patients are made, and what is predicted from them.

Reading it needs no library. Format: docs/serving.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clinjepa.errors import StoreError

if TYPE_CHECKING:
    from clinjepa.storage import Folder

SERVING = "serving.json"
SCHEMA_VERSION = 2
PROBES, FORECASTER = "probes", "forecaster"
"""Folders of the export with what the run's evaluations fitted."""
MIMIC_ITEMS = "maps/mimic_iv.yaml"
"""`source.map` of a run whose MEDS is MIMIC-IV's conversion, whose codes hold MIMIC-IV's items."""
OWN_MAP = "own"
"""`source.map` of a run that reads MEDS by a map of the user's."""


def takes_meds_rows(source: Mapping[str, Any]) -> bool:
    """Whether a run of this `source` (`ServingFacts.source`) can be asked with rows of a MEDS file: its codes are MIMIC-IV's."""
    return bool(source["kind"] == "meds" and source["map"] == MIMIC_ITEMS)


def reads_by_map(source: Mapping[str, Any]) -> bool:
    """Whether a run of this `source` reads MEDS by a map of codes."""
    return bool(source["kind"] == "meds" and source["map"] != MIMIC_ITEMS)


@dataclass(frozen=True)
class ServedTask:
    """A risk task with probes."""

    name: str
    title: str
    horizon_hours: int | None
    unit: str
    """Of a predicted number; empty for a probability."""


@dataclass(frozen=True)
class ServingFacts:
    """What turns rows of a patient into predictions, beside the weights."""

    run: str
    recipe: str
    seed: int
    config_digest: str
    encoder_digest: str
    source: Mapping[str, Any]
    """kind; name of the data set; map: the file of `clinjepa/clinical/` that the source follows, OWN_MAP, or null; event_time."""
    text: Mapping[str, Any]
    """Section `text` of the configuration, as it stands in the ingest stage's settings."""
    cohort: Mapping[str, Any]
    """Section `cohort`, in the same way."""
    definitions: str
    """Digest of the clinical definitions, as in the ingest stage's settings (`clinjepa.trajectory.definitions`)."""
    max_hours: int
    """`windows.max_hours`."""
    reach_hours: int
    """Hours whose positions the predictor's training could reach."""
    tasks: tuple[ServedTask, ...]
    event_tasks: tuple[str, ...]
    """Tasks whose probability is computed from the forecasts, without a probe."""


def write_serving_facts(folder: Folder, facts: ServingFacts) -> None:
    """Write `serving.json`."""
    folder.write_json(SERVING, {"schema_version": SCHEMA_VERSION, **asdict(facts)})


def read_serving_facts(folder: str | os.PathLike[str]) -> ServingFacts:
    """The facts of a local export.

    Raises:
        StoreError: `serving.json` is missing, altered or of another version.
    """
    where = Path(folder, SERVING)
    try:
        content = json.loads(where.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise StoreError(f"{where} is missing; evaluate the run with `clinjepa evaluate`, then export it again") from None
    except ValueError:
        raise StoreError(f"{where} is not valid JSON: it was altered or cut; export again") from None
    version = content.pop("schema_version", None) if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise StoreError(f"{where} has schema version {version}, this clinjepa reads {SCHEMA_VERSION}; export again with this one")
    try:
        tasks = tuple(ServedTask(**task) for task in content.pop("tasks"))
        events = tuple(content.pop("event_tasks"))
        return ServingFacts(**content, tasks=tasks, event_tasks=events)
    except (TypeError, KeyError, AttributeError):
        raise StoreError(f"{where} does not have the fields of schema version {SCHEMA_VERSION}: it was altered; export again") from None
