"""Tables of CLIF: which columns are read, their types, ids as whole numbers, and times in UTC.

Columns and types are data: `clinical/maps/clif_tables.yaml`. Categories: `clinical/maps/clif.yaml`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl
import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.clinical.definitions import check_keys, read_definitions
from clinjepa.errors import ConfigError, SourceError
from clinjepa.sources.clif.clocks import as_utc
from clinjepa.sources.files.text_files import found_columns

_WHERE = "clinjepa/clinical/maps/clif_tables.yaml"
_KINDS = ("id", "number", "text", "time", "flag")
_LONGEST_NUMBER = 15
"""Digits of an id that is taken as the number that it is; with the stay's number behind it, it stays below 2^63."""
_ID_BITS = 62


class ClifMap(TypedDict):
    """`clinical/maps/clif.yaml`; its header explains the keys."""

    vitals: dict[str, list[str]]
    labs: dict[str, list[str]]
    assessments: dict[str, list[str]]
    ventilation: dict[str, str]
    lab_units: dict[str, str]
    devices: dict[str, str]
    ventilated_tracheostomy: str
    ventilator_settings: list[str]
    invasive: list[str]
    noninvasive: list[str]
    noninvasive_mode: str
    shared_modes: list[str]
    no_ventilator_modes: list[str]
    modes: dict[str, str]
    delirium: dict[str, str]
    continuous: dict[str, list[str]]
    intermittent: dict[str, list[str]]
    fluids: list[str]
    not_given: list[str]
    sexes: dict[str, str]
    races: dict[str, str]
    hispanic: str
    discharges: dict[str, list[str]]
    icu: list[str]


@dataclass(frozen=True)
class Table:
    """One table and the columns that are read. `columns`, `optional`: name -> id | number | text | time | flag.

    needed: whether a folder without the table is refused. time: the column that places a row in time, or else `fallback`. category: the
    column by whose value rows are selected. dates: columns of times that hold dates where they are of the type
    Date; midnights: those of them that do also where no timestamp has a time of day (`clocks.date_columns`). holds: whether a row holds
    until the next one, so that rows long before a stay are kept too.
    """

    name: str
    needed: bool
    columns: dict[str, str]
    optional: dict[str, str]
    time: str | None = None
    fallback: str | None = None
    category: str | None = None
    dates: tuple[str, ...] = ()
    midnights: tuple[str, ...] = ()
    holds: bool = False

    @property
    def file(self) -> str:
        """Name of the table's file."""
        return f"clif_{self.name}.parquet"

    @property
    def all_columns(self) -> dict[str, str]:
        """Needed and optional columns."""
        return self.columns | self.optional


@lru_cache(maxsize=1)
def load_tables() -> dict[str, Table]:
    """All tables by name; ConfigError when the file contradicts itself."""
    content = check_keys(read_definitions("maps/clif_tables.yaml"), {"version", "tables"}, set(), _WHERE)
    found = {}
    for name, raw in content["tables"].items():
        entry: Any = check_keys(
            raw, {"needed", "columns", "optional"}, {"time", "fallback", "category", "dates", "midnights", "holds"}, f"{_WHERE}: {name}"
        )
        for column, kind in {**entry["columns"], **entry["optional"]}.items():
            if kind not in _KINDS:
                raise ConfigError(f"{_WHERE}: {name}.{column}: type {kind!r} is not one of {list(_KINDS)}")
        found[name] = Table(name, **(entry | {part: tuple(entry.get(part, ())) for part in ("dates", "midnights")}))
    return found


@lru_cache(maxsize=1)
def clif_map() -> ClifMap:
    """The content of `clinical/maps/clif.yaml`; ConfigError when it names a variable that the dictionary lacks."""
    content: ClifMap = read_definitions("maps/clif.yaml")
    lists = [names for part in ("vitals", "labs", "assessments", "continuous", "intermittent") for names in content[part].values()]
    unknown = {
        name for names in [*lists, list(content["ventilation"].values()), content["fluids"]] for name in names
    } - load_variables().keys()
    if unknown:
        raise ConfigError(f"clinjepa/clinical/maps/clif.yaml: {sorted(unknown)} are not in variables.yaml")
    return content


def category(column: str) -> pl.Expr:
    """A column of categories as the map writes them: lower case, `_` as a blank."""
    return pl.col(column).str.strip_chars().str.to_lowercase().str.replace_all("_", " ")


def as_category(word: str) -> str:
    """`category` of a single word."""
    return word.strip().lower().replace("_", " ")


def check_columns(table: Table, schema: pa.Schema, where: str) -> list[str]:
    """The columns to read, in the table's order.

    Raises:
        SourceError: A needed column is missing, a column occurs twice, or its type is not that of CLIF.
    """
    missing = [name for name in table.columns if name not in schema.names]
    if missing:
        raise SourceError(
            f"{where}: column {missing[0]!r} is missing ({found_columns(schema.names, table.all_columns)}); "
            "this source reads CLIF 2.1, clif-icu.com/data-dictionary"
        )
    repeated = [name for name in table.all_columns if schema.names.count(name) > 1]
    if repeated:
        raise SourceError(f"{where}: column {repeated[0]!r} occurs twice; remove one")
    found = [name for name in table.all_columns if name in schema.names]
    for name in found:
        _check_type(table.all_columns[name], name, schema.field(name).type, where)
    return found


