"""Source for the PhysioNet/CinC Challenge 2012: the first 48 hours of ICU stays, one text file per stay, zipped or unpacked.

`source.path` is the folder with `set-a.zip` (or `set-a/`) and `Outcomes-a.txt`, and the same for set b, or one such zip. The
records have no dates: each stay begins at an arbitrary fixed instant. There is one stay per record and no patient id, so each record
counts as a patient. Parameters and units: `clinical/maps/cinc2012.yaml`. The outcome file is used for labels only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import polars as pl

from clinjepa.clinical.definitions import read_definitions
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.cinc2012_records import (
    Cinc2012Map,
    check_constants,
    check_record_ids,
    read_outcomes,
    record_events,
    record_stays,
    with_minutes,
)
from clinjepa.sources.challenges.record_files import (
    RecordFiles,
    RecordForm,
    RecordRange,
    files_digest,
    read_lines,
    record_ranges,
    refuse_repeated_numbers,
)
from clinjepa.sources.files.text_files import read_bounded
from clinjepa.sources.readings.cleaning import at_sites, convert_values, finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables
from clinjepa.sources.stay_counts import StayCounts, of_mean_hours
from clinjepa.storage import Folder

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

FORM = RecordForm(2012, ".txt", "Time,Parameter,Value", ",")
_SETS = ("a", "b", "c")
_NUMBER = re.compile(r"[0-9]{1,18}")
_MOST_OUTCOME_BYTES = 64 * 2**20


@dataclass(frozen=True)
class _Record:
    stay_id: int
    subset: str
    file: str


class Cinc2012Source:
    """CinC 2012, sets a, b (and c if present). `config.subsets` selects some of them."""

    name = "cinc2012"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        path = config.path or ""
        if path.endswith(".zip"):
            parent, _, file = path.rpartition("/")
            self._folder = Folder(parent or ".")
            found = [letter for letter in _SETS if file == f"set-{letter}.zip"]
            if not found:
                raise SourceError(f"{path}: the zip must keep PhysioNet's name (set-a.zip, set-b.zip), which tells its outcome file")
        else:
            self._folder = Folder(path)
            found = [letter for letter in _SETS if self._folder.exists(f"set-{letter}.zip") or self._folder.exists(f"set-{letter}")]
        wanted = list(config.subsets or found or ["a"])
        self._files = {letter: RecordFiles(self._folder, f"set-{letter}", FORM) for letter in wanted}
        for letter in self._files:
            if not self._folder.exists(f"Outcomes-{letter}.txt"):
                raise SourceError(
                    f"{self._folder.address}/Outcomes-{letter}.txt is missing; it is beside set-{letter}.zip at https://physionet.org/content/challenge-2012/1.0.0/"
                )
        self._known_records: list[_Record] | None = None

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files read."""
        names: list[str] = []
        for letter, files in self._files.items():
            records = [record.file for record in self._records() if record.subset == letter]
            names += [*files.content_files(records), f"Outcomes-{letter}.txt"]
        return files_digest(self._folder, names)

    def partitions(self) -> list[RecordRange]:
        """Ranges of records in order of their number."""
        return record_ranges(len(self._records()), self._config.num_partitions)

    def stay_counts(self) -> StayCounts:
        """One stay per record, of at most 48 h; their mean in sets a and b is 47.99 h."""
        return of_mean_hours(len(self._records()), 40, 48)

    def read(self, partition: RecordRange) -> SourceTables:
        """Stays and events of a range of records; only these members of the zip are read."""
        counts = Counts()
        first = partition["first_record"]
        records = self._records()[first : first + partition["num_records"]]
        mapping = load_map()
        lines = pl.concat(
            [
                read_lines(files, [(record.stay_id, record.file) for record in records if record.subset == letter])
                for letter, files in self._files.items()
            ]
        ).rename({"Time": "clock", "Parameter": "parameter", "Value": "raw"})
        lines = with_minutes(lines)
        places = {record.stay_id: self._files[record.subset].where(record.file) for record in records}
        check_record_ids(lines, places, counts)
        check_constants(lines, places)
        outcomes = pl.concat(
            [
                read_outcomes(read_bounded(self._folder, name, _MOST_OUTCOME_BYTES), f"{self._folder.address}/{name}")
                for name in (f"Outcomes-{letter}.txt" for letter in self._files)
            ]
        )
        if outcomes["stay_id"].n_unique() < outcomes.height:
            raise SourceError(
                f"{self._folder.address}: {outcomes.height - outcomes['stay_id'].n_unique()} record ids are in two outcome files; "
                "every record needs a unique id"
            )
        ids = pl.DataFrame({"stay_id": [record.stay_id for record in records]}, schema={"stay_id": pl.Int64})
        stays = record_stays(ids, lines, outcomes, mapping, counts)
        sites = {record.stay_id: self._files[record.subset].site for record in records}
        events = convert_values(at_sites(record_events(lines, mapping, counts), sites), counts)
        return finish(stays, events, counts)

    def _records(self) -> list[_Record]:
        """All records in order of their number, at most `max_stays`."""
        if self._known_records is None:
            records = []
            for letter, files in self._files.items():
                for name in files.names():
                    stem = name.rsplit("/", 1)[-1][: -len(FORM.suffix)]
                    if not _NUMBER.fullmatch(stem):
                        raise SourceError(
                            f"{files.where(name)}: a record file is named by its number; remove what does not belong to the challenge"
                        )
                    records.append(_Record(int(stem), letter, name))
            records.sort(key=lambda record: record.stay_id)
            refuse_repeated_numbers([(record.stay_id, record.file) for record in records], self._folder.address)
            if not records:
                raise SourceError(f"{self._folder.address}: the sets {list(self._files)} hold no .txt records; get them again")
            self._known_records = records[: self._config.max_stays]
        return self._known_records


@lru_cache(maxsize=1)
def load_map() -> Cinc2012Map:
    """The content of `clinical/maps/cinc2012.yaml`."""
    content: Cinc2012Map = read_definitions("maps/cinc2012.yaml")
    return content
