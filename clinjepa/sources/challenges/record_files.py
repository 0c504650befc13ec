"""Record files of the PhysioNet challenges: one text file per stay, in a zip from PhysioNet or in a folder.

`RecordFiles` finds and reads them, `read_lines` returns the fields of many records as one table of strings. Messages about broken
files name file and line and never contain the values of a line.
"""

from __future__ import annotations

import hashlib
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import polars as pl

from clinjepa.errors import SourceError
from clinjepa.sources.files.text_files import decode_text, read_bounded, too_large
from clinjepa.sources.schema import partition_count
from clinjepa.storage import Folder
from clinjepa.storage.strays import is_stray

MOST_RECORD_BYTES = 4 * 2**20
"""Limit of one record. The largest of the open sets has 55 KB (CinC 2019) and 24 KB (CinC 2012)."""

MOST_PART_BYTES = 2**30
"""Limit of the records of one partition together, as the zip's directory declares them."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Methods of packing whose output `zipfile` bounds while it unpacks; bzip2 and LZMA unpack a piece of 4 KB whole."""

_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)


class MappedField(TypedDict):
    """A parameter or column of a challenge's map (`clinical/maps/cinc*.yaml`): its variable and the unit that the challenge documents.

    multiply: factor to the variable's unit; `unit` is then ignored. also: a second variable with the same value.
    """

    variable: str
    unit: str
    multiply: NotRequired[float]
    also: NotRequired[str]
    note: NotRequired[str]


class RecordRange(TypedDict):
    """A partition: records `first_record` … `first_record + num_records - 1` in order of their number."""

    first_record: int
    num_records: int


@dataclass(frozen=True)
class RecordForm:
    """Format of a challenge's records: its year, file suffix, header line and field separator."""

    year: int
    suffix: str
    header: str
    separator: str

    def is_record(self, name: str) -> bool:
        """Whether a file's name has the suffix, in small or capital letters."""
        return name.lower().endswith(self.suffix)


class RecordFiles:
    """The records of one set: `<name>.zip`, or the folder `<name>` (`.` is the folder itself)."""

    def __init__(self, folder: Folder, name: str, form: RecordForm) -> None:
        self._folder = folder
        self._name = name
        self.site = name.removeprefix("training_set").removeprefix("set-")
        """Letter of the set (2019: of the hospital), or the folder's name."""
        self.form = form
        self.zipped = name != "." and folder.exists(f"{name}.zip")
        if name != "." and not self.zipped and not folder.exists(name):
            raise SourceError(
                f"{folder.address}: {name}.zip is missing (nor is there a folder of that name); "
                f"get it from https://physionet.org/content/challenge-{form.year}/1.0.0/ or with `clinjepa data get cinc{form.year}`"
            )

    def names(self) -> list[str]:
        """Names of the record files, as `contents` takes them; strays (`._name`, `.ipynb_checkpoints/`) are left out.

        Warns where a folder of the set stands beside its zip with other records, of which none is read.
        """
        unpacked = self._unpacked()
        if not self.zipped:
            return unpacked
        with self._zip() as archive:
            found = [name for name in archive.namelist() if self.form.is_record(name) and not is_stray(name)]
        others = {name.rsplit("/", 1)[-1] for name in unpacked} - {name.rsplit("/", 1)[-1] for name in found}
        if others:
            warnings.warn(
                f"{self.where()} is read, and not the folder {self._name}/ beside it, which has {len(others)} records "
                "that are not in the zip; move away the one that is not meant",
                stacklevel=2,
            )
        return found

    def _unpacked(self) -> list[str]:
        """Names of the records in the set's folder."""
        inside = "" if self._name == "." else self._name
        prefix = f"{inside}/" if inside else ""
        return [f"{prefix}{name}" for name in self._folder.names(inside) if self.form.is_record(name)]

    def contents(self, names: Sequence[str]) -> Iterator[bytes]:
        """Contents of the files in the order of `names`; only these members of a zip are read.

        Raises:
            SourceError: A file is larger than MOST_RECORD_BYTES, or all together than MOST_PART_BYTES; the zip is damaged, encrypted or
                packed in another way than with deflate. No more than the limit is unpacked.
        """
        if not self.zipped:
            yield from (read_bounded(self._folder, name, MOST_RECORD_BYTES) for name in names)
            return
        with self._zip() as archive:
            for name in names:
                self._check_member(archive.getinfo(name))
            if sum(archive.getinfo(name).file_size for name in names) > MOST_PART_BYTES:
                raise SourceError(
                    f"{self.where()}: the {len(names)} records of one partition unpack to over {MOST_PART_BYTES // 2**20} MB; "
                    "raise source.num_partitions, or get the zip again"
                )
            for name in names:
                try:
                    with archive.open(name) as member:
                        content = member.read(MOST_RECORD_BYTES + 1)
                except _BROKEN_ZIP as error:
                    raise self._broken_zip(error) from None
                yield content

    def _check_member(self, info: zipfile.ZipInfo) -> None:
        if info.file_size > MOST_RECORD_BYTES:
            raise too_large(self.where(info.filename), MOST_RECORD_BYTES)
        if info.flag_bits & 1:
            raise SourceError(f"{self.where(info.filename)}: encrypted; unpack it into the folder {self._name}/ and remove the zip")
        if info.compress_type not in _METHODS:
            raise SourceError(f"{self.where(info.filename)}: packed in another way than with deflate; get PhysioNet's zip")

    def where(self, name: str = "") -> str:
        """Address of the set or of one of its records, for messages."""
        if self.zipped:
            return f"{self._folder.address}/{self._name}.zip" + (f"/{name}" if name else "")
        return f"{self._folder.address}/{name or self._name}"

    def content_files(self, names: Sequence[str]) -> list[str]:
        """The files whose content determines the records `names`: the zip, or the record files themselves."""
        return [f"{self._name}.zip"] if self.zipped else list(names)

    @contextmanager
    def _zip(self) -> Iterator[zipfile.ZipFile]:
        with self._folder.reading(f"{self._name}.zip") as file:
            try:
                archive = zipfile.ZipFile(file)
            except _BROKEN_ZIP as error:
                raise self._broken_zip(error) from None
            with archive:
                yield archive

    def _broken_zip(self, error: Exception) -> SourceError:
        return SourceError(
            f"{self.where()}: not a whole zip ({type(error).__name__}); it was cut short or altered, get it again and compare its SHA-256"
        )


