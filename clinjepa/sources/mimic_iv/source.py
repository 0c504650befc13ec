"""Source for MIMIC-IV as PhysioNet publishes it, versions 2.0 to 3.1: folders `hosp/` and `icu/` with csv or csv.gz files.

A patient's rows are scattered over the tables, so the tables are first *extracted*: each is streamed once and its rows are stored by
patient (`extract`). A partition then reads only its patients (`read`). The constructor lists the two folders and opens no file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.files.buckets import PatientBucket, patient_buckets
from clinjepa.sources.files.csv_rows import CsvFile, parse_times
from clinjepa.sources.files.csv_stream import ScanPlan, scan
from clinjepa.sources.mimic_iv.events import read_events
from clinjepa.sources.mimic_iv.extract import Patients, extract_table, read_bucket
from clinjepa.sources.mimic_iv.stays import read_stays, usable_stays
from clinjepa.sources.mimic_iv.tables import check_items, find_tables, load_tables, read_header
from clinjepa.sources.readings.cleaning import finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables, TableFile, partition_count
from clinjepa.sources.stay_counts import StayCounts, of_known_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

_DICTIONARIES = ("d_items", "d_labitems")
_CHECK = "dictionaries"
_RECORD_VERSION = 2
_SMALL_MB = 512


class MimicIvSource:
    """Raw MIMIC-IV. `config.path` is the folder that contains `hosp/` and `icu/`; `partition_count` buckets of patients."""

    name = "mimic_iv"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._folder = Folder(config.path or "")
        if config.subsets is not None:
            raise SourceError("source.subsets is not supported by source.kind=mimic_iv; use source.max_stays to read a part")
        self._files = find_tables(self._folder)
        self._stays: pl.DataFrame | None = None

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files read. Their headers are checked first."""
        for table in self._files:
            self._csv(table)
        sha = hashlib.sha256()
        for name in sorted(self._files.values()):
            sha.update(f"{name}:{self._folder.digest(name)};".encode())
        return sha.hexdigest()

    def check_items(self) -> dict[str, int]:
        """Items in use that the data's own dictionaries lack or define differently; see `tables.check_items`."""
        counts: Counter[str] = Counter()
        return check_items(self._whole("d_items", counts), self._whole("d_labitems", counts)) | counts

    def extractions(self) -> list[TableFile]:
        """The check of item ids, then the table files, the largest first."""
        pieces: list[TableFile] = [
            {"table": name, "bytes": self._folder.size(file)} for name, file in self._files.items() if name not in _DICTIONARIES
        ]
        return [{"table": _CHECK, "bytes": 0}, *sorted(pieces, key=lambda piece: (-piece["bytes"], piece["table"]))]

    def extract(self, piece: TableFile, out: Folder, memory_mb: int) -> dict[str, int]:
        """Stream one table into buckets of patients below `out`; returns the rows left out, by rule. See `extract.extract_table`."""
        if piece["table"] == _CHECK:
            return self._check_dictionaries(out)
        patients = Patients.of(self._chosen_stays(), self._num_buckets())
        reasons = self._unusable_stays_of(patients) if piece["table"] == "icustays" else {}
        return extract_table(self._csv(piece["table"]), load_tables()[piece["table"]], patients, out, memory_mb, reasons)

    def partitions(self) -> list[PatientBucket]:
        """Buckets with at least one stay; `max_stay_id` is the last stay id read with `max_stays`. Reads icustays only."""
        return patient_buckets(self._chosen_stays(), self._num_buckets(), self._config.max_stays is not None)

    def stay_counts(self) -> StayCounts:
        """Number and lengths of the usable stays, out of icustays."""
        stays = self._chosen_stays()
        return of_known_hours(stays.select((pl.col("outtime") - pl.col("intime")).dt.total_minutes() / 60).to_series().to_list())

    def read(self, partition: PatientBucket, extracted: Folder | None = None) -> SourceTables:
        """Stays and events of one bucket of patients, from the files that `extract` wrote."""
        if extracted is None:
            raise SourceError("source.kind=mimic_iv is read from its extraction; run `clinjepa ingest`, or call extract() on every piece")
        counts = Counts()
        tables = {name: read_bucket(extracted, name, partition["bucket"]) for name in self._files if name not in _DICTIONARIES}
        where = {name: f"{self._folder.address}/{file}" for name, file in self._files.items()}
        stays = read_stays(tables, where, counts)
        if partition["max_stay_id"] is not None:
            stays = stays.filter(pl.col("stay_id") <= partition["max_stay_id"])
        known = tables["icustays"].select("stay_id", "subject_id").unique()
        stays, events = read_events(tables, stays, known, counts, self._config.event_time)
        return finish(stays, events, counts)

    def _csv(self, name: str) -> CsvFile:
        table, file = load_tables()[name], self._files[name]
        header = read_header(self._folder, table, file)
        optional = {column: kind for column, kind in table.optional.items() if column in header}
        return CsvFile(self._folder, file, header, table.columns | optional)

    def _whole(self, name: str, counts: Counter[str] | None = None) -> pl.DataFrame:
        """All rows of a small table; `counts` receives rows that are not UTF-8."""
        counts = Counter() if counts is None else counts
        file = self._csv(name)
        plan = ScanPlan.within(_SMALL_MB, threads=1)
        frames = [frame for frame, _ in scan(file, plan, lambda frame, _: parse_times(frame, file), counts)]
        if not frames:
            raise SourceError(f"{file.where}: there is a header but no row; get the file again")
        return pl.concat(frames)

    def _chosen_stays(self) -> pl.DataFrame:
        """Usable stays, at most `max_stays` (the first by id)."""
        if self._stays is None:
            stays = usable_stays(self._whole("icustays"), f"{self._folder.address}/{self._files['icustays']}", Counter())
            if not stays.height:
                raise SourceError(f"{self._folder.address}/{self._files['icustays']}: no stay has an end after its beginning; get it again")
            self._stays = stays.sort("stay_id").head(self._config.max_stays or stays.height)
        return self._stays

    def _unusable_stays_of(self, patients: Patients) -> dict[str, int]:
        """Rule -> number of unusable stays of patients without a usable one. Those of other patients are counted by `read`."""
        counts: Counter[str] = Counter()
        whole = self._whole("icustays")
        others = whole.filter(~pl.col("subject_id").is_in(patients.table["subject_id"].implode()).fill_null(False))
        usable_stays(others, f"{self._folder.address}/{self._files['icustays']}", counts)
        return counts

    def _num_buckets(self) -> int:
        return partition_count(self._config.num_partitions, self._chosen_stays().height)

    def _check_dictionaries(self, out: Folder) -> dict[str, int]:
        record = finished_part(out, _CHECK, _RECORD_VERSION)
        if record is None:
            counts = self.check_items()
            absent = [name for name in load_tables() if name not in self._files]
            record = {"schema_version": _RECORD_VERSION, "files": [], "counts": counts | {f"table_missing:{name}": 1 for name in absent}}
            write_record(out, _CHECK, record)
        found: dict[str, int] = record["counts"]
        return found
