"""Deaths of MIMIC-IV: what a date without a time says, what contradicts the record, and that both readers give the same outcome.

Every case is written as tables and as MEDS. ICU stay: 2150-03-01 10:00 to 2150-03-02 16:00; the hospital stay begins five hours earlier.
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

import polars as pl
import pytest

from clinjepa.sources import SourceTables
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic


class Case(NamedTuple):
    """death: as recorded, a date alone or a time. Expected: died in hospital, died in the ICU, death_time, number of impossible deaths."""

    name: str
    discharged: str
    place: str
    death: str | None
    died_in_hospital: bool | None
    died_in_icu: bool | None
    death_time: str | None
    impossible: int = 0
    second_stay: str | None = None


CASES = (
    Case("at home on the day of discharge", "2150-03-02 17:00", "HOSPICE", "2150-03-02", False, False, "2150-03-02 17:00"),
    Case("the date as the end of the day", "2150-03-02 17:00", "HOME", "2150-03-02 23:59:59", False, False, "2150-03-02 17:00"),
    Case("at home days later", "2150-03-05 12:00", "HOME", "2150-03-20", False, False, "2150-03-20 00:00"),
    Case("on the ward, date only", "2150-03-02 17:00", "DIED", "2150-03-02", True, False, "2150-03-02 17:00"),
    Case("in the ICU, date only", "2150-03-02 15:00", "DIED", "2150-03-02", True, True, "2150-03-02 16:00"),
    Case("days after the ICU, both dates only", "2150-03-06", "DIED", "2150-03-06", True, False, "2150-03-06 00:00"),
    Case("the day of ICU discharge, both dates only", "2150-03-02", "DIED", "2150-03-02", True, None, "2150-03-02 16:00"),
    Case("in the ICU with a time", "2150-03-02 15:30", "DIED", "2150-03-02 15:30", True, True, "2150-03-02 15:30"),
    Case("on the ward with a time", "2150-03-04 08:00", "DIED", "2150-03-04 07:40", True, False, "2150-03-04 07:40"),
    Case("a time after a discharge at 00:00", "2150-03-04", "DIED", "2150-03-04 22:20", True, False, "2150-03-04 22:20"),
    Case("in the ICU without a recorded death", "2150-03-02 15:00", "DIED", None, True, True, None),
    Case("somewhere in hospital without a recorded death", "2150-03-04 15:00", "DIED", None, True, None, None),
    Case("alive", "2150-03-04 15:00", "HOME", None, False, False, None),
    Case("a date before a discharge home", "2150-03-05 12:00", "HOME", "2150-03-03", None, None, None, 1),
    Case("a time hours before a discharge home", "2150-03-03 12:00", "HOME", "2150-03-02 02:00", None, None, None, 1),
    Case("a time minutes before a discharge home on the next day", "2150-03-04 00:30", "HOME", "2150-03-03 23:50", None, None, None, 1),
    Case("a time before a discharge home on a date only", "2150-03-04", "HOME", "2150-03-02 02:00", None, None, None, 1),
    Case("a time before the end of a stay, place unknown", "2150-03-03 12:00", "UNK", "2150-03-02 02:00", True, True, "2150-03-02 02:00"),
    Case("a time before a discharge as dead", "2150-03-03 12:00", "DIED", "2150-03-02 02:00", True, True, "2150-03-02 02:00"),
    Case("months before the stay", "2150-03-05 12:00", "HOME", "2149-12-01", None, None, None, 1),
    Case("months before a death in hospital", "2150-03-05 12:00", "DIED", "2149-12-01", True, None, None, 1),
    Case("in hospital before the ICU", "2150-03-05 12:00", "DIED", "2150-03-01 08:00", True, None, None, 1),
    Case("on the day before admission", "2150-03-05 12:00", "HOME", "2150-02-28", None, None, None, 1),
    Case("a year after a discharge as dead", "2150-03-05 12:00", "DIED", "2151-03-05", True, None, None, 1),
    Case("dead, then in the ICU again", "2150-03-02 15:00", "DIED", None, None, None, None, 1, "2150-06-01 10:00"),
)


def from_tables(folder: Any, case: Case) -> SourceTables:
    base = mimic.hospital(hours=30)
    timed = case.death is not None and " " in case.death and not case.death.endswith("23:59:59")
    base["patients"][0]["dod"] = case.death.split()[0] if timed else case.death
    base["admissions"][0] |= {
        "dischtime": _full(case.discharged),
        "discharge_location": case.place,
        "deathtime": _full(case.death) if timed else None,
        "hospital_expire_flag": None if case.place == "UNK" else int(case.place == "DIED"),
    }
    if case.second_stay is not None:
        start = datetime.datetime.fromisoformat(case.second_stay)
        later = {"hadm_id": 102, "stay_id": 12}
        base["icustays"].append(base["icustays"][0] | later | {"intime": start, "outtime": start + datetime.timedelta(days=1)})
        home = {"discharge_location": "HOME", "hospital_expire_flag": 0, "deathtime": None}
        times = {"admittime": start, "dischtime": start + datetime.timedelta(days=2)}
        base["admissions"].append(base["admissions"][0] | {"hadm_id": 102} | home | times)
    return mimic.read_all(mimic.write_mimic(folder, {}, base))


def from_meds(folder: Any, case: Case) -> SourceTables:
    rows = [row for row in meds.stay_rows(hours=30) if not row["code"].startswith("HOSPITAL_DISCHARGE")]
    rows.append(_meds_row(f"HOSPITAL_DISCHARGE//{case.place}", case.discharged, hadm_id=101))
    if case.death is not None:
        rows.append(_meds_row("MEDS_DEATH", case.death))
    if case.second_stay is not None:
        start = datetime.datetime.fromisoformat(case.second_stay)
        for code, days, ids in (
            ("HOSPITAL_ADMISSION//EW EMER.", 0, {}),
            ("ICU_ADMISSION//MICU", 0, {"icustay_id": 12}),
            ("ICU_DISCHARGE//MICU", 1, {"icustay_id": 12}),
            ("HOSPITAL_DISCHARGE//HOME", 2, {}),
        ):
            rows.append(_meds_row(code, str(start + datetime.timedelta(days=days)), hadm_id=102, **ids))
    return meds.read_all(meds.write_meds(folder, rows))


def _full(time: str) -> str:
    return str(datetime.datetime.fromisoformat(time))


def _meds_row(code: str, time: str, **more: int) -> dict[str, Any]:
    return meds.row(code, None, **more) | {"time": datetime.datetime.fromisoformat(time)}


@pytest.mark.parametrize("read", [from_tables, from_meds])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_both_readers_give_the_outcome_that_the_record_supports(tmp_path, read, case):
    tables = read(tmp_path, case)
    stay = next(stay for stay in tables.stays.to_pylist() if stay["stay_id"] == 11)
    death_time = None if case.death_time is None else datetime.datetime.fromisoformat(case.death_time)
    assert (stay["died_in_hospital"], stay["died_in_icu"], stay["death_time"]) == (case.died_in_hospital, case.died_in_icu, death_time)
    assert tables.counts.get("impossible_death", 0) == case.impossible


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_zone_of_the_times_changes_no_outcome(tmp_path, zone, case):
    """The clock counts: midnight in the hospital's zone is a date without a time, whatever it is in UTC."""
    plain = from_meds(tmp_path, case)
    for shard in tmp_path.rglob("*.parquet"):
        pl.read_parquet(shard).with_columns(pl.col("time").dt.replace_time_zone(zone, ambiguous="earliest")).write_parquet(shard)
    zoned = meds.read_all(tmp_path)
    assert zoned.stays.equals(plain.stays) and zoned.events.equals(plain.events) and zoned.counts == plain.counts


