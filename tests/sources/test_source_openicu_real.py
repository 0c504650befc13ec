"""The open MIMIC-IV demo as PhysioNet's own tables and as OpenICU's MEDS: stays are equal, readings and hours agree.

What differs, and why, is data here: a difference that is not named fails.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.support.openicu_agreement import ABSENT, DIFFERENT, FOLDER, ONLY_OPENICU, different, read_both, unnamed


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    root = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent"))
    found = root / FOLDER, root / "mimic-iv-demo-2.2"
    for folder in found:
        if not folder.is_dir():
            pytest.skip(
                f"CLINJEPA_DATA holds no {folder.name}; docs/openicu.md says how to make OpenICU's copy of the demo, which is at "
                "https://physionet.org/content/mimic-iv-demo/2.2/"
            )
    return read_both(*found, tmp_path_factory.mktemp("both"))


def test_stays_are_the_same(both):
    found = both.stays()
    assert found["num_stays"] == found["num_stays_raw"] == found["num_matched"] == found["num_same_window"] == 140
    assert found["different"] == {}


def test_every_variable_agrees_or_is_named(both):
    (readings, absent), hours = both.readings(ONLY_OPENICU), both.hours()
    assert unnamed(readings, hours) == []
    assert different(readings, hours) == set(DIFFERENT)
    assert set(absent) == set(ABSENT)
    assert len(readings) - len(DIFFERENT) >= 55


def test_rates_of_drips_have_the_intervals_of_the_raw_infusions(both):
    readings, _ = both.readings(ONLY_OPENICU)
    for name in ("norepinephrine", "phenylephrine", "epinephrine", "dopamine", "dobutamine"):
        ours, raw = (each.events.filter(each.events["variable"] == name) for each in (both.ours, both.raw))
        assert ours.join(raw, on=["stay_id", "time", "end_time"]).height >= 0.97 * raw.height, name
        assert readings[name]["share_same"] >= 0.97, name
