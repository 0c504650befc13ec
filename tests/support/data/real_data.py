"""Folders of the real open data sets; a test is skipped where CLINJEPA_DATA does not hold them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real(name: str, page: str) -> Path:
    folder = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / name
    if not folder.is_dir():
        pytest.skip(f"CLINJEPA_DATA holds no {name}; the public copy is at {page} (`clinjepa data get`)")
    return folder