@pytest.mark.parametrize("words", [("HOME", "DIED"), ("DIED", "HOME")])
@pytest.mark.parametrize("later", [0, 10])
def test_two_discharges_of_an_admission_that_contradict_each_other_are_unknown(tmp_path, words, later):
    rows = [each for each in meds.stay_rows(hours=30) if not each["code"].startswith("HOSPITAL_DISCHARGE")]
    rows += [meds.row(f"HOSPITAL_DISCHARGE//{word}", 50 + later * i, hadm_id=101) for i, word in enumerate(words)]
    tables = meds.read_all(meds.write_meds(tmp_path, rows))
    assert tables.stays["died_in_hospital"].to_pylist() == [None] and tables.counts["contradicting_discharge"] == 1


def _with_discharges(folder: Any, *discharges: tuple[str, float | None]) -> SourceTables:
    """Tables of the example stay whose discharges are (place, hours or None for no time), in the order of the file."""
    rows = [each for each in meds.stay_rows(hours=30) if not each["code"].startswith("HOSPITAL_DISCHARGE")]
    rows += [meds.row(f"HOSPITAL_DISCHARGE//{place}" if place else "HOSPITAL_DISCHARGE", hours, hadm_id=101) for place, hours in discharges]
    return meds.read_all(meds.write_meds(folder, rows))


