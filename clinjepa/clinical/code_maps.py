"""Code maps: what the codes of a MEDS data set mean, as data, so that `source.kind: meds` reads conversions other than MIMIC-IV's.

A map is a YAML file: `maps/codes/<name>.yaml` or a file of the user. It names the codes of ICU stays, hospitalisations and people, and the
variable of every code that is read. A code of a map stands for itself and for all codes that begin with it and `//`; the longest one
counts. Codes and words are texts as they are written (`definitions.parse_texts`). With `extends` a map states only its differences to
another one: mappings are joined key by key, a list replaces the other list, and null removes an entry. These files are not in the digest
of `maps/`: the digest of the map in use is part of the source's content.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from clinjepa.clinical.definitions import Key, check_choice, check_entry, file_names, optional, parse_texts, read_texts
from clinjepa.clinical.variables import canonical_unit, load_variables
from clinjepa.errors import ConfigError

MIMIC_MAP = "mimic_iv"
"""Name of the map that `sources.meds` has built in: item ids of MIMIC-IV in `variables.yaml`."""

Reading = Literal["value", "held", "flag"]
OpenStay = Literal["last_row", "drop"]
MAPS = "maps/codes"
"""Folder of the maps that come with the package."""
_READING = 2
"""Version of how rows are read through a map. It is in the digest of every map, and so in the keys of what is made of such a data set."""
_TRUTH = {"true": True, "false": False}
_MEDICATION = "medication"

MAP_KEYS = (
    optional("version", "Version of the format: 1."),
    optional("extends", "Another map: its name, or a path from this file's folder. Only differences are stated then."),
    optional("about", "What the map is for. Not read by the code."),
    optional("files", "Which Parquet files are read. Default: all of `data/`."),
    optional("columns", "Names of columns beside MEDS's own. Default: none."),
    optional("unit_in_code", "true: what a code has behind the code of the map is its unit. Default: false."),
    Key("stays", "How ICU stays are coded."),
    optional("hospitalizations", "How hospitalisations are coded. Default: not at all."),
    optional("people", "How birth, death, sex and race are coded. Default: not at all."),
    Key("codes", "Code -> a variable, a list of variables, or an entry."),
    optional("not_used", "Code -> why it is known and not read. Default: none."),
)
"""Keys of a map."""

FILE_KEYS = (
    optional(
        "rows", "Patterns of the files with readings and treatments, from `source.path`. `*` is any text, `{set}` the data set's name."
    ),
    optional("stays", "Patterns of the files with stays, hospitalisations and people. Default: those of `rows`."),
)
"""Keys of `files` in a map."""

COLUMN_KEYS = (
    optional("stay", "Columns with the id of an ICU stay; the first one that a file has is used."),
    optional("hospitalization", "Columns with the id of a hospitalisation."),
    optional("unit", "Columns with the unit of a row."),
    optional("order", "Columns with the id of the order under which something was given; equal rows of two orders both count."),
    optional("stored", "Columns with the time at which a row was stored."),
    optional("care_unit", "Columns with the name of the care unit, on rows that begin an ICU stay."),
)
"""Keys of `columns` in a map."""

STAY_KEYS = (
    Key("begin", "Codes that begin an ICU stay."),
    Key("end", "Codes that end one. Without ids of stays the first end before the next beginning counts."),
    optional("open", "A stay without an end: `drop` (default), or `last_row`: it ends with the last reading.", get_args(OpenStay)),
)
"""Keys of `stays` in a map."""

HOSPITALIZATION_KEYS = (
    Key("begin", "Codes that begin a hospitalisation."),
    Key("end", "Codes that end one. The place of discharge is in the text or behind the code."),
    optional("died", "Codes whose number says whether the patient died in hospital: 1, anywhere in the hospitalisation, or 0."),
    optional("places", "Word of a discharge -> `died`, `alive` or `unknown`, beside those of MIMIC-IV."),
    optional("admission_type", "Codes with the kind of admission behind them."),
    optional("diagnoses", "Codes with ICD version and ICD code behind them; for labels only."),
)
"""Keys of `hospitalizations` in a map."""

PEOPLE_KEYS = (
    optional("birth", "Codes of the birth."),
    optional("age", "Codes whose number is the age in years at their time; they count before a birth."),
    optional("death", "Codes of the death."),
    optional("sex", "Codes with the sex in the text or behind them."),
    optional("sexes", "Word -> `female` or `male`."),
    optional("race", "Codes with the race in the text or behind them."),
    optional("races", "Word -> a group of races, beside the words of MIMIC-IV."),
)
"""Keys of `people` in a map."""

CODE_KEYS = (
    Key("variables", "Variables of `variables.yaml`, or `medication`: a drug whose name is in the text or behind the code."),
    optional("unit", "Unit of values whose row and code name none. Default: the variable's own."),
    optional(
        "read",
        "`value` (default): a reading at its time. `held`: a rate that holds until the next row of its code in the same ICU stay; 0 "
        "ends it. `flag`: any row means yes.",
        get_args(Reading),
    ),
    optional("hours", "With `held`: hours that a rate holds at most. Default: 24."),
    optional("words", "Word -> the dictionary's word, for a category. Default: the text as it is."),
)
"""Keys of an entry of `codes` in a map."""

_SECTIONS: dict[str, tuple[Key, ...]] = {
    "files": FILE_KEYS,
    "columns": COLUMN_KEYS,
    "stays": STAY_KEYS,
    "hospitalizations": HOSPITALIZATION_KEYS,
    "people": PEOPLE_KEYS,
}
_WORDS: dict[str, tuple[str, ...]] = {
    "places": ("died", "alive", "unknown"),
    "sexes": ("female", "male"),
    "races": ("asian", "black", "hispanic", "white", "other", "unknown"),
}


@dataclass(frozen=True)
class CodeMeaning:
    """What the rows of a code are. CODE_KEYS explains the fields."""

    variables: tuple[str, ...]
    unit: str | None = None
    read: Reading = "value"
    hours: float = 24.0
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CodeMap:
    """A map after its `extends`. MAP_KEYS and the keys of its sections explain the fields; lists of codes are tuples.

    where: name or file, for messages. digest: SHA-256 of the content, and of the version of how rows are read through it.
    """

    where: str
    digest: str
    files: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, tuple[str, ...]]
    unit_in_code: bool
    structure: Mapping[str, tuple[str, ...]]
    """`stays.begin`, `hospitalizations.end`, `people.sex` …: kind of row -> its codes."""

    open_stays: OpenStay
    words: Mapping[str, Mapping[str, str]]
    """`places`, `sexes` and `races`: word in lower case -> meaning."""

    codes: Mapping[str, CodeMeaning]
    not_used: frozenset[str]


def map_names() -> list[str]:
    """Names of the maps that come with the package."""
    return sorted([MIMIC_MAP, *file_names(MAPS)])


def code_map(name: str, read: Callable[[str], str | None]) -> CodeMap:
    """A map by its name or the address of its file.

    Args:
        name: Value of `source.map`.
        read: Text of the file at an address, None where there is no file.

    Raises:
        ConfigError: There is no such map or file, or it is not valid; names the file, the key and the remedy.
    """
    return _parsed(_resolved(name, None, (), read), _where(name))


def _where(name: str) -> str:
    return f"clinjepa/clinical/{MAPS}/{name}.yaml" if name in file_names(MAPS) else name


def _resolved(name: str, folder: str | None, seen: tuple[str, ...], read: Callable[[str], str | None]) -> dict[str, Any]:
    """The content of a map with what it extends. folder: that of the map that names it."""
    if name in file_names(MAPS):
        address, content = _where(name), read_texts(f"{MAPS}/{name}.yaml")
    else:
        address = name if folder is None or name.startswith("/") or "://" in name else f"{folder}/{name}"
        setting = f"{seen[-1]}: extends={name}" if seen else f"source.map={name}"
        if name == MIMIC_MAP:
            raise ConfigError(f"{setting}: {MIMIC_MAP} is built in and cannot be extended; state all of the map's keys")
        text = read(address)
        if text is None:
            near = difflib.get_close_matches(name, map_names(), n=1)
            hint = f"did you mean {near[0]}?" if near else f"known maps are {', '.join(map_names())}; a file is named by its path"
            raise ConfigError(f"{setting} is no map and no file {address}; {hint}")
        content = parse_texts(text, address)
    if address in seen:
        raise ConfigError(f"{address}: `extends` goes round in a circle; name another map, or remove the line")
    return _extended(content, address, (*seen, address), read)


def _extended(content: Any, where: str, seen: tuple[str, ...], read: Callable[[str], str | None]) -> dict[str, Any]:
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where}: expected a mapping with stays and codes, found {type(content).__name__}; see docs/openicu.md")
    _check_names(content, MAP_KEYS, where)
    own = dict(content)
    parent = own.pop("extends", None)
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise ConfigError(f"{where}: extends={parent!r} is no name; name one map or file")
    folder = where.rpartition("/")[0] or "."
    return _joined(_resolved(parent, folder, seen, read), own)


def _joined(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings joined key by key, at every depth but inside an entry of `codes`, which is replaced whole."""
    found = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(found.get(key), Mapping) and "variables" not in value:
            found[key] = _joined(found[key], value)
        else:
            found[key] = value
    return found


