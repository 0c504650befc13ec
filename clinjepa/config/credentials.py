"""Settings that hold a credential are refused before anything is written: a run saves its whole configuration and shows it in the report.

The message names the setting and the remedy and never repeats the value.
"""

from __future__ import annotations

from pydantic import BaseModel

from clinjepa.errors import ConfigError
from clinjepa.redaction import REMEDY, endpoints_with_credentials, holds_credentials

_FOUND = "holds credentials (user and password, a key or a token)"


def refuse_credentials(value: object, where: str) -> None:
    """Raise ConfigError when a string of `value` (nested sections, lists and keys included) holds a credential.

    Args:
        value: A setting, a section or a whole configuration.
        where: What the message names: the file and the dotted name of the setting.
    """
    if isinstance(value, str):
        if holds_credentials(value):
            raise ConfigError(f"{where} {_FOUND}; {REMEDY}")
    elif isinstance(value, BaseModel):
        return  # its own validation has looked at it
    elif isinstance(value, dict):
        for key, held in value.items():
            refuse_credentials(key, f"{where}: the name of a setting")
            refuse_credentials(held, _joined(where, str(key)))
    elif isinstance(value, bytes):
        refuse_credentials(value.decode(errors="replace"), where)
    elif isinstance(value, list | tuple | set):
        for held in value:
            refuse_credentials(held, where)


def refuse_environment() -> None:
    """Raise ConfigError when an address in the environment, such as `AWS_ENDPOINT_URL`, holds a credential: messages name these."""
    for name in endpoints_with_credentials():
        raise ConfigError(f"{name} in the environment {_FOUND}; {REMEDY}")


def _joined(where: str, key: str) -> str:
    if not where:
        return key
    return f"{where}{' ' if where.endswith(':') else '.'}{key}"
