"""Records of the leak audit: what is audited, the result of one check, and the report. Fields: docs/leak_audit.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypedDict

import pyarrow as pa

from clinjepa.clinical import Task
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.truncation import Read

Outcome = Literal["ok", "leak", "note", "skipped"]
Relabel = Callable[[Folder, str], pa.Table]
"""(ingest artifact, part) -> labels of that part (LABELS_SCHEMA), computed as the labels stage computes them."""


@dataclass(frozen=True)
class AuditedData:
    """Finished artifacts of one configuration; None where a stage is not finished."""

    ingest: Folder
    trajectories: Folder | None = None
    labels: Folder | None = None


@dataclass(frozen=True)
class Sampling:
    """Which partitions of the source are read again: `num_partitions`, evenly spread, with at most `num_stays` stays in total."""

    partitions: Mapping[str, Mapping[str, object]]
    """Part of the ingest artifact -> the source's partition that it was built from."""

    read: Read
    num_partitions: int = 4
    num_stays: int = 200


@dataclass(frozen=True)
class Labelling:
    """Tasks of the labels artifact, and the function that computes their labels again."""

    tasks: list[Task]
    relabel: Relabel


class CheckRecord(TypedDict):
    """The fields of `Check` in `audit.json`."""

    name: str
    outcome: Outcome
    num_checked: int
    unit: str
    num_found: int
    detail: str


class SampleSize(TypedDict):
    """Partitions and stays that were read again."""

    num_partitions: int
    num_stays: int


class AuditReport(TypedDict):
    """Result of the audit: `audit.json` without the names of the data set and its artifacts."""

    schema_version: int
    sample: SampleSize
    num_leaks: int
    checks: list[CheckRecord]


@dataclass(frozen=True)
class Check:
    """Result of one check: counts over all patients, never of one.

    outcome: `leak` if something was found; `note` for a count that is no leak; `skipped` with the reason in `detail`.
    """

    name: str
    outcome: Outcome
    num_checked: int
    unit: str
    num_found: int
    detail: str = ""

    @classmethod
    def of(cls, name: str, num_checked: int, unit: str, num_found: int, detail: str = "") -> Check:
        """`leak` if anything was found, else `ok`."""
        return cls(name, "leak" if num_found else "ok", int(num_checked), unit, int(num_found), detail)

    @classmethod
    def skipped(cls, name: str, why: str) -> Check:
        """A check that cannot be made on these data."""
        return cls(name, "skipped", 0, "", 0, why)

    def record(self) -> CheckRecord:
        """As plain values."""
        return {
            "name": self.name,
            "outcome": self.outcome,
            "num_checked": self.num_checked,
            "unit": self.unit,
            "num_found": self.num_found,
            "detail": self.detail,
        }
