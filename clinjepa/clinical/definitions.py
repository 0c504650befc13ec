"""Reads the YAML files that lie beside this module, with messages that name file and entry."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from clinjepa.errors import ConfigError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_definitions(name: str) -> Any:
    """Parse `clinjepa/clinical/<name>`; ConfigError when it is missing or not YAML."""
    path = resources.files("clinjepa.clinical").joinpath(name)
    if not path.is_file():
        raise ConfigError(f"clinjepa/clinical/{name} is missing; was the package installed without its YAML files?")
    return parse_definitions(path.read_text(encoding="utf-8"), f"clinjepa/clinical/{name}")


def parse_definitions(text: str, where: str) -> Any:
    """Parse YAML text; `where` names it in messages."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{where}{line}: not valid YAML ({getattr(error, 'problem', None) or 'cannot be parsed'})") from None


def check_keys(entry: Any, required: set[str], optional: set[str], where: str) -> Mapping[str, Any]:
    """`entry` as a mapping that has all `required` keys and none beyond `optional`; ConfigError otherwise."""
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{where}: expected a mapping with the keys {sorted(required)}, found {type(entry).__name__}")
    missing = required - entry.keys()
    unknown = entry.keys() - required - optional
    if missing:
        raise ConfigError(f"{where}: missing {sorted(missing)}")
    if unknown:
        raise ConfigError(f"{where}: unknown {sorted(unknown)}; known are {sorted(required | optional)}")
    return entry


def file_names(folder: str) -> list[str]:
    """Sorted names (without suffix) of the YAML files in `clinjepa/clinical/<folder>`."""
    entries = resources.files("clinjepa.clinical").joinpath(folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))
