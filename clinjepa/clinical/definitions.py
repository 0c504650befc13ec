"""Reading and checking of the YAML files beside this module, with messages that name file and entry.

A loader describes the keys of its entries as `Key`s. `check_entry` checks them, `field_reference` lists them in the docs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import yaml

from clinjepa.errors import ConfigError

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


BLANK = "FILL_IN"
"""Value that a skeleton of `scaffold` has where the user must enter one."""


class Key(NamedTuple):
    """A key of a YAML entry. allowed: its values, or the values of its list; empty: not an enumeration."""

    name: str
    meaning: str
    required: bool = True
    allowed: tuple[str, ...] = ()


def optional(name: str, meaning: str, allowed: tuple[str, ...] = ()) -> Key:
    """A key that may be left out."""
    return Key(name, meaning, False, allowed)


def read_definitions(name: str) -> Any:
    """Parse `clinjepa/clinical/<name>`; ConfigError when it is missing or not YAML."""
    return parse_definitions(_packaged(name), f"clinjepa/clinical/{name}")


def read_texts(name: str) -> Any:
    """`parse_texts` of `clinjepa/clinical/<name>`; ConfigError when it is missing or not YAML."""
    return parse_texts(_packaged(name), f"clinjepa/clinical/{name}")


def _packaged(name: str) -> str:
    path = resources.files("clinjepa.clinical").joinpath(name)
    if not path.is_file():
        raise ConfigError(f"clinjepa/clinical/{name} is missing; was the package installed without its YAML files?")
    return path.read_text(encoding="utf-8")


def parse_definitions(text: str, where: str) -> Any:
    """Parse YAML text; `where` names it in messages."""
    return _parsed(text, where, _Loader)


def parse_texts(text: str, where: str) -> Any:
    """Parse YAML text whose keys and values are texts as they are written: `0210`, `3.10` and `NO` stay what they are.

    Only an empty value, `~` and `null` are None.

    Args:
        text: The YAML text.
        where: Its name, for messages.

    Raises:
        ConfigError: It is not YAML, a key is no text, or a key is given twice.
    """
    return _parsed(text, where, _TextLoader)


class _TextLoader(yaml.SafeLoader):
    """YAML whose scalars are texts, or null; a key that is no text, or that is given twice, is refused."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """As the composer's, with the checks of keys."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            kind = key.tag.rpartition(":")[2]
            if not isinstance(key, yaml.ScalarNode) or kind not in ("str", "merge"):
                raise yaml.MarkedYAMLError(problem="a key is no text; put it in quotation marks", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value[:60]!r} is given twice; keep one", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_TextLoader.yaml_implicit_resolvers = {
    first: [each for each in known if each[0].rpartition(":")[2] in ("null", "merge")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parsed(text: str, where: str, loader: type) -> Any:
    try:
        return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader
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


def check_entry(entry: Any, keys: Sequence[Key], where: str) -> Mapping[str, Any]:
    """`entry` as a mapping with the given keys.

    Args:
        entry: The entry as parsed from YAML.
        keys: All keys that it may have.
        where: File and entry, for messages.

    Raises:
        ConfigError: A required key is missing, a key is unknown, a value is not one of the allowed ones or not filled in.
    """
    required = {key.name for key in keys if key.required}
    checked = check_keys(entry, required, {key.name for key in keys} - required, where)
    for key in keys:
        value = checked.get(key.name)
        values = value if isinstance(value, list) else [value]
        if BLANK in values:
            raise ConfigError(f"{where}: {key.name} is still {BLANK}; enter a value: {key.meaning}")
        if key.allowed and key.name in checked:
            check_choice(values, key.allowed, f"{where}: {key.name}")
    return checked


def check_choice(values: Sequence[Any], allowed: Sequence[str], where: str) -> None:
    """ConfigError unless all `values` are allowed ones."""
    for value in values:
        if value not in allowed:
            raise ConfigError(f"{where}={value!r} is not one of {list(allowed)}")


def file_names(folder: str) -> list[str]:
    """Sorted names (without suffix) of the YAML files in `clinjepa/clinical/<folder>`."""
    entries = resources.files("clinjepa.clinical").joinpath(folder).iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml") and not entry.name.startswith("."))
