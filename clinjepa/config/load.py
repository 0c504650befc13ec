"""From YAML and dotted overrides to a validated `Config`, with errors that say what was given and what is allowed."""

from __future__ import annotations

import difflib
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from clinjepa.addresses import plain_address
from clinjepa.config.credentials import refuse_credentials, refuse_environment
from clinjepa.config.file_text import read_text, real_path
from clinjepa.config.schema import Config
from clinjepa.config.section import ADDRESS_FAULT
from clinjepa.config.yaml_text import MOST_DEPTH, YamlFault, parse_yaml
from clinjepa.errors import ConfigError


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read `path` (and what it `extends`), apply `key=value` overrides, validate.

    Raises ConfigError naming the file, the key and the remedy; also for credentials in a setting or in an address of the environment.
    """
    refuse_environment()
    refuse_credentials(str(path), "the name of the configuration file")
    return validated(apply_overrides(_read_yaml(_local_file(str(path))), overrides or []), str(path))


def save_config(config: Config) -> str:
    """The whole configuration as YAML text, defaults included; `load_config` of it gives an equal `Config`."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def apply_overrides(raw: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    """Set `a.b=value` pairs in a nested dictionary; values are YAML (`4`, `true`, `[6, 12]`, `null`)."""
    for word, following in pairwise(overrides):  # a shell divides `--password X` in two words
        if "=" not in word:
            refuse_credentials(f"{word} {following}", "an override")
    for override in overrides:
        dotted, separator, text = override.partition("=")
        refuse_credentials(dotted, "an override")
        refuse_credentials(text, f"override {dotted}: the value")
        if not separator or not dotted:
            raise ConfigError(f"override {override!r} is not key=value; example: curriculum.num_steps=100")
        if any("\udc80" <= character <= "\udcff" for character in text):  # what Python makes of bytes that the locale cannot read
            raise ConfigError(f"override {dotted}: the value has letters that this locale cannot read; set LC_ALL=C.UTF-8")
        try:
            value = parse_yaml(text)
        except YamlFault as fault:
            raise ConfigError(f"override {dotted[:100]}: the value {fault.words}") from None
        *parents, last = dotted.split(".")
        if len(parents) > MOST_DEPTH:
            raise ConfigError(f"override {dotted[:100]}…: no setting lies {len(parents)} sections deep; check its name")
        node = raw
        for parent in parents:
            child = node.get(parent)
            if child is None:
                child = node[parent] = {}
            if not isinstance(child, dict):
                raise ConfigError(f"override {dotted}: {parent} is a single value, it has no field {last}")
            node = child
        node[last] = value
    return raw


def _read_yaml(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    place = real_path(path)
    if place in seen:
        raise ConfigError(f"{path}: `extends` goes round in a circle")
    try:
        raw = parse_yaml(read_text(path))
    except YamlFault as fault:
        where = f" line {fault.line}" if fault.line else " it"
        raise ConfigError(f"{path}:{where} {fault.words}") from None
    if raw is None:
        raise ConfigError(f"{path} is empty; name at least what it `extends`, or start from a file of configs/")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of sections at the top, found a {type(raw).__name__}")
    refuse_credentials(raw, f"{path}:")
    if "extends" not in raw:
        return raw
    parent = raw.pop("extends")
    if not isinstance(parent, str):
        raise ConfigError(f"{path}: extends={parent!r} is no file name; name one configuration, or remove the line")
    return _merge(_read_yaml(path.parent / _local_file(str(parent)), (*seen, place)), raw)


def _local_file(text: str) -> Path:
    """The path of a configuration file, as a user writes it."""
    address = plain_address(text)
    if "://" in address:
        raise ConfigError(f"{address}: a configuration is read from a file of this machine; copy it here and name the copy")
    return Path(address)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        merged[key] = _merge(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
    return merged


def validated(raw: dict[str, Any], where: str) -> Config:
    """The configuration of plain values. where: their origin, for the message. Raises ConfigError naming the key and the remedy."""
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(fault, raw) for fault in error.errors()]
        raise ConfigError(f"{where}: " + "; ".join(lines)) from None


def _explain(fault: Any, raw: dict[str, Any]) -> str:
    location = [str(part) for part in fault["loc"]]
    dotted = ".".join(location) or "configuration"
    if fault["type"] == "extra_forbidden":
        allowed = _allowed(location[:-1])
        near = difflib.get_close_matches(location[-1], allowed, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(sorted(allowed))}"
        return f"unknown key {dotted!r}; {hint}"
    if fault["type"] == ADDRESS_FAULT:
        return f"{dotted}: {fault['msg']}"
    if fault["type"] == "string_type" and fault.get("input") is None:
        return f"{dotted} is null: YAML reads a bare ~ and an empty value so; write the value, '~' in quotation marks for the home folder"
    message = fault["msg"].removeprefix("Value error, ")
    return message if not location or fault["type"] == "value_error" else f"{dotted}={fault.get('input')!r}: {message}"


def _allowed(parents: list[str]) -> list[str]:
    model: Any = Config
    for part in parents:
        field = getattr(model, "model_fields", {}).get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)