def _parsed(content: Mapping[str, Any], where: str) -> CodeMap:
    check_entry(content, MAP_KEYS, where)
    sections: dict[str, Mapping[str, Any]] = {}
    for name, keys in _SECTIONS.items():
        section = content.get(name) or {}
        place = f"{where}: {name}"
        if not isinstance(section, Mapping):
            raise ConfigError(f"{place}: expected a mapping, found {type(section).__name__}")
        _check_names(section, keys, place)
        sections[name] = check_entry(section, keys, place) if name in content else {}
    lists = {
        f"{name}.{key}": _strings(value, f"{where}: {name}.{key}")
        for name, section in sections.items()
        for key, value in section.items()
        if key not in _WORDS and key != "open" and value is not None
    }
    unit_in_code = _TRUTH.get(str(content.get("unit_in_code", "false")).lower())
    if unit_in_code is None:
        raise ConfigError(f"{where}: unit_in_code={content['unit_in_code']!r} must be true or false")
    codes = _codes(content["codes"], where)
    _check_each_once(lists, codes, where)
    return CodeMap(
        where=where,
        digest=hashlib.sha256(f"{_READING};{json.dumps(content, sort_keys=True)}".encode()).hexdigest(),
        files=_of(lists, "files"),
        columns=_of(lists, "columns"),
        unit_in_code=unit_in_code,
        structure={key: value for key, value in lists.items() if key.split(".")[0] in ("stays", "hospitalizations", "people")},
        open_stays=cast(OpenStay, sections["stays"].get("open", "drop")),
        words={name: _words(sections, name, allowed, where) for name, allowed in _WORDS.items()},
        codes=codes,
        not_used=frozenset(str(code) for code, why in (content.get("not_used") or {}).items() if why is not None),
    )


