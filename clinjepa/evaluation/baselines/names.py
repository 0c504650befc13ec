"""Names of the baselines and of their input column: every file of `tabular/` and `sequences/` is one. Listing them imports none."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence

from clinjepa.errors import ConfigError
from clinjepa.evaluation.baselines import sequences, tabular

PACKAGES = (tabular, sequences)

COLUMN = "history_only"
"""The input column of every baseline."""


def baseline_names() -> list[str]:
    """Names of all baselines, those on features of a point first."""
    return [name for package in PACKAGES for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__))]


def package_of(name: str) -> str:
    """Dotted name of the package that has a baseline's file."""
    check_names([name])
    return next(each.__name__ for each in PACKAGES if name in {module.name for module in pkgutil.iter_modules(each.__path__)})


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is no baseline's, or that stands twice."""
    known = baseline_names()
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"evaluation.downstream.baselines.names: {', '.join(unknown)} is no baseline; use some of {', '.join(known)}")
    if twice := sorted({name for name in names if list(names).count(name) > 1}):
        raise ConfigError(f"evaluation.downstream.baselines.names: {', '.join(twice)} stands twice; name it once")