def read_lines(files: RecordFiles, records: Sequence[tuple[int, str]]) -> pl.DataFrame:
    """The lines of records as one table of strings; blank lines are skipped.

    Args:
        files: The set that the records belong to.
        records: (stay_id, file) of each record.

    Returns:
        stay_id, row (line in the file; the header is line 1) and one column of stripped strings per field of the header.

    Raises:
        SourceError: Unexpected header, wrong number of fields, or bytes that are not text; the message names file and line.
    """
    form = files.form
    owners: list[int] = []
    rows: list[int] = []
    texts: list[str] = []
    names = [name for _, name in records]
    for (stay_id, name), content in zip(records, files.contents(names), strict=True):
        lines = _record_lines(content, files.where(name), form)
        owners += [stay_id] * len(lines)
        rows += range(2, len(lines) + 2)
        texts += lines
    types = {"stay_id": pl.Int64, "row": pl.Int64, "line": pl.String}
    table = pl.DataFrame({"stay_id": owners, "row": rows, "line": texts}, schema=types)
    table = table.filter(pl.col("line").str.strip_chars() != "")
    columns = form.header.split(form.separator)
    ragged = table.filter(pl.col("line").str.count_matches(form.separator, literal=True) != len(columns) - 1)
    if ragged.height:
        name = dict(records)[ragged["stay_id"][0]]
        raise SourceError(
            f"{files.where(name)}, line {ragged['row'][0]}: not the {len(columns)} fields {_short(form.header)} "
            f"({ragged.height} such lines in this part); get the file again"
        )
    fields = pl.col("line").str.split_exact(form.separator, len(columns) - 1)
    return table.select(
        "stay_id", "row", *(fields.struct.field(f"field_{index}").str.strip_chars().alias(name) for index, name in enumerate(columns))
    )


def files_digest(folder: Folder, names: Sequence[str]) -> str:
    """SHA-256 over names and contents of files, in order."""
    sha = hashlib.sha256()
    for name in names:
        sha.update(f"{name}:{folder.digest(name)};".encode())
    return sha.hexdigest()


def record_ranges(total: int, num_partitions: int | None) -> list[RecordRange]:
    """Partitions of `total` records in order."""
    number = min(partition_count(num_partitions, total), total)
    edges = [total * index // number for index in range(number + 1)]
    return [{"first_record": first, "num_records": end - first} for first, end in zip(edges, edges[1:], strict=False)]


def _record_lines(content: bytes, where: str, form: RecordForm) -> list[str]:
    lines = decode_text(content, where).splitlines()
    if not lines:
        raise SourceError(f"{where}: the file is empty; get it again")
    wanted = form.header.split(form.separator)
    found = [name.strip() for name in lines[0].split(form.separator)]
    if found != wanted:
        missing = [name for name in wanted if name not in found]
        if missing and len(missing) < len(wanted):
            raise SourceError(
                f"{where}: line 1: column {missing[0]!r} is missing ({len(missing)} of {len(wanted)} are); "
                f"is this a record of the {form.year} challenge?"
            )
        raise SourceError(f"{where}: line 1 is not the header {_short(form.header)!r}; is this a record of the {form.year} challenge?")
    return lines[1:]


def _short(header: str) -> str:
    return header if len(header) <= 60 else f"{header[:57]}..."


def refuse_repeated_numbers(records: Sequence[tuple[int, str]], address: str) -> None:
    """Raise SourceError when two records have one number. records: (number, file) of each; address: their folder, for the message."""
    seen: set[int] = set()
    repeated = []
    for number, name in records:
        if number in seen:
            repeated.append(name)
        seen.add(number)
    if repeated:
        raise SourceError(
            f"{address}: {len(repeated)} record numbers occur twice, one of them by a second {repeated[0].rsplit('/', 1)[-1]}; "
            "every stay needs a unique number, remove or renumber one file of each"
        )
