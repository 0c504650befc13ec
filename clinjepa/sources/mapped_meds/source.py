"""Source for MEDS data sets other than MIMIC-IV's conversion: `source.kind: meds` with `source.map` (`clinical.code_maps`).

The files are first streamed into buckets of patients (`extract`), since a subject's rows may be scattered; a partition then reads only its
patients. The map's content is part of the source's content digest.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.files.buckets import PatientBucket, bucket_of, patient_buckets, read_rows_of_bucket
from clinjepa.sources.mapped_meds.coverage import check_coverage, read_coverage
from clinjepa.sources.mapped_meds.events import end_open_stays, read_events, whole_windows
from clinjepa.sources.mapped_meds.extract import SCHEMA_VERSION, Piece, StayWindows, extract_piece
from clinjepa.sources.mapped_meds.files import MedsFiles
from clinjepa.sources.mapped_meds.maps import load_code_map
from clinjepa.sources.mapped_meds.stays import read_stays
from clinjepa.sources.mapped_meds.structure import icu_stays, of_kind, read_structure
from clinjepa.sources.meds.splits import SPLITS, read_splits
from clinjepa.sources.readings.cleaning import finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables, TableFile, partition_count
from clinjepa.sources.stay_counts import StayCounts, of_known_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

_STAYS = "stays"
_MOST_PIECES = 32


class MappedMedsSource:
    """MEDS with a map of its codes. `config.path` is the folder that the map's patterns of files start from."""

    name = "meds"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._map = load_code_map(config.map)
        self._folder = Folder(config.path or "")
        self._files = MedsFiles.find(self._folder, self._map, config.subsets)
        self._structure: pl.DataFrame | None = None

    def content_digest(self) -> str:
        """SHA-256 over the map's content and names and contents of the Parquet files read."""
        sha = hashlib.sha256(f"{self._map.digest};".encode())
        for name in [*self._files.all, *([SPLITS] if self._folder.exists(SPLITS) else [])]:
            sha.update(f"{name}:{self._folder.digest(name)};".encode())
        return sha.hexdigest()

    def check_items(self) -> dict[str, int]:
        """{}: codes that the map lacks are counted while the files are extracted."""
        return {}

    def extractions(self) -> list[TableFile]:
        """The record of unusable stays, then pieces of neighbouring files."""
        pieces: list[TableFile] = [
            {"table": piece.name, "bytes": sum(self._folder.size(name) for name in piece.files)} for piece in self._pieces()
        ]
        return [{"table": _STAYS, "bytes": 0}, *pieces]

    def extract(self, piece: TableFile, out: Folder, memory_mb: int) -> dict[str, int]:
        """Stream a piece into buckets of patients below `out`; returns the rows left out, by rule. See `extract.extract_piece`."""
        if piece["table"] == _STAYS:
            return self._record_stays(out)
        windows = StayWindows.of(self._stays(out), self._num_buckets(out))
        (chosen,) = (one for one in self._pieces() if one.name == piece["table"])
        return extract_piece(self._folder, chosen, self._map, windows, out, memory_mb)

    def partitions(self) -> list[PatientBucket]:
        """Buckets with at least one stay; `max_stay_id` is the last stay id read with `max_stays`. Reads the map's files of stays."""
        read_splits(self._folder)  # a file that puts a subject into two splits is refused before any other is read
        return patient_buckets(self._stays(), self._num_buckets(), self._config.max_stays is not None)

    def stay_counts(self) -> StayCounts | None:
        """Number and lengths of the usable stays; None where the end of one is not coded."""
        stays = self._stays()
        if stays["outtime"].null_count():
            return None
        return of_known_hours(stays.select((pl.col("outtime") - pl.col("intime")).dt.total_minutes() / 60).to_series().to_list())

    def read(self, partition: PatientBucket, extracted: Folder | None = None) -> SourceTables:
        """Stays and events of one bucket of patients, from the files that `extract` wrote.

        Raises:
            SourceError: The map names too few of the codes inside ICU stays.
        """
        if extracted is None:
            raise SourceError("source.map is read from its extraction; run `clinjepa ingest`, or call extract() on every piece")
        coverage = read_coverage(extracted)
        if coverage is not None:
            check_coverage(coverage, self._folder.address, self._map.where)
        counts = Counts()
        of_bucket = bucket_of(pl.col("subject_id"), self._num_buckets(extracted)) == partition["bucket"]
        usable, stays = self._usable(extracted).filter(of_bucket), self._stays(extracted).filter(of_bucket)
        names = [piece.name for piece in self._pieces()]
        rows = pl.concat([read_rows_of_bucket(extracted, name, partition["bucket"], SCHEMA_VERSION) for name in names])
        structure = self._all_structure(extracted)
        begins = of_kind(structure, "stays.begin").filter(of_bucket)
        stays = end_open_stays(stays, rows, begins, counts)
        of_patients = structure.filter(pl.col("subject_id").is_in(stays["subject_id"].implode()))
        has_hospitalizations = of_kind(structure, "hospitalizations.begin").height > 0
        stays = read_stays(stays, of_patients, read_splits(self._folder), self._map, counts, has_hospitalizations)
        stays, events = read_events(rows, stays, whole_windows(usable, begins), self._map, counts, self._config.event_time)
        return finish(stays, events, counts)

    def _pieces(self) -> list[Piece]:
        """At most _MOST_PIECES pieces: each reads the stays anew or from the first one that did."""
        places = {name: place for place, name in enumerate(self._files.all)}
        names = self._files.rows
        size = -(-len(names) // _MOST_PIECES)
        groups = [names[first : first + size] for first in range(0, len(names), size)]
        return [Piece(f"rows-{number:02d}", {name: places[name] for name in group}) for number, group in enumerate(groups)]

    def _all_structure(self, extracted: Folder | None = None) -> pl.DataFrame:
        if self._structure is None:
            self._structure = read_structure(self._folder, self._files, self._map, extracted)
        return self._structure

    def _stays(self, extracted: Folder | None = None) -> pl.DataFrame:
        """Usable stays, at most `max_stays` (the first by id)."""
        stays = self._usable(extracted)
        return stays.head(self._config.max_stays or stays.height)

    def _usable(self, extracted: Folder | None = None) -> pl.DataFrame:
        return icu_stays(self._all_structure(extracted), self._map, self._folder.address, Counter())

    def _num_buckets(self, extracted: Folder | None = None) -> int:
        return partition_count(self._config.num_partitions, self._stays(extracted).height)

    def _record_stays(self, out: Folder) -> dict[str, int]:
        """Counts of rows that begin or end no usable stay."""
        record = finished_part(out, _STAYS, SCHEMA_VERSION)
        if record is None:
            counts: Counter[str] = Counter()
            icu_stays(self._all_structure(out), self._map, self._folder.address, counts)
            record = {"schema_version": SCHEMA_VERSION, "files": [], "counts": dict(sorted(counts.items()))}
            write_record(out, _STAYS, record)
        found: dict[str, int] = record["counts"]
        return found
