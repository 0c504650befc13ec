"""Extraction of sources whose files cannot be read by patient (`schema.ExtractedSource`), and how it shares a memory budget.

The first stage of such a source: it runs before `ingest`, which reads the extracted tables.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from clinjepa.errors import SourceError
from clinjepa.sources.files.csv_stream import ScanPlan, least_memory_mb, process_mb
from clinjepa.sources.schema import ExtractedSource, Partition, PartitionReader, Source, SourceTables, TableFile
from clinjepa.storage import Folder
from clinjepa.storage.parts import RECORDS

_UNPACKED = 12
"""Bytes of text per byte of csv.gz, at most, in MIMIC-IV's tables."""


@dataclass(frozen=True)
class ExtractionPlan:
    """Number of tables extracted at a time, memory for each in MB, and the expected peak of all of them together in MB."""

    num_pieces: int
    num_bytes: int
    at_a_time: int
    memory_mb_each: int
    estimate_mb: int

    @classmethod
    def of(cls, pieces: list[TableFile], memory_mb: int, cpus: float) -> ExtractionPlan:
        """Plan for the `pieces` of a source's `extractions`: as many at a time as CPUs and memory allow."""
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
            f"(execution.memory_mb in all); expected peak {self.estimate_mb} MB in addition to Ray's own memory"
        )


def has_extractions(source: Source[Any] | type[Source[Any]]) -> TypeGuard[ExtractedSource[Any]]:
    """Whether a source (or its class) must be extracted before it is read."""
    return hasattr(source, "extractions")


def extracted_source(source: Source[Any]) -> ExtractedSource[Any]:
    """The same source, known to have extractions; SourceError when it is read without one."""
    if not has_extractions(source):
        raise SourceError(f"source.kind={source.name} is read directly, without an extraction; run `clinjepa ingest`")
    return source


def read_partition(source: PartitionReader[Partition], partition: Partition, extracted: Folder | None) -> SourceTables:
    """Stays and events of a partition. extracted: the folder of the source's extraction, for sources that have one."""
    if extracted is None:
        return source.read(partition)
    return cast(ExtractedSource[Partition], source).read(partition, extracted)


def extract_all(source: Source[Any], out: Folder, memory_mb: int) -> dict[str, int]:
    """Run all extractions of a source in this process. Returns the rows left out, by rule; {} when the source has no extraction."""
    counts: dict[str, int] = {}
    if not has_extractions(source):
        return counts
    for piece in source.extractions():
        for rule, number in source.extract(piece, out, memory_mb).items():
            counts[rule] = counts.get(rule, 0) + number
    return counts


def item_report(found: dict[str, int]) -> str:
    """One line on the result of `check_items`: the variables whose items the data's own dictionaries lack or define differently."""
    parts = []
    for rule, words in (("item_absent", "not in the data's dictionaries"), ("item_changed", "defined differently there")):
        names = {key.partition(":")[2]: number for key, number in sorted(found.items()) if key.startswith(f"{rule}:")}
        if names:
            parts.append(f"{sum(names.values())} items in use are {words} ({', '.join(names)})")
    return "; ".join(parts) or "every item in use is in the data's dictionaries, with its known meaning"


def extraction_counts(extracted: Folder) -> dict[str, int]:
    """Rows left out of all extracted tables together, by rule."""
    totals: Counter[str] = Counter()
    for name in extracted.names(RECORDS):
        totals.update(extracted.read_json(f"{RECORDS}/{name}")["counts"])
    return dict(sorted(totals.items()))
