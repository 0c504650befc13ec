"""Source for the PhysioNet/CinC Challenge 2019: hourly ICU records with a sepsis label, one .psv file per patient, zipped or unpacked.

`source.path` is the folder with `training_setA.zip` (or `training_setA/`, and set B if present), one such zip or folder, or a
folder of .psv files. The records have no dates: each stay begins at an arbitrary fixed instant. There is one stay per record and no
patient id, so each record counts as a patient. Columns and units: `clinical/maps/cinc2019.yaml`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import polars as pl

from clinjepa.clinical.definitions import read_definitions
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.cinc2019_records import Cinc2019Map, check_rows, record_events, record_stays
from clinjepa.sources.challenges.record_files import (
    RecordFiles,
    RecordForm,
    RecordRange,
    files_digest,
    read_lines,
    record_ranges,
    refuse_repeated_numbers,
)
from clinjepa.sources.readings.cleaning import at_sites, convert_values, finish
from clinjepa.sources.readings.range_losses import Counts
from clinjepa.sources.schema import SourceTables
from clinjepa.sources.stay_counts import StayCounts, of_known_hours, of_sampled_hours
from clinjepa.storage import Folder

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

COLUMNS = (
    "HR O2Sat Temp SBP MAP DBP Resp EtCO2 BaseExcess HCO3 FiO2 pH PaCO2 SaO2 AST BUN Alkalinephos Calcium Chloride Creatinine "
    "Bilirubin_direct Glucose Lactate Magnesium Phosphate Potassium Bilirubin_total TroponinI Hct Hgb PTT WBC Fibrinogen Platelets "
    "Age Gender Unit1 Unit2 HospAdmTime ICULOS SepsisLabel"
).split()
FORM = RecordForm(2019, ".psv", "|".join(COLUMNS), "|")
COUNTED_RECORDS = 200
"""Most records whose lines are counted before the ingest."""
_SETS = {"a": "training_setA", "b": "training_setB"}


class Cinc2019Source:
    """CinC 2019, set A (and B if present). `config.subsets` selects one of them."""

    name = "cinc2019"

    def __init__(self, config: SourceConfig) -> None:
        self._config = config
        path = (config.path or "").rstrip("/")
        parent, _, last = path.rpartition("/")
        if last.removesuffix(".zip") in _SETS.values():
            self._folder, found = Folder(parent or "."), [last.removesuffix(".zip")]
        elif last.endswith(".zip"):
            raise SourceError(f"{path}: the zip must keep PhysioNet's name (training_setA.zip, training_setB.zip)")
        else:
            self._folder = Folder(path)
            found = [name for name in _SETS.values() if self._folder.exists(f"{name}.zip") or self._folder.exists(name)]
            if not found and any(FORM.is_record(name) for name in self._folder.names()):
                found = ["."]
        unknown = [letter for letter in config.subsets or [] if letter not in _SETS]
        if unknown:
            raise SourceError(f"source.subsets: {unknown[0]!r} is not a set of the 2019 challenge; known are {list(_SETS)}")
        wanted = [_SETS[letter] for letter in config.subsets or []] or found or [_SETS["a"]]
        self._sets = [RecordFiles(self._folder, name, FORM) for name in wanted]
        self._known_records: list[tuple[int, str, int]] | None = None

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files read."""
        names: list[str] = []
        for index, files in enumerate(self._sets):
            names += files.content_files([file for _, file, place in self._records() if place == index])
        return files_digest(self._folder, names)

    def partitions(self) -> list[RecordRange]:
        """Ranges of records in order of their number."""
        return record_ranges(len(self._records()), self._config.num_partitions)

    def stay_counts(self) -> StayCounts:
        """One stay per record and one hour per line, counted in COUNTED_RECORDS records spread over all of them."""
        records = self._records()
        number = min(COUNTED_RECORDS, len(records))
        spread = [place * len(records) // number for place in range(number)]
        hours: list[float] = []
        for index, files in enumerate(self._sets):
            chosen = [records[place][1] for place in spread if records[place][2] == index]
            hours += [max(0, len(content.rstrip().splitlines()) - 1) for content in files.contents(chosen)]
        return of_known_hours(hours) if len(hours) == len(records) else of_sampled_hours(len(records), hours)

    def read(self, partition: RecordRange) -> SourceTables:
        """Stays and events of a range of records; only these members of the zip are read."""
        counts = Counts()
        mapping = load_map()
        first = partition["first_record"]
        records = self._records()[first : first + partition["num_records"]]
        tables = []
        for index, files in enumerate(self._sets):
            mine = [(stay_id, file) for stay_id, file, place in records if place == index]
            places = {stay_id: files.where(file) for stay_id, file in mine}
            tables.append(check_rows(read_lines(files, mine), mapping, places))
        rows = pl.concat(tables)
        stays = record_stays([stay_id for stay_id, _, _ in records], rows, mapping, counts)
        sites = {stay_id: self._sets[place].site for stay_id, _, place in records}
        events = convert_values(at_sites(record_events(rows, mapping), sites), counts)
        return finish(stays, events, counts)

    def _records(self) -> list[tuple[int, str, int]]:
        """(stay_id, file, index of its set) of all records in order of their number, at most `max_stays`."""
        if self._known_records is None:
            records = []
            for index, files in enumerate(self._sets):
                for name in files.names():
                    stem = re.fullmatch(r"p([0-9]{1,18})\.psv", name.rsplit("/", 1)[-1], re.IGNORECASE)
                    if stem is None:
                        raise SourceError(
                            f"{files.where(name)}: a record file's name is p and its number; remove what does not belong to the challenge"
                        )
                    records.append((int(stem[1]), name, index))
            records.sort()
            refuse_repeated_numbers([(stay_id, name) for stay_id, name, _ in records], self._folder.address)
            if not records:
                raise SourceError(f"{self._sets[0].where()}: there are no .psv records; get it again")
            self._known_records = records[: self._config.max_stays]
        return self._known_records


@lru_cache(maxsize=1)
def load_map() -> Cinc2019Map:
    """The content of `clinical/maps/cinc2019.yaml`."""
    content: Cinc2019Map = read_definitions("maps/cinc2019.yaml")
    return content
