"""Deaths of MIMIC-IV: what a date without a time says, what contradicts the record, and that both readers give the same outcome.

Every case is written as tables and as MEDS. ICU stay: 2150-03-01 10:00 to 2150-03-02 16:00; the hospital stay begins five hours earlier.
"""

from __future__ import annotations

import datetime
from typing import Any, NamedTuple

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
