"""Skeletons of new tasks and variables: YAML with one line and a comment per key, generated from the key lists of the loaders.

`clinjepa data new-task` and `clinjepa data new-variable` write them. The blanks are marked with `BLANK`; the loaders refuse them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from clinjepa.clinical.definitions import BLANK, Key
from clinjepa.clinical.derived import load_derived
from clinjepa.clinical.task_keys import COMMON_KEYS, KIND_KEYS
from clinjepa.clinical.tasks import list_tasks
from clinjepa.clinical.variables import VARIABLE_KEYS, load_variables
from clinjepa.errors import ConfigError

_COMPARISON = f'{{variables: [{BLANK}], stat: observed, op: "<", value: {BLANK}}}'
_EXAMPLES = {
    "requires": f"[{BLANK}]",
    "sources": "[simulator]",
    "exclude_stays": "[chronic_dialysis]",
    "switches_only": "true",
    "carried_event": "negatives_only",
    "free_hours": "all",
    "state": _COMPARISON,
    "unless": _COMPARISON,
    "time": "death_time",
    "gap_hours": "2",
    "only_if": "died_in_hospital",
    "op": '">="',
    "target": f"{{column: {BLANK}, hours: {BLANK}}}",
    "outcome": f"{{time: death_time, since: intime, within_hours: {BLANK}}}",
    "at": "icu_discharge",
    "section": "labs",
    "role": "state",
    "kind": "numeric",
    "conversions": "[]",
    "agg": "median",
    "provenance": f"[{BLANK}]",
    "unit_aliases": f"[{BLANK}]",
    "lookback_hours": "24",
    "alternates": "[]",
    "alt_ranges": "{}",
}
"""Key -> value in a skeleton; other keys are blank."""

_MIMIC_ITEMS = f"\n  - {{table: labevents, itemids: [{BLANK}], labels: {{}}}}"


def write_task(name: str, kind: str = "event", folder: Path | None = None) -> Path:
    """Write the skeleton `tasks/<name>.yaml` of a task.

    Args:
        name: Identifier of the task: lower-case letters, digits and underscores.
        kind: Kind of its label.
        folder: Folder of the definitions; default: that of the installed package.

    Returns:
        The file.

    Raises:
        ConfigError: The name is not valid or exists, the kind is unknown, or the folder cannot be written to.
    """
    chosen = next((known for known in KIND_KEYS if known == kind), None)
    if chosen is None:
        raise ConfigError(f"kind={kind!r} is not one of {list(KIND_KEYS)}")
    path = _folder(folder) / "tasks" / f"{name}.yaml"
    _check_name(name, [*list_tasks(), *([name] if path.exists() else [])], "a task")
    lines = [f"# Replace every {BLANK}; delete commented lines that are not needed. Keys: docs/clinical_fields.md."]
    lines += _lines((*COMMON_KEYS, *KIND_KEYS[chosen]), {"name": name, "kind": kind})
    _write(path, "\n".join(lines) + "\n")
    return path


def write_variable(name: str, folder: Path | None = None) -> Path:
    """Add the skeleton of a variable to the end of the list in `variables.yaml`.

    Args:
        name: Identifier of the variable: lower-case letters, digits and underscores.
        folder: Folder of the definitions; default: that of the installed package.

    Returns:
        The file.

    Raises:
        ConfigError: The name is not valid or exists, or the file cannot be written to.
    """
    path = _folder(folder) / "variables.yaml"
    text = path.read_text(encoding="utf-8")
    known = [*load_variables(), *load_derived(), *re.findall(r"^- name: (\w+)", text, re.MULTILINE)]
    _check_name(name, known, "a variable or derived quantity")
    keys = _lines(VARIABLE_KEYS, {"name": name, "sources": _MIMIC_ITEMS})
    entry = "\n".join([f"- {keys[0]}", *(f"  {line}" for line in keys[1:])])
    head, marker, rest = text.partition("\nderived:\n")
    _write(path, f"{head.rstrip()}\n{entry}\n{marker.lstrip()}{rest}")
    return path


def _lines(keys: Iterable[Key], given: dict[str, str]) -> list[str]:
    """A line per key with its meaning as a comment; optional keys are commented out. Of two keys with one name the last is used."""
    chosen = {key.name: key for key in keys}
    lines = []
    for key in sorted(chosen.values(), key=lambda key: not key.required):
        value = given.get(key.name) or _EXAMPLES.get(key.name, BLANK)
        comment = "  # " + key.meaning + (f" One of: {', '.join(key.allowed)}." if key.allowed else "")
        first, *more = f"{key.name}: {value}".replace(": \n", ":\n").split("\n")
        lines += [("" if key.required else "# ") + first + comment, *more]
    return lines


def _check_name(name: str, known: Iterable[str], what: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} is not a valid name; use lower-case letters, digits and underscores, starting with a letter")
    if name in known:
        raise ConfigError(f"{name!r} is already the name of {what}; choose another name")


def _folder(folder: Path | None) -> Path:
    return Path(str(resources.files("clinjepa.clinical"))) if folder is None else folder


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be written ({error.strerror}); work in a checkout, installed with `pip install -e .`, to change definitions"
        ) from None
