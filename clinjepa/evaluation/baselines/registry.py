"""The table of baselines: an entry `BASELINE` in every file of `tabular/` and `sequences/`, by the name of the file.

A file is imported when its baseline is used, so the libraries of the others need not load.
"""

from __future__ import annotations

from importlib import import_module

from clinjepa.errors import ConfigError
from clinjepa.evaluation.baselines.names import package_of
from clinjepa.evaluation.baselines.protocol import Baseline


def load_baseline(name: str) -> Baseline:
    """The entry `BASELINE` of a baseline's file.

    Raises:
        ConfigError: there is no such file, or it has no entry.
    """
    package = package_of(name)
    file = f"{package.replace('.', '/')}/{name}.py"
    entry = getattr(import_module(f"{package}.{name}"), "BASELINE", None)
    if not isinstance(entry, Baseline):
        raise ConfigError(f"{file}: no entry BASELINE = Baseline(…) (docs/adding_a_baseline.md)")
    return entry
