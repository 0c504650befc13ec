"""A stay that cannot be used is no row of the stays, but the patient came to the ICU: the facts of his other stays know it."""

from __future__ import annotations

import datetime

import polars as pl
import pytest

from tests.sources.test_source_openicu import ward_map
from tests.support.data import clif_examples as clif
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data import openicu_examples as icu
from tests.support.data.openicu_examples import row

ENDS = [None, 35, 39 + 24 * 400]
"""Ends of a stay that begins at hour 39: unknown, before its beginning, more than a year later."""


def places(stays: pl.DataFrame, begin: datetime.datetime) -> list[tuple[int, int, float | None]]:
    """stay_id, place in the hospitalisation, and hours from `begin` to the next ICU admission."""
    ahead = (pl.col("next_icu_admission_time") - begin).dt.total_minutes() / 60
    return stays.sort("stay_id").select("stay_id", "stay_number_in_admission", ahead).rows()


@pytest.mark.parametrize("end", ENDS)
def test_mimic_iv(tmp_path, end):
    base = mimic.hospital(60)
    first = base["icustays"][0] | {"outtime": mimic.at(30)}
    unusable = {"stay_id": 12, "intime": mimic.at(39), "outtime": None if end is None else mimic.at(end)}
    copy = {"stay_id": 14, "intime": mimic.at(0), "outtime": None}  # begins with the first stay: no second admission
    base["icustays"] = [first, first | unusable, first | {"stay_id": 13, "intime": mimic.at(50), "outtime": mimic.at(60)}, first | copy]
    stays = pl.DataFrame(mimic.read_all(mimic.write_mimic(tmp_path, {}, base)).stays)
    assert places(stays, mimic.ADMITTED) == [(11, 1, 39.0), (13, 3, None)]


@pytest.mark.parametrize("end", ENDS)
def test_meds(tmp_path, end):
    inside = {"hadm_id": 101, "icustay_id": 12}
    rows = [*meds.stay_rows(30), meds.row("ICU_ADMISSION//TSICU", 39, **inside)]
    rows += [] if end is None else [meds.row("ICU_DISCHARGE//TSICU", end, **inside)]
    rows.append(meds.row("ICU_ADMISSION//TSICU", 45, **(inside | {"icustay_id": None})))
    rows += [meds.row(f"ICU_{kind}//TSICU", at, **(inside | {"icustay_id": 13})) for kind, at in (("ADMISSION", 47), ("DISCHARGE", 49))]
    assert places(pl.DataFrame(meds.read_all(meds.write_meds(tmp_path, rows)).stays), meds.ADMITTED) == [(11, 1, 39.0), (13, 4, None)]


@pytest.mark.parametrize("end", ENDS)
def test_clif(tmp_path, end):
    """Hospitalisation 7 of the examples, with an unusable location between its two stays and one inside the first of them."""
    content = clif.tables()
    between = clif.place("7", 65, 0, "icu") | {"out_dttm": None if end is None else clif.at(64 if end == 35 else end)}
    content["adt"] = [each for each in content["adt"] if each["location_category"] != "procedural"]
    content["adt"] += [clif.place("7", 30, 29, "icu"), *([between] if end is not None else [])]
    if end is None:  # an open location ends where the next one begins, so only the last one has no end
        content["adt"].append(clif.place("7", 85, 86, "icu") | {"out_dttm": None})
    stays, _, _ = clif.read_one(clif.write(tmp_path / "data", content))
    begin = clif.at(0).replace(tzinfo=None)
    expected = [(701, 1, 70.0), (702, 2, 85.0)] if end is None else [(701, 1, 65.0), (702, 3, None)]
    assert places(stays.filter(pl.col("hadm_id") == 7), begin) == expected


@pytest.mark.parametrize(("named", "limit"), [(True, None), (False, None), (False, 1)])
def test_a_map(tmp_path, named, limit):
    """With ids of hospitalisations and without; with `max_stays` also what is not read is known."""
    ids = {"hadm_id": 71} if named else {}
    rows = [row(1, 5, "HOSPITAL//IN", **ids), row(1, 90, "HOSPITAL//OUT", **ids)]
    rows += [row(1, hour, "WARD//IN", **ids) for hour in (10, 39, 50)] + [row(1, hour, "WARD//OUT", **ids) for hour in (30, 60)]
    more = {"columns": {"hospitalization": ["hadm_id"]}, "hospitalizations": {"begin": ["HOSPITAL//IN"], "end": ["HOSPITAL//OUT"]}}
    own = ward_map(tmp_path / "ward.yaml", **more)
    rows += [row(1, hour, "PULSE", 80.0) for hour in (11, 51)]
    stays, _, _ = icu.read_one(icu.write_shards(tmp_path / "meds", rows, 1), map=own, num_partitions=1, max_stays=limit)
    assert places(stays, icu.at(0)) == [(101, 1, 39.0), (103, 3, None)][: limit or 2]


def test_a_discharge_before_an_admission_to_the_icu_without_an_end_is_unknown(tmp_path):
    base = mimic.hospital(30)
    base["icustays"].append(base["icustays"][0] | {"stay_id": 12, "intime": mimic.at(55), "outtime": None})
    tables = mimic.read_all(mimic.write_mimic(tmp_path, {}, base))
    assert tables.stays["died_in_hospital"].to_pylist() == [None] and tables.counts["discharge_before_icu_stay"] == 1