def _check_type(kind: str, name: str, dtype: pa.DataType, where: str) -> None:
    inner = dtype.value_type if pa.types.is_dictionary(dtype) else dtype
    is_text = pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_string_view(inner)
    is_number = pa.types.is_integer(inner) or pa.types.is_floating(inner) or pa.types.is_decimal(inner)
    fits = {
        "id": is_text or pa.types.is_integer(inner),
        "number": is_number,
        "text": is_text,
        "time": pa.types.is_timestamp(inner) or pa.types.is_date(inner),
        "flag": pa.types.is_boolean(inner) or pa.types.is_integer(inner),
    }[kind]
    if fits or pa.types.is_null(inner):
        return
    remedy = {
        "id": "write ids as text, as CLIF does; a floating-point number cannot hold every id",
        "number": "write it as a number",
        "text": "write it as text",
        "time": "write it as a timestamp in UTC, as CLIF does",
        "flag": "write it as true and false",
    }[kind]
    raise SourceError(f"{where}: column {name!r} is {dtype}; {remedy}")


def zone_of(name: str) -> ZoneInfo:
    """The time zone of `source.time_zone`; SourceError when there is none of this name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise SourceError(
            f"source.time_zone={name!r} is no time zone; use a name such as US/Eastern, Europe/Berlin, or Etc/GMT+5 for UTC-05:00 all year"
        ) from None


def typed(rows: pa.Table | pa.RecordBatch, table: Table, zone: str, dates: Mapping[str, str] | None = None) -> pl.DataFrame:
    """The table's columns in their types; an optional one that the file lacks is null.

    Times are UTC without a zone; those of `table.dates` have the zone UTC, or none where the column holds dates: these are days of the
    hospital.

    Args:
        rows: The columns that the file has.
        table: The table.
        zone: Name of the hospital's zone; a time column of the type Date means midnight there.
        dates: Columns of `table.dates` that hold dates, with the zone in which they are read (`clocks.date_columns`).
    """
    frame = pl.DataFrame(rows)
    columns = []
    for name, kind in table.all_columns.items():
        dtype = frame.schema.get(name)
        column = pl.col(name) if dtype is not None else pl.lit(None).alias(name)
        if kind == "time":
            time = _instant(column, dtype, zone)
            if name in table.dates and dtype is not None and dates is not None and name in dates:
                time = _day(column, dtype, dates[name])
            columns.append(time if name in table.dates else time.dt.replace_time_zone(None))
        elif kind in ("id", "text"):
            text = column.cast(pl.String).str.strip_chars()
            columns.append(pl.when(text != "").then(text).alias(name))
        else:
            columns.append(column.cast(pl.Float64 if kind == "number" else pl.Boolean))
    extra = ["row"] if "row" in frame.columns else []
    return frame.select(*extra, *columns)


def _instant(column: pl.Expr, dtype: pl.DataType | None, zone: str) -> pl.Expr:
    if dtype is None or dtype == pl.Null:
        return column.cast(pl.Datetime("us", "UTC"))
    if dtype == pl.Date:
        midnight = column.cast(pl.Datetime("us"))
        first = midnight.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")  # the clock may skip midnight
        later = (midnight + pl.duration(hours=1)).dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return pl.coalesce(first, later).dt.convert_time_zone("UTC")
    return as_utc(column, dtype)


def _day(column: pl.Expr, dtype: pl.DataType, zone: str) -> pl.Expr:
    if dtype == pl.Date:
        return column.cast(pl.Datetime("us"))
    return as_utc(column, dtype).dt.convert_time_zone(zone).dt.replace_time_zone(None).dt.truncate("1d")


def number_ids(ids: pl.Series, where: str, longest: int = _LONGEST_NUMBER) -> pl.Series:
    """A column of distinct ids as int64: the numbers that they are, or, where one of them is none, 62 bits of their SHA-256.

    Args:
        ids: Texts, each once.
        where: The data set or file, for messages.
        longest: Digits of an id that is taken as the number that it is, at most 18.

    Raises:
        SourceError: Two ids have the same 62 bits.
    """
    plain = ids.str.contains(rf"^(?:0|[1-9]\d{{0,{longest - 1}}})$")
    if plain.all():
        return ids.cast(pl.Int64)
    numbers = pl.Series(ids.name, [_hashed(text) for text in ids.to_list()], pl.Int64)
    if numbers.n_unique() < ids.n_unique():
        raise SourceError(f"{where}: two values of {ids.name!r} have the same 62-bit number; write ids as whole numbers")
    return numbers


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - _ID_BITS)