@pytest.mark.parametrize("other", ["UNKNOWN", "", "MOON BASE", "N/A"])
@pytest.mark.parametrize("hours", [28.0, 29.0, 35.0, None])
@pytest.mark.parametrize("first", [True, False])
def test_a_death_that_one_discharge_says_stands_beside_places_that_say_nothing(tmp_path, other, hours, first):
    both = [("DECEASED", 29.0), (other, hours)]
    (stay,) = _with_discharges(tmp_path, *(both if first else both[::-1])).stays.to_pylist()
    assert (stay["died_in_hospital"], stay["died_in_icu"]) == (True, True)
    assert stay["hospital_discharge_time"] == meds.ADMITTED + datetime.timedelta(hours=29)


@pytest.mark.parametrize(("other", "died", "counted"), [("MOON BASE", None, {"unknown_discharge": 1}), ("UNK", False, {})])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("hours", [45.0, 60.0])
def test_a_discharge_home_beside_an_unreadable_one_is_unknown_in_any_order(tmp_path, other, died, counted, first, hours):
    both = [("SKILLED NURSING FACILITY", 50.0), (other, hours)]
    tables = _with_discharges(tmp_path, *(both if first else both[::-1]))
    assert tables.stays["died_in_hospital"].to_pylist() == [died]
    assert _of_discharges(tables) == {"admission_with_several_discharges": 1} | counted


@pytest.mark.parametrize("hours", [(44, 70, 61), (70, 61, 44), (61, 44, 70)])
def test_of_several_discharges_the_last_in_time_is_taken_and_counted(tmp_path, hours):
    tables = _with_discharges(tmp_path, *(("HOME", float(each)) for each in hours))
    assert tables.stays["hospital_discharge_time"].to_pylist() == [meds.ADMITTED + datetime.timedelta(hours=70)]
    assert _of_discharges(tables) == {"admission_with_several_discharges": 1}


def test_a_discharge_given_twice_is_one(tmp_path):
    assert _of_discharges(_with_discharges(tmp_path, ("HOME", 50.0), ("HOME", 50.0))) == {}


@pytest.mark.parametrize("hours", [(-9, -30), (-30, -9), (None, -30)])
def test_of_several_beginnings_of_an_admission_the_first_in_time_is_taken(tmp_path, hours):
    rows = [each for each in meds.stay_rows(hours=30) if not each["code"].startswith("HOSPITAL_ADMISSION")]
    rows += [meds.row(f"HOSPITAL_ADMISSION//KIND {each}", each, hadm_id=101) for each in hours]
    tables = meds.read_all(meds.write_meds(tmp_path, rows))
    assert tables.stays["hospital_admission_time"].to_pylist() == [meds.ADMITTED - datetime.timedelta(hours=30)]
    assert tables.counts.get("admission_with_several_beginnings", 0) == (None not in hours)


@pytest.mark.parametrize("read", ["tables", "meds"])
@pytest.mark.parametrize(
    ("discharged", "place", "died", "counted"),
    [
        ("2150-03-01 09:59", "HOME", None, {"discharge_before_icu_stay": 1}),
        ("2150-03-01 08:00", "UNK", None, {"discharge_before_icu_stay": 1}),
        ("2150-03-01 10:00", "HOME", False, {}),
        ("2150-03-01", "HOME", False, {}),  # a date alone is the whole day
        ("2150-03-01 08:00", "DIED", True, {}),  # an organ donor
    ],
)
def test_a_discharge_alive_before_the_icu_stay_is_unknown_and_counted(tmp_path, read, discharged, place, died, counted):
    case = Case("", discharged, place, None, None, None, None)
    tables = from_meds(tmp_path, case) if read == "meds" else from_tables(tmp_path, case)
    stay = tables.stays.to_pylist()[0]
    assert (stay["died_in_hospital"], _of_discharges(tables)) == (died, counted)
    assert (stay["hospital_discharge_time"] is None) == bool(counted)


def test_a_discharge_between_two_icu_stays_of_an_admission_is_unknown_for_both(tmp_path):
    inside = {"icustay_id": 12, "hadm_id": 101}
    later = [meds.row("ICU_ADMISSION//MICU", 60, **inside), meds.row("ICU_DISCHARGE//MICU", 80, **inside)]
    tables = meds.read_all(meds.write_meds(tmp_path, meds.stay_rows(hours=30) + later))
    assert tables.stays["died_in_hospital"].to_pylist() == [None, None] and tables.counts["discharge_before_icu_stay"] == 2


def test_two_sexes_of_a_patient_are_unknown_and_counted(tmp_path):
    tables = meds.read_all(meds.write_meds(tmp_path, [meds.row("GENDER//M"), *meds.stay_rows()]))
    assert tables.stays["sex"].to_pylist() == [None] and tables.counts["patient_with_several_sexes"] == 1


