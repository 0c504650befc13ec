"""Tables of MIMIC-IV: which ones are read, where their files are, and the checks of header and item ids.

Folders, columns and types are data: `clinical/maps/mimic_iv_tables.yaml`. Item ids are compared with the data's own dictionaries
(d_items, d_labitems), since a release may drop an item or change its meaning.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.errors import ConfigError, SourceError
from clinjepa.sources.files.csv_stream import LONGEST_HEADER, open_stream, read_line
from clinjepa.sources.files.text_files import found_columns
from clinjepa.sources.mimic_iv.row_meaning import mimic_map
from clinjepa.sources.schema import MEDICATION
from clinjepa.storage import Folder

_WHERE = "clinjepa/clinical/maps/mimic_iv_tables.yaml"
_TYPES = ("integer", "number", "text", "time")
_DICTIONARIES = {"d_items": ("chartevents", "inputevents", "outputevents", "procedureevents"), "d_labitems": ("labevents",)}
_LAYOUT = "source.path must be the folder that holds hosp/ and icu/ of MIMIC-IV"
_WIDE = "UTF-16; export the table as UTF-8"


@dataclass(frozen=True)
class Table:
    """One table and the columns that are read. `columns`, `optional`: name -> integer | number | text | time.

    needed: whether a folder without the table is refused. time: the column that places a row in time. items: whether rows are
    selected by `itemid`.
    """

    name: str
    folder: str
    needed: bool
    columns: dict[str, str]
    optional: dict[str, str]
    time: str | None = None
    items: bool = False


@lru_cache(maxsize=1)
def load_tables() -> dict[str, Table]:
    """All tables by name; ConfigError when the file contradicts itself."""
    content = check_keys(read_definitions("maps/mimic_iv_tables.yaml"), {"versions", "tables"}, set(), _WHERE)
    found = {}
    for name, raw in content["tables"].items():
        entry: Any = check_keys(raw, {"folder", "needed", "columns", "optional"}, {"time", "items"}, f"{_WHERE}: {name}")
        for column, kind in {**entry["columns"], **entry["optional"]}.items():
            if kind not in _TYPES:
                raise ConfigError(f"{_WHERE}: {name}.{column}: type {kind!r} is not one of {list(_TYPES)}")
        found[name] = Table(name, **entry)
    return found


def find_tables(folder: Folder) -> dict[str, str]:
    """Table -> file below `folder`. SourceError when the folder is not MIMIC-IV or a required table is missing.

    If a table is there packed and unpacked, the packed file is used: its checksum shows whether it is complete.
    """
    listed = {place: {name.casefold(): name for name in folder.names(place)} for place in ("hosp", "icu")}
    if not any(listed.values()):
        raise SourceError(f"{folder.address}: {_no_layout(folder)}")
    files: dict[str, str] = {}
    for table in load_tables().values():
        names = [f"{table.name}.csv.gz", f"{table.name}.csv"]
        file = next((listed[table.folder][name] for name in names if name in listed[table.folder]), None)
        if file is not None:
            files[table.name] = f"{table.folder}/{file}"
        elif table.needed:
            other = next((listed[table.folder][name] for name in listed[table.folder] if name.startswith(f"{table.name}.")), None)
            found = "" if other is None else f" (found: {other}; write it as .csv or .csv.gz)"
            raise SourceError(
                f"{folder.address}/{table.folder}/{table.name}.csv.gz is missing{found}; get the whole of hosp/ and icu/ of MIMIC-IV "
                f"{read_definitions('maps/mimic_iv_tables.yaml')['versions']} from PhysioNet"
            )
    return files


def read_header(folder: Folder, table: Table, file: str) -> list[str]:
    """Column names of a table's file, in lower case.

    Raises:
        SourceError: The file is empty, not a csv with commas, of MIMIC-III, or a column is missing or repeated.
    """
    where = f"{folder.address}/{file}"
    with open_stream(folder, file) as stream:
        line = read_line(stream, where)
    for start, what in ((b"\x1f\x8b", "packed with gzip; name it .csv.gz"), (b"\xff\xfe", _WIDE), (b"\xfe\xff", _WIDE)):
        if line.startswith(start):
            raise SourceError(f"{where}: the file is {what}")
    if b"\0" in line:
        raise SourceError(f"{where}: the file is {_WIDE}")
    if not line.strip():
        raise SourceError(f"{where}: the file is empty, its first line has no header; get it again")
    text = line.decode("utf-8", errors="replace").replace("\ufeff", "").strip()
    if "\r" in text or len(line) >= LONGEST_HEADER:
        raise SourceError(f"{where}, row 1: the line does not end with LF or CRLF; export the table as PhysioNet publishes it")
    if text.count('"') % 2:
        raise SourceError(f"{where}, row 1: a quotation mark is never closed; export the table as PhysioNet publishes it")
    header = [name.strip().casefold() for name in next(csv.reader([text]))]
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars"), ("^", "carets")):
        if len(header) == 1 and separator in text:
            raise SourceError(
                f"{where}, row 1: columns are separated by {name}, commas are needed; export the table as PhysioNet publishes it"
            )
    if "row_id" in header or (table.name == "d_items" and "abbreviation" not in header and {"dbsource", "conceptid"} & set(header)):
        raise SourceError(f"{where}: this is MIMIC-III (its tables have row_id, its d_items dbsource); this source reads MIMIC-IV")
    missing = [name for name in table.columns if name not in header]
    if missing:
        raise SourceError(
            f"{where}, row 1: column {missing[0]!r} is missing ({found_columns(header, table.columns | table.optional)}); MIMIC-IV "
            f"{read_definitions('maps/mimic_iv_tables.yaml')['versions']} have it; is this another release or data set?"
        )
    repeated = [name for name, times in Counter(header).items() if times > 1 and name in table.columns | table.optional]
    if repeated:
        raise SourceError(f"{where}, row 1: column {repeated[0]!r} occurs twice; remove one")
    return header


def check_items(d_items: pl.DataFrame, d_labitems: pl.DataFrame) -> dict[str, int]:
    """Compare the item ids in use with the data's own dictionaries.

    Items of `maps/mimic_iv.yaml` are counted as `medication` and `specimen`.

    Args:
        d_items: itemid, label, linksto.
        d_labitems: itemid, label, fluid.

    Returns:
        Number of items by rule and variable. `item_absent:<variable>`: there is no such item. `item_changed:<variable>`: another
        label, another table, or (labs) a fluid other than blood.
    """
    known = {
        "d_items": {row["itemid"]: (_plain(row["label"]), _plain(row["linksto"])) for row in d_items.iter_rows(named=True)},
        "d_labitems": {row["itemid"]: (_plain(row["label"]), _plain(row["fluid"])) for row in d_labitems.iter_rows(named=True)},
    }
    counts: Counter[str] = Counter()
    for variable in load_variables().values():
        for source in variable.sources:
            dictionary = next((name for name, tables in _DICTIONARIES.items() if source.table in tables), None)
            if dictionary is None:
                continue
            place = "blood" if dictionary == "d_labitems" else source.table
            for item in source.itemids:
                entry = known[dictionary].get(item)
                if entry is None:
                    counts[f"item_absent:{variable.name}"] += 1
                elif entry[0] != _plain(source.labels.get(item, entry[0])) or entry[1] != place:
                    counts[f"item_changed:{variable.name}"] += 1
    for item, label in mimic_map()["item_labels"].items():
        entry = known["d_items"].get(item)
        if entry is None:
            counts[f"item_absent:{MEDICATION}"] += 1
        elif entry != (_plain(label), "inputevents"):
            counts[f"item_changed:{MEDICATION}"] += 1
    if mimic_map()["specimens"]["item"] not in known["d_labitems"]:
        counts["item_absent:specimen"] += 1
    return dict(counts)


def _plain(text: str | None) -> str:
    return " ".join((text or "").split()).casefold()


def _no_layout(folder: Folder) -> str:
    names = folder.names()
    if not names:
        return f"no such folder, or nothing in it; {_LAYOUT}, or get the open demo from https://physionet.org/content/mimic-iv-demo/2.2/"
    upper = {name.removesuffix(".gz").removesuffix(".csv") for name in names}
    if {"CHARTEVENTS", "ICUSTAYS", "D_ITEMS"} & upper:
        return f"this is MIMIC-III (all tables in one folder, with names in capitals); {_LAYOUT}"
    below = next((name for name in names if {"hosp", "icu"} <= set(folder.names(name))), None)
    if below is not None:
        return f"neither hosp/ nor icu/ is here, but both are in {below}/; set source.path={folder.address}/{below}"
    return f"neither hosp/ nor icu/ is here; {_LAYOUT}"
