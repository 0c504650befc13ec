"""Sources whose files cannot be read by patient are extracted first: what that needs, and how a memory budget is shared.

A source has extractions when it defines `extractions` and `extract` (see `schema.Source`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from clinjepa.sources.csv_stream import ScanPlan, least_memory_mb, process_mb
from clinjepa.storage import Folder
from clinjepa.storage.parts import RECORDS

_UNPACKED = 12
"""Bytes of text per byte of csv.gz, at most, in MIMIC-IV's tables."""


@dataclass(frozen=True)
class ExtractionPlan:
    """How many tables are worked on at a time, in how much memory each, and the peak that is expected of all together."""

    num_pieces: int
    num_bytes: int
    at_a_time: int
    memory_mb_each: int
    estimate_mb: int

    @classmethod
    def of(cls, pieces: list[dict[str, Any]], memory_mb: int, cpus: float) -> ExtractionPlan:
        """pieces: of a source's `extractions`, with `bytes`. As many at a time as CPUs and memory allow."""
        at_a_time = max(1, min(len(pieces), int(cpus), memory_mb // least_memory_mb()))
        each = memory_mb // at_a_time
        peak, base = ScanPlan.within(each).peak_mb, process_mb()
        largest = sorted((piece["bytes"] for piece in pieces), reverse=True)[:at_a_time]
        return cls(
            len(pieces),
            sum(piece["bytes"] for piece in pieces),
            at_a_time,
            each,
            sum(min(peak, base + 4 * _UNPACKED * size // 2**20) for size in largest),
        )

    def __str__(self) -> str:
        return (
            f"{self.num_pieces} pieces, {self.num_bytes / 2**20:.0f} MB; {self.at_a_time} at a time, each in {self.memory_mb_each} MB "
            f"(execution.memory_mb in all); expected peak {self.estimate_mb} MB beside Ray's own"
        )


def has_extractions(source: Any) -> bool:
    """Whether a source (or its class) must be extracted before it is read."""
    return hasattr(source, "extractions")


def extract_all(source: Any, out: Folder, memory_mb: int) -> dict[str, int]:
    """Every extraction of a source, one after the other in this process; what was left out, by rule. {} when it has none."""
    counts: dict[str, int] = {}
    for piece in source.extractions() if has_extractions(source) else []:
        for rule, number in source.extract(piece, out, memory_mb).items():
            counts[rule] = counts.get(rule, 0) + number
    return counts


def item_report(found: dict[str, int]) -> str:
    """One line on a source's `check_items`: which variables' items the data's own dictionaries lack or mean differently."""
    said = []
    for rule, words in (("item_absent", "not in the data's dictionaries"), ("item_changed", "of another meaning there")):
        names = {key.partition(":")[2]: number for key, number in sorted(found.items()) if key.startswith(f"{rule}:")}
        if names:
            said.append(f"{sum(names.values())} items in use are {words} ({', '.join(names)})")
    return "; ".join(said) or "every item in use is in the data's dictionaries, with its known meaning"


def extraction_counts(extracted: Folder) -> dict[str, int]:
    """What was left out of all extracted tables together, by rule."""
    totals: Counter[str] = Counter()
    for name in extracted.names(RECORDS):
        totals.update(extracted.read_json(f"{RECORDS}/{name}")["counts"])
    return dict(sorted(totals.items()))
