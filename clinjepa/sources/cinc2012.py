"""PhysioNet/CinC Challenge 2012: the first 48 hours of ICU stays, one text file per stay, as PhysioNet zips them or unpacked.

`source.path` is the folder with `set-a.zip` (or `set-a/`) and `Outcomes-a.txt`, and the same for set b, or one such zip. The
records have no dates: each stay begins at an arbitrary fixed instant. One stay per record and no patient ids, so a record is a
patient. Parameters and units: `clinical/maps/cinc2012.yaml`; the outcome file gives labels only.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl

from clinjepa.clinical.definitions import read_definitions
from clinjepa.errors import SourceError
from clinjepa.sources.cinc2012_records import read_outcomes, record_events, record_stays
from clinjepa.sources.cleaning import convert_values, finish
from clinjepa.sources.schema import SourceTables
from clinjepa.storage import Folder

if TYPE_CHECKING:
    from clinjepa.config.schema import SourceConfig

HEADER = "Time,Parameter,Value"
_SETS = ("a", "b", "c")


@dataclass(frozen=True)
class _Record:
    stay_id: int
    subset: str
    file: str


class Cinc2012Source:
    """CinC 2012, sets a, b (and c where it is there). `config.subsets` chooses among them."""

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
        wanted = list(config.subsets) if config.subsets is not None else found
        missing = [letter for letter in wanted if letter not in found]
        if missing or not wanted:
            raise SourceError(
                f"{self._folder.address}: set-{missing[0] if missing else 'a'}.zip is missing (nor is there a folder of that name); "
                "get it from https://physionet.org/content/challenge-2012/1.0.0/ or with `clinjepa data get cinc2012`"
            )
        self._zipped = {letter: self._folder.exists(f"set-{letter}.zip") for letter in wanted}
        for letter in wanted:
            if not self._folder.exists(f"set-{letter}.zip" if self._zipped[letter] else f"set-{letter}"):
                raise SourceError(f"{self._folder.address}/set-{letter}.zip is missing; check source.path")
            if not self._folder.exists(f"Outcomes-{letter}.txt"):
                raise SourceError(
                    f"{self._folder.address}/Outcomes-{letter}.txt is missing; it lies beside set-{letter}.zip at https://physionet.org/content/challenge-2012/1.0.0/"
                )
        self._known_records: list[_Record] | None = None

    def content_digest(self) -> str:
        """SHA-256 over names and contents of the files read."""
        sha = hashlib.sha256()
        for letter, zipped in self._zipped.items():
            files = [f"set-{letter}.zip"] if zipped else [record.file for record in self._records() if record.subset == letter]
            for name in [*files, f"Outcomes-{letter}.txt"]:
                sha.update(f"{name}:{self._folder.digest(name)};".encode())
        return sha.hexdigest()

    def partitions(self) -> list[dict[str, Any]]:
        """Ranges of records in order of their number."""
        total = len(self._records())
        number = min(self._config.num_partitions, total)
        edges = [total * index // number for index in range(number + 1)]
        return [{"first_record": first, "num_records": end - first} for first, end in zip(edges, edges[1:], strict=False)]

    def read(self, partition: dict[str, Any]) -> SourceTables:
        """Stays and events of a range of records; only their members of the zip are read."""
        counts: Counter[str] = Counter()
        first = partition["first_record"]
        records = self._records()[first : first + partition["num_records"]]
        mapping = load_map()
        lines = pl.concat([self._lines(letter, records, counts) for letter in self._zipped])
        outcomes = pl.concat(
            [
                read_outcomes(self._folder.read_bytes(f"Outcomes-{letter}.txt"), f"{self._folder.address}/Outcomes-{letter}.txt")
                for letter in self._zipped
            ]
        )
        if outcomes["stay_id"].n_unique() < outcomes.height:
            raise SourceError(
                f"{self._folder.address}: {outcomes.height - outcomes['stay_id'].n_unique()} record ids stand in two outcome files; "
                "every record needs an id of its own"
            )
        ids = pl.DataFrame({"stay_id": [record.stay_id for record in records]}, schema={"stay_id": pl.Int64})
        stays = record_stays(ids, lines, outcomes, mapping, counts)
        events = convert_values(record_events(lines, mapping, counts), counts)
        return finish(stays, events, counts)

    def _records(self) -> list[_Record]:
        """All records in order of their number, at most `max_stays`."""
        if self._known_records is None:
            records = []
            for letter in self._zipped:
                for name in self._names(letter):
                    stem = name.rsplit("/", 1)[-1].removesuffix(".txt")
                    if not stem.isdigit():
                        raise SourceError(
                            f"{self._where(letter)}/{name}: a record file is named by its number; "
                            "remove what does not belong to the challenge"
                        )
                    records.append(_Record(int(stem), letter, name))
            records.sort(key=lambda record: record.stay_id)
            repeated = len(records) - len({record.stay_id for record in records})
            if repeated:
                raise SourceError(
                    f"{self._folder.address}: {repeated} record numbers occur twice in the sets {list(self._zipped)}; "
                    "every stay needs a number of its own"
                )
            if not records:
                raise SourceError(f"{self._folder.address}: the sets {list(self._zipped)} hold no .txt records; get them again")
            self._known_records = records[: self._config.max_stays]
        return self._known_records

    def _names(self, letter: str) -> list[str]:
        if not self._zipped[letter]:
            return [f"set-{letter}/{name}" for name in self._folder.names(f"set-{letter}") if name.endswith(".txt")]
        with self._zip(letter) as archive:
            return [name for name in archive.namelist() if name.endswith(".txt")]

    def _lines(self, letter: str, records: list[_Record], counts: Counter[str]) -> pl.DataFrame:
        """stay_id, row, clock, parameter, raw: every data line of the records of one set."""
        mine = [record for record in records if record.subset == letter]
        owners, row_numbers, texts = [], [], []
        for record, content in zip(mine, self._contents(letter, mine), strict=True):
            where = f"{self._where(letter)}/{record.file}" if self._zipped[letter] else f"{self._folder.address}/{record.file}"
            lines = _record_lines(content, where)
            owners += [record.stay_id] * len(lines)
            row_numbers += range(2, len(lines) + 2)
            texts += lines
        table = pl.DataFrame(
            {"stay_id": owners, "row": row_numbers, "line": texts}, schema={"stay_id": pl.Int64, "row": pl.Int64, "line": pl.String}
        )
        blank = table["line"].str.strip_chars() == ""
        table = table.filter(~blank)
        files = {record.stay_id: record.file for record in mine}
        ragged = table.filter(pl.col("line").str.count_matches(",", literal=True) != 2)
        if ragged.height:
            raise SourceError(
                f"{self._where(letter)}, {files[ragged['stay_id'][0]]}, line {ragged['row'][0]}: not the 3 fields {HEADER} "
                f"({ragged.height} such lines in this part); get the file again"
            )
        fields = pl.col("line").str.split_exact(",", 2)
        names = ("clock", "parameter", "raw")
        return table.select(
            "stay_id", "row", *(fields.struct.field(f"field_{index}").str.strip_chars().alias(name) for index, name in enumerate(names))
        )

    def _contents(self, letter: str, records: list[_Record]) -> Iterator[bytes]:
        if not self._zipped[letter]:
            yield from (self._folder.read_bytes(record.file) for record in records)
            return
        with self._zip(letter) as archive:
            for record in records:
                try:
                    yield archive.read(record.file)
                except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
                    raise _broken_zip(self._where(letter), error) from None

    @contextmanager
    def _zip(self, letter: str) -> Iterator[zipfile.ZipFile]:
        name = f"set-{letter}.zip"
        with self._folder.fs.open(self._folder.path(name), "rb") as file:
            try:
                archive = zipfile.ZipFile(file)
            except (zipfile.BadZipFile, EOFError, OSError) as error:
                raise _broken_zip(self._where(letter), error) from None
            with archive:
                yield archive

    def _where(self, letter: str) -> str:
        return f"{self._folder.address}/set-{letter}.zip" if self._zipped[letter] else f"{self._folder.address}/set-{letter}"


@lru_cache(maxsize=1)
def load_map() -> dict[str, Any]:
    """`clinical/maps/cinc2012.yaml`."""
    return read_definitions("maps/cinc2012.yaml")


def _record_lines(content: bytes, where: str) -> list[str]:
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{where}: byte {error.start} is not UTF-8; the challenge's records are plain ASCII, get the file again"
        ) from None
    if not lines or lines[0].strip() != HEADER:
        raise SourceError(f"{where}: line 1 is not the header {HEADER!r}; is this a record of the 2012 challenge?")
    return lines[1:]


def _broken_zip(where: str, error: Exception) -> SourceError:
    return SourceError(
        f"{where}: not a whole zip ({type(error).__name__}); it was cut short or altered, get it again and compare its SHA-256"
    )
