"""Rows of a mapped data set: rates that hold inside one ICU stay, ids that are texts, blank texts, ends of open stays, partitions."""

from __future__ import annotations

import decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clinjepa.errors import SourceError
from tests.sources.test_source_openicu import of, ward_map
from tests.support.data import clif_examples as clif
from tests.support.data import meds_examples as meds
from tests.support.data import openicu_examples as icu
from tests.support.data.openicu_examples import at, row

DRIP = {"PULSE": "heart_rate", "NORA": {"variables": "norepinephrine", "unit": "mcg/kg/min", "read": "held", "hours": 72}}


def ward(*bounds: tuple[int, int], subject: int = 1) -> icu.Rows:
    """ICU stays of a subject from hour to hour, with a heart rate in each."""
    codes = (("WARD//IN", 0), ("WARD//OUT", 1))
    rows = [row(subject, pair[place], code) for pair in bounds for code, place in codes]
    return rows + [row(subject, begin + 0.5, "PULSE", 80.0) for begin, _ in bounds]


def drips(folder: Path, rows: icu.Rows, stay: int = 101, **settings: Any) -> tuple[list[tuple[Any, ...]], dict[str, int]]:
    """Intervals of the rate in a stay, and the counts."""
    folder.mkdir(exist_ok=True)
    icu.write_shards(folder / "meds", rows, 1)
    own = ward_map(folder / "ward.yaml", codes=DRIP)
    _, events, counts = icu.read_one(folder / "meds", map=own, **settings)
    found = of(events, "norepinephrine", stay).select("time", "end_time", "value").rows()
    return [(begin, end, round(value, 3)) for begin, end, value in found], counts


FIRST = [*ward((10, 30)), row(1, 12, "NORA", 0.2), row(1, 15, "NORA", 0.1)]


@pytest.mark.parametrize(
    "later",
    [
        [*ward((36, 60)), row(1, 45, "NORA", 0.3), row(1, 47, "NORA", 0.0)],  # a second stay 6 hours later
        [*ward((30, 60)), row(1, 45, "NORA", 0.3)],  # one that begins where the first ends
        [*ward((9000, 9010)), row(1, 9002, "NORA", 0.3)],  # one a year later
        [row(1, 31, "NORA", 0.4), row(1, 33, "NORA", 0.0)],  # the ward after the ICU
    ],
)
def test_nothing_after_a_stay_changes_what_its_rates_were(tmp_path, later):
    alone, _ = drips(tmp_path / "alone", FIRST)
    assert alone == [(at(12), at(15), 0.2), (at(15), None, 0.1)]
    assert drips(tmp_path / "followed", [*FIRST, *later])[0] == alone


@pytest.mark.parametrize("max_stays", [None, 1])
def test_the_last_rate_of_a_stay_does_not_run_in_the_next_one_and_one_from_the_ward_does(tmp_path, max_stays):
    """Hours 30 to 36 are between the stays. With max_stays=1 only the stay of the lower id is read, here the later one."""
    rows = [*FIRST, *ward((36, 60)), row(1, 45, "NORA", 0.3), row(1, 46, "NORA", 0.0), *ward((10, 20), subject=2)]
    assert drips(tmp_path / "gap", rows, stay=102)[0] == [(at(45), at(46), 0.3)]
    started = [*rows, row(1, 33, "NORA", 0.15)]
    assert drips(tmp_path / "ward", started, stay=102)[0] == [(at(33), at(45), 0.15), (at(45), at(46), 0.3)]
    named = [each | {"stay_id": {10: 7, 30: 7, 36: 3, 60: 3}.get(hour)} for each in rows[:-3] for hour in [_hour(each)]]
    own = ward_map(tmp_path / "ids.yaml", codes=DRIP, columns={"stay": ["stay_id"]})
    icu.write_shards(tmp_path / "named", named, 1)
    _, events, _ = icu.read_one(tmp_path / "named", map=own, max_stays=max_stays)
    assert of(events, "norepinephrine", 3)["time"].to_list() == [at(45)]


