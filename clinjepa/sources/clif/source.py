"""Source for CLIF 2.1: a folder of Parquet files `clif_<table>.parquet`.

A patient's rows are scattered over the tables, so each table is first streamed once and stored by patient (`extract`); a partition then
reads only its patients. CLIF's times are UTC; `source.time_zone` is the hospital's zone, in which nights and dates are meant (`clocks`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.clif.clocks import with_offsets
from clinjepa.sources.clif.events import read_events
from clinjepa.sources.clif.extract import SCHEMA_VERSION, Owners, extract_table, whole
from clinjepa.sources.clif.stays import icu_admissions, icu_stays, numbered_hospitalizations, read_stays
from clinjepa.sources.clif.tables import load_tables, zone_of
from clinjepa.sources.files.buckets import PatientBucket, bucket_of, patient_buckets, read_rows_of_bucket
from clinjepa.sources.readings.cleaning import finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables, TableFile, partition_count
from clinjepa.sources.stay_counts import StayCounts, of_known_hours
from clinjepa.storage import Folder
from clinjepa.storage.parts import finished_part, write_record

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

_CHECK = "tables"


class ClifSource:
    """CLIF tables. `config.path` is the folder of the files."""

    name = "clif"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        self._folder = Folder(config.path or "")
        self._zone = zone_of(config.time_zone).key
        if config.subsets is not None:
            raise SourceError("source.subsets is not supported by source.kind=clif; use source.max_stays to read a part")
        self._tables = {name: table for name, table in load_tables().items() if self._folder.exists(table.file)}
        missing = [table.file for name, table in load_tables().items() if table.needed and name not in self._tables]
        if missing:
            raise SourceError(
                f"{self._folder.address}: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; source.path must be the "
                "folder with the Parquet files of CLIF 2.1 (clif_patient.parquet, clif_vitals.parquet, …)"
            )
        self._people: pl.DataFrame | None = None
        self._stays: pl.DataFrame | None = None
        self._entered: pl.DataFrame | None = None

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files read, and the hospital's time zone."""
        sha = hashlib.sha256(f"{self._zone};".encode())
        for table in sorted(self._tables.values(), key=lambda table: table.file):
            sha.update(f"{table.file}:{self._folder.digest(table.file)};".encode())
        return sha.hexdigest()

    def check_items(self) -> dict[str, int]:
        """{}: a CLIF data set has no dictionary of items to compare with."""
        return {}

    def extractions(self) -> list[TableFile]:
        """The record of missing tables, then the table files, the largest first."""
        pieces: list[TableFile] = [
            {"table": name, "bytes": self._folder.size(table.file)} for name, table in self._tables.items() if name != "adt"
        ]
        return [{"table": _CHECK, "bytes": 0}, *sorted(pieces, key=lambda piece: (-piece["bytes"], piece["table"]))]

    def extract(self, piece: TableFile, out: Folder, memory_mb: int) -> dict[str, int]:
        """Stream one table into buckets of patients below `out`; returns the rows left out, by rule. See `extract.extract_table`."""
        if piece["table"] == _CHECK:
            return self._record_missing(out)
        owners = Owners.of(self._hospitalizations(), self._chosen_stays(), self._num_buckets())
        return extract_table(self._folder, self._tables[piece["table"]], owners, self._zone, out, memory_mb)

    def partitions(self) -> list[PatientBucket]:
        """Buckets with at least one stay; `max_stay_id` is the last stay id read with `max_stays`. Reads two small tables only."""
        return patient_buckets(self._chosen_stays(), self._num_buckets(), self._config.max_stays is not None)

    def stay_counts(self) -> StayCounts:
        """Number and lengths of the usable stays, out of adt."""
        stays = self._chosen_stays()
        return of_known_hours(stays.select((pl.col("outtime") - pl.col("intime")).dt.total_minutes() / 60).to_series().to_list())

    def read(self, partition: PatientBucket, extracted: Folder | None = None) -> SourceTables:
        """Stays and events of one bucket of patients, from the files that `extract` wrote."""
        if extracted is None:
            raise SourceError("source.kind=clif is read from its extraction; run `clinjepa ingest`, or call extract() on every piece")
        counts = Counts()
        names = [name for name in self._tables if name != "adt"]
        tables = {name: read_rows_of_bucket(extracted, name, partition["bucket"], SCHEMA_VERSION) for name in names}
        of_bucket = bucket_of(pl.col("subject_id"), self._num_buckets()) == partition["bucket"]
        chosen = self._chosen_stays().filter(of_bucket)
        of_patients = self._usable_stays().filter(pl.col("subject_id").is_in(chosen["subject_id"].unique().implode()))
        stays = read_stays(of_patients, self._icu_admissions(), tables, self._zone, counts)
        stays = stays.join(chosen, on="stay_id", how="semi")  # after the facts that all stays of a patient say together
        stays, events = read_events(tables, stays, chosen, self._icu_admissions(), counts, self._config.event_time)
        return finish(stays, events, counts)

    def _hospitalizations(self) -> pl.DataFrame:
        if self._people is None:
            table = self._tables["hospitalization"]
            where = f"{self._folder.address}/{table.file}"
            self._people = numbered_hospitalizations(whole(self._folder, table, self._zone), where, Counter())
        return self._people

    def _usable_stays(self) -> pl.DataFrame:
        """All usable stays by id, with times in UTC and the offsets of their clocks."""
        if self._stays is None:
            table = self._tables["adt"]
            where = f"{self._folder.address}/{table.file}"
            adt = whole(self._folder, table, self._zone)
            stays = icu_stays(adt, self._hospitalizations(), where, Counter())
            if not stays.height:
                raise SourceError(f"{where}: no ICU stay has an end after its beginning; get the file again")
            self._stays = with_offsets(stays, self._zone).sort("stay_id")
            self._entered = icu_admissions(adt, self._hospitalizations(), stays, where)
        return self._stays

    def _icu_admissions(self) -> pl.DataFrame:
        """All ICU admissions with a known time, in UTC, also of stays that are not usable."""
        self._usable_stays()
        return self._entered  # type: ignore[return-value]

    def _chosen_stays(self) -> pl.DataFrame:
        """Usable stays, at most `max_stays` (the first by id)."""
        return self._usable_stays().head(self._config.max_stays or self._usable_stays().height)

    def _num_buckets(self) -> int:
        return partition_count(self._config.num_partitions, self._chosen_stays().height)

    def _record_missing(self, out: Folder) -> dict[str, int]:
        """Counts of missing tables, and of locations and hospitalisations that are no usable stay."""
        record = finished_part(out, _CHECK, SCHEMA_VERSION)
        if record is None:
            counts: Counter[str] = Counter({f"table_missing:{name}": 1 for name in load_tables() if name not in self._tables})
            table, adt = self._tables["hospitalization"], self._tables["adt"]
            people = numbered_hospitalizations(whole(self._folder, table, self._zone), f"{self._folder.address}/{table.file}", counts)
            icu_stays(whole(self._folder, adt, self._zone), people, f"{self._folder.address}/{adt.file}", counts)
            record = {"schema_version": SCHEMA_VERSION, "files": [], "counts": dict(sorted(counts.items()))}
            write_record(out, _CHECK, record)
        found: dict[str, int] = record["counts"]
        return found