def test_a_time_of_death_in_the_icu_needs_no_discharge(tmp_path):
    rows = [each for each in meds.stay_rows(hours=30) if not each["code"].startswith("HOSPITAL_DISCHARGE")]
    (stay,) = meds.read_all(meds.write_meds(tmp_path, [*rows, meds.row("MEDS_DEATH", 29)])).stays.to_pylist()
    assert stay["died_in_hospital"] is True and stay["died_in_icu"] is True


WORDS = [
    ("EXPIRED", True, {}),
    ("dead/expired ", True, {}),
    ("Deceased", True, {}),
    ("SKILLED NURSING FACILITY", False, {}),
    ("SNF", False, {}),
    ("", False, {}),
    ("unknown", False, {}),
    ("MOON BASE", None, {"unknown_discharge": 1}),
    ("DIED OF JOY", None, {"unknown_discharge": 1}),
]


@pytest.mark.parametrize("read", ["tables", "meds"])
@pytest.mark.parametrize(("place", "died", "counted"), WORDS)
def test_the_place_of_a_discharge_is_a_known_word_or_unknown(tmp_path, read, place, died, counted):
    if read == "meds":
        tables = from_meds(tmp_path, Case("", "2150-03-04 15:00", place, None, None, None, None))
    else:
        tables = _with_discharge(tmp_path, discharge_location=place, hospital_expire_flag=None)
    assert (tables.stays["died_in_hospital"].to_pylist(), _of_discharges(tables)) == ([died], counted)


@pytest.mark.parametrize(
    ("change", "died", "counted"),
    [
        ({"discharge_location": "HOME", "hospital_expire_flag": 1}, None, {"contradicting_discharge": 1}),
        ({"discharge_location": "DIED", "hospital_expire_flag": 0}, None, {"contradicting_discharge": 1}),
        ({"discharge_location": "DIED", "hospital_expire_flag": 0, "deathtime": mimic.at(40)}, True, {}),
        ({"discharge_location": "HOME", "hospital_expire_flag": 2}, None, {"unknown_outcome_code": 1}),
        ({"discharge_location": "DIED", "hospital_expire_flag": -1}, None, {"unknown_outcome_code": 1}),
        ({"discharge_location": "MOON BASE", "hospital_expire_flag": 0}, False, {}),
        ({"discharge_location": None, "hospital_expire_flag": 1}, True, {}),
        ({"discharge_location": "DIED", "hospital_expire_flag": None}, True, {}),
        ({"discharge_location": "HOME", "hospital_expire_flag": 0, "dischtime": mimic.at(-700)}, None, {"discharge_before_admission": 1}),
        ({"discharge_location": "DIED", "hospital_expire_flag": 1, "dischtime": mimic.at(-700)}, None, {"discharge_before_admission": 1}),
    ],
)
def test_a_discharge_that_contradicts_itself_is_unknown_and_counted(tmp_path, change, died, counted):
    tables = _with_discharge(tmp_path, **change)
    stay = tables.stays.to_pylist()[0]
    assert (stay["died_in_hospital"], _of_discharges(tables)) == (died, counted)
    assert stay["died_in_icu"] is None or died is not None
    assert (stay["hospital_discharge_time"] is None) == ("discharge_before_admission" in counted)


def test_a_discharge_before_admission_is_unknown_in_meds_too(tmp_path):
    tables = from_meds(tmp_path, Case("", "2150-01-04 15:00", "HOME", None, None, None, None))
    assert tables.stays["died_in_hospital"].to_pylist() == [None]
    assert _of_discharges(tables) == {"discharge_before_admission": 1}


@pytest.mark.parametrize(("code", "sex", "counted"), [("M", "male", 0), ("X", None, 1), ("unk", None, 0), (None, None, 0)])
def test_a_sex_other_than_the_known_codes_is_unknown_and_counted_by_both_readers(tmp_path, code, sex, counted):
    base = mimic.hospital(hours=30)
    base["patients"][0]["gender"] = code
    rows = [each | {"code": f"GENDER//{code or ''}"} if each["code"].startswith("GENDER") else each for each in meds.stay_rows()]
    for tables in (
        mimic.read_all(mimic.write_mimic(tmp_path / "tables", {}, base)),
        meds.read_all(meds.write_meds(tmp_path / "meds", rows)),
    ):
        assert (tables.stays["sex"].to_pylist(), tables.counts.get("unknown_sex", 0)) == ([sex], counted)


def _with_discharge(folder: Any, **change: Any) -> SourceTables:
    base = mimic.hospital(hours=30)
    base["admissions"][0] |= {"deathtime": None} | change
    return mimic.read_all(mimic.write_mimic(folder, {}, base))


def _of_discharges(tables: SourceTables) -> dict[str, int]:
    words = ("_discharge", "discharge_", "outcome", "death")
    return {rule: number for rule, number in tables.counts.items() if any(word in rule for word in words)}