def _hour(each: dict[str, Any]) -> int | None:
    return int((each["time"] - at(0)).total_seconds() // 3600) if each["code"].startswith("WARD") else None


@pytest.mark.parametrize("max_stays", [None, 1])
def test_an_open_stay_ends_before_the_next_one_also_when_that_is_not_read(tmp_path, max_stays):
    stays = {"begin": ["WARD//IN"], "end": ["WARD//OUT"], "open": "last_row"}
    rows = [row(1, begin, "WARD//IN") for begin in (10, 300)] + [row(1, hour, "PULSE", 80.0) for hour in (11, 25, 301, 310)]
    icu.write_shards(tmp_path / "meds", rows, 1)
    read, events, _ = icu.read_one(tmp_path / "meds", map=ward_map(tmp_path / "ward.yaml", stays=stays), max_stays=max_stays)
    assert read.filter(pl.col("stay_id") == 101)["outtime"].to_list() == [at(25)]
    assert of(events, "heart_rate", 101)["time"].to_list() == [at(11), at(25)]


HOSPITAL = {
    "columns": {"stay": ["visit"], "hospitalization": ["case"]},
    "hospitalizations": {"begin": ["HOSPITAL//IN"], "end": ["HOSPITAL//OUT"], "places": {"morgue": "died", "flat": "alive"}},
}


def hospital(subject: int, visit: object, case: object, place: str = "flat") -> icu.Rows:
    """One ICU stay of hours 10 to 40 in a hospitalisation of hours 5 to 60."""
    ids = {"visit": visit, "case": case}
    return [
        row(subject, 5, "HOSPITAL//IN", **ids),
        row(subject, 10, "WARD//IN", **ids),
        row(subject, 40, "WARD//OUT", **ids),
        row(subject, 60, "HOSPITAL//OUT", None, place, **ids),
        row(subject, 11, "PULSE", 80.0),
    ]


def read_ids(folder: Path, rows: icu.Rows, dtype: Any = pl.String, **settings: Any) -> tuple[pl.DataFrame, dict[str, int]]:
    (folder / "meds/data").mkdir(parents=True)
    frame = pl.DataFrame(rows, schema=icu.SCHEMA | {"visit": dtype, "case": dtype}).sort("subject_id", "time")
    frame.write_parquet(folder / "meds/data/0.parquet")
    stays, _, counts = icu.read_one(folder / "meds", map=ward_map(folder / "ward.yaml", **HOSPITAL), **settings)
    return stays, counts


FACTS = ["subject_id", "intime", "outtime", "died_in_hospital", "hospital_discharge_time"]


@pytest.mark.parametrize("number", ["{}", "{}.0", " {} ", "V-{}", "{:06d}", "{}a"])
def test_stays_and_hospitalisations_are_known_by_ids_of_any_text(tmp_path, number):
    def named(shape: str) -> icu.Rows:
        return [each for n in (1, 2, 3) for each in hospital(n, shape.format(20 + n), shape.format(70 + n), "morgue" if n == 2 else "flat")]

    stays, counts = read_ids(tmp_path / "texts", named(number))
    plain, _ = read_ids(tmp_path / "plain", named("{}"))
    assert plain["stay_id"].to_list() == [21, 22, 23] and plain["hadm_id"].to_list() == [71, 72, 73]
    assert stays.sort("subject_id").select(FACTS).equals(plain.select(FACTS)) and not counts
    assert stays["died_in_hospital"].sum() == 1 and stays["hadm_id"].n_unique() == 3 and stays["stay_id"].min() > 0
    if number in ("{}.0", " {} "):
        assert stays.equals(plain)


def test_ids_of_numbers_beside_texts_are_all_hashed_and_a_blank_is_none(tmp_path):
    rows = [*hospital(1, "21", "71"), *hospital(2, "V22", "72"), *hospital(3, " ", "73")]
    stays, counts = read_ids(tmp_path / "mixed", rows)
    assert stays.height == 2 and counts["stay_without_id"] == 1
    assert stays["stay_id"].min() > 10**9 and stays.sort("subject_id")["hadm_id"].to_list() == [71, 72]


@pytest.mark.parametrize("parts", [1, 2, 16])
def test_facts_of_a_hospitalisation_do_not_depend_on_the_partitions(tmp_path, parts):
    """Only patient 1 has no id of a hospitalisation, and patient 9 has none at all."""
    rows = [*hospital(1, 21, None, "morgue"), *[each for n in range(2, 9) for each in hospital(n, 20 + n, 70 + n)]]
    rows += [each for each in hospital(9, 29, None) if not each["code"].startswith("HOSPITAL")]
    stays, counts = read_ids(tmp_path / "parts", rows, pl.Int64, num_partitions=parts)
    first = stays.filter(pl.col("subject_id") == 1).select("died_in_hospital", "hospital_discharge_time", "hadm_id")
    assert first.rows() == [(True, at(60), 101)]
    assert stays["died_in_hospital"].null_count() == 1 and counts["stay_without_admission"] == 1


@pytest.mark.parametrize("blank", [None, "", "  "])
def test_a_blank_text_says_nothing_and_the_code_says_it(tmp_path, blank):
    own = ward_map(
        tmp_path / "ward.yaml",
        codes={"PULSE": "heart_rate", "GIVEN": "medication"},
        people={"sex": ["SEX"], "sexes": {"w": "female"}, "race": ["RACE"], "races": {"blue": "other"}},
        hospitalizations={"begin": ["HOSPITAL//IN"], "end": ["HOSPITAL//OUT"], "admission_type": ["KIND"], "places": {"morgue": "died"}},
        columns={"care_unit": ["careunit"]},
    )
    rows = [row(1, 5, "HOSPITAL//IN"), row(1, 10, "WARD//IN//bed 7"), row(1, 11, "PULSE", 80.0), row(1, 12, "GIVEN//Ceftriaxone", 2.0)]
    rows += [row(1, 40, "WARD//OUT"), row(1, 60, "HOSPITAL//OUT//Morgue"), row(1, 5, "SEX//W"), row(1, 5, "RACE//Blue")]
    rows += [row(1, 5, "KIND//planned")]
    icu.write_shards(tmp_path / "meds", [each | {"text_value": blank, "careunit": blank} for each in rows], 1)
    stays, events, _ = icu.read_one(tmp_path / "meds", map=own)
    assert of(events, "medication", 101).select("text", "value").rows() == [("Ceftriaxone", 2.0)]
    assert stays.select("sex", "race", "admission_type", "care_unit", "died_in_hospital").rows() == [
        ("female", "other", "planned", "bed 7", True)
    ]


def with_decimal(path: Path, digits: int, column: str = "numeric_value") -> None:
    """Write the numbers of a file as decimals."""
    table = pq.read_table(path)
    kind = pa.decimal128(digits, 3) if digits <= 38 else pa.decimal256(digits, 3)
    place = table.schema.get_field_index(column)
    numbers = [None if each is None else decimal.Decimal(f"{each:.3f}") for each in table[column].to_pylist()]
    pq.write_table(table.set_column(place, column, pa.array(numbers, kind)), path)


@pytest.mark.parametrize("digits", [12, 38, 50])
def test_decimals_of_any_length_are_numbers(tmp_path, digits):
    folder = icu.write_shards(tmp_path / "meds", FIRST, 1)
    with_decimal(folder / "data/train/0.parquet", digits)
    _, events, _ = icu.read_one(folder, map=ward_map(tmp_path / "ward.yaml", codes=DRIP))
    assert of(events, "norepinephrine", 101)["value"].to_list() == [0.2, 0.1]


def test_clif_reads_long_decimals_and_meds_of_mimic_refuses_them_with_the_column(tmp_path):
    tables = clif.write(tmp_path / "clif")
    before = clif.read_one(tables)[1]
    with_decimal(tables / "clif_vitals.parquet", 50, "vital_value")
    assert clif.read_one(tables)[1].equals(before)
    folder = meds.write_meds(tmp_path / "meds", [*meds.stay_rows(), meds.chart(220045, 2, 80.0)])
    with_decimal(folder / "data/train/0.parquet", 50)
    with pytest.raises(SourceError, match="column 'numeric_value' is .* at most 38 digits can be read; write it as float64"):
        meds.read_all(folder)