def _of(lists: Mapping[str, tuple[str, ...]], section: str) -> dict[str, tuple[str, ...]]:
    return {key.partition(".")[2]: value for key, value in lists.items() if key.startswith(f"{section}.")}


def _codes(entries: Any, where: str) -> dict[str, CodeMeaning]:
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"{where}: codes must map at least one code to a variable")
    return {str(code): _meaning(entry, f"{where}: codes.{code}") for code, entry in entries.items() if entry is not None}


def _meaning(entry: Any, place: str) -> CodeMeaning:
    if isinstance(entry, (str, list)):
        entry = {"variables": entry}
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{place}: expected a variable, a list of variables or a mapping, found {type(entry).__name__}")
    _check_names(entry, CODE_KEYS, place)
    entry = check_entry(entry, CODE_KEYS, place)
    names = entry["variables"] if isinstance(entry["variables"], list) else [entry["variables"]]
    known = {name for name, variable in load_variables().items() if variable.of is None} | {_MEDICATION}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "docs/clinical.md tells how to add a variable"
            raise ConfigError(f"{place}: {name!r} is no variable that a source gives; {hint}")
    words = entry.get("words") or {}
    if not isinstance(words, Mapping):
        raise ConfigError(f"{place}: words must be a mapping, found {type(words).__name__}")
    hours = _above_zero(entry.get("hours", "24"), f"{place}: hours")
    read = cast(Reading, entry.get("read", "value"))
    if read == "held" and any(name != _MEDICATION and load_variables()[name].kind != "rate" for name in names):
        raise ConfigError(f"{place}: read=held needs variables of kind rate; leave it out for readings")
    return CodeMeaning(
        tuple(names), canonical_unit(entry.get("unit")), read, hours, {str(k).strip().lower(): str(v) for k, v in words.items()}
    )


def _above_zero(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{place}={value!r} must be a number above 0")
    return number


def _words(sections: Mapping[str, Mapping[str, Any]], name: str, allowed: tuple[str, ...], where: str) -> dict[str, str]:
    holder = "hospitalizations" if name == "places" else "people"
    words = sections[holder].get(name) or {}
    if not isinstance(words, Mapping):
        raise ConfigError(f"{where}: {holder}.{name} must map a word to its meaning, found {type(words).__name__}")
    check_choice(list(words.values()), allowed, f"{where}: {holder}.{name}")
    return {str(word).strip().lower(): str(meaning) for word, meaning in words.items()}


def _check_names(entry: Mapping[str, Any], keys: tuple[Key, ...], place: str) -> None:
    """ConfigError with the nearest known key for one that is unknown."""
    known = [key.name for key in keys]
    unknown = [str(name) for name in entry if name not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"{place}: key {unknown[0]!r} is unknown; {hint}")


def _strings(value: Any, place: str) -> tuple[str, ...]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) and item for item in items):
        raise ConfigError(f"{place}: expected a list of texts")
    return tuple(items)


def _check_each_once(lists: Mapping[str, tuple[str, ...]], codes: Mapping[str, CodeMeaning], where: str) -> None:
    """ConfigError when a code begins or ends something and is also something else."""
    seen: dict[str, str] = {code: f"codes.{code}" for code in codes}
    for kind, listed in lists.items():
        if kind.split(".")[0] in ("files", "columns"):
            continue
        for code in listed:
            if code in seen:
                raise ConfigError(f"{where}: code {code!r} is in {seen[code]} and in {kind}; keep one of them")
            seen[code] = kind
