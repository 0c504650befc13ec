"""What a map's codes of deaths and ages say, wherever in the hospitalisation their rows lie."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.sources.test_source_openicu import ward_map
from tests.support.data import openicu_examples as icu
from tests.support.data.openicu_examples import row

PEOPLE = {
    "columns": {"hospitalization": ["hadm_id"]},
    "hospitalizations": {"begin": ["HOSPITAL//IN"], "end": ["HOSPITAL//OUT"], "died": ["DEAD"]},
    "people": {"age": ["AGE"], "birth": ["BORN"]},
}
EARLY, LATE = 71, 72
"""Hospitalisations of hours 5 to 50 and 50 to 90, with ICU stays of hours 10 to 40 and 60 to 80."""


def read(folder: Path, *rows: dict[str, object], named: bool = True) -> pl.DataFrame:
    """The two stays of one patient. named: whether hospitalisations have ids."""
    base = []
    for begin, end, first, last, number in ((5, 50, 10, 40, EARLY), (50, 90, 60, 80, LATE)):
        ids = {"hadm_id": number} if named else {}
        base += [row(1, begin, "HOSPITAL//IN", **ids), row(1, first, "WARD//IN", **ids)]
        base += [row(1, last, "WARD//OUT", **ids), row(1, end, "HOSPITAL//OUT", **ids), row(1, first + 1, "PULSE", 80.0)]
    icu.write_shards(folder / "meds", [*base, *rows], 1)
    return icu.read_one(folder / "meds", map=ward_map(folder / "ward.yaml", **PEOPLE), num_partitions=1)[0]


def dead(hour: float | None, value: float, number: int | None = None) -> dict[str, object]:
    return row(1, hour, "DEAD", value, **({} if number is None else {"hadm_id": number}))


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([dead(90, 1, LATE)], [False, True]),
        ([dead(None, 1, LATE)], [False, True]),
        ([dead(51, 1, LATE)], [False, True]),
        ([dead(90.5, 1, LATE)], [False, True]),
        ([dead(12, 1, LATE)], [False, True]),  # the id decides, not the time
        ([dead(70, 1)], [False, True]),
        ([dead(91, 1)], [False, False]),  # after all hospitalisations, of none of them
        ([dead(None, 1)], [False, False]),
        ([dead(70, 1, 99)], [False, False]),  # of a hospitalisation that is not known
        ([dead(51, 0, LATE), dead(90, 1, LATE)], [False, True]),
        ([dead(70, 1, LATE), dead(90, 0, LATE)], [False, True]),
        ([dead(70, 1, LATE), dead(80, 4, LATE)], [False, None]),
        ([dead(None, 0, EARLY), dead(None, 0, LATE)], [False, False]),
    ],
)
def test_a_death_in_hospital_is_known_from_a_row_anywhere_in_it(tmp_path, rows, expected):
    assert read(tmp_path, *rows)["died_in_hospital"].to_list() == expected


@pytest.mark.parametrize(("hour", "expected"), [(90, [False, True]), (70, [False, True]), (95, [False, False]), (None, [False, False])])
def test_without_ids_a_row_is_of_the_hospitalisation_in_which_it_lies(tmp_path, hour, expected):
    assert read(tmp_path, dead(hour, 1), named=False)["died_in_hospital"].to_list() == expected


def test_a_row_where_one_hospitalisation_ends_and_the_next_begins_is_of_the_first(tmp_path):
    """A death before a later stay contradicts the record: nothing says that the patient died in the second hospitalisation."""
    assert read(tmp_path, dead(50, 1), named=False)["died_in_hospital"].to_list()[1] is False


DAYS = 24


@pytest.mark.parametrize(
    ("hour", "expected"),
    [
        (10, [57, 57]),
        (2, [57, 57]),
        (30, [57, 57]),  # the next calendar day
        (20 * DAYS, [57, 57]),
        (-400 * DAYS, [58, 58]),  # more than a year before
        (-300 * DAYS, [57, 57]),
        (400 * DAYS, [56, 56]),  # more than a year after
    ],
)
def test_a_charted_age_counts_the_completed_years_between(tmp_path, hour, expected):
    assert read(tmp_path, row(1, hour, "AGE", 57.0))["age_years"].to_list() == expected
