"""What two orders give at the same time is given twice; the same row twice is one event. On every source that has ids of orders."""

from __future__ import annotations

import datetime
from collections import Counter
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinjepa.sources.readings.cleaning import finish, raw_events
from clinjepa.sources.schema import STAYS_SCHEMA, STAYS_TYPES
from tests.support.data import clif_examples as clif
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic
from tests.support.data import openicu_examples as icu

ALBUMIN = 220862
"""An item of MIMIC-IV whose amount is summed."""


@pytest.mark.parametrize(("orders", "expected"), [((7, 8), [250, 250]), ((7, 7), [250]), ((None, None), [250]), ((7, None), [250])])
def test_mimic_iv(tmp_path, orders, expected):
    rows = [mimic.infusion(ALBUMIN, 2, 3, 250.0, "mL/hour", 250.0, orderid=order) for order in orders]
    tables = mimic.read_all(mimic.write_mimic(tmp_path, {"inputevents": rows}))
    assert [event["value"] for event in mimic.events_of(tables, "albumin_infusion")] == expected
    assert tables.counts.get("duplicate_row", 0) == 2 - len(expected)


@pytest.mark.parametrize(("orders", "expected"), [((7, 8), [250, 250]), ((7, 7), [250]), ((None, None), [250])])
def test_meds(tmp_path, orders, expected):
    rows = [row for order in orders for row in meds.infusion(ALBUMIN, 2, 3, 250.0, "mL/hour", 250.0, order)]
    tables = meds.read_all(meds.write_meds(tmp_path, meds.stay_rows() + rows))
    assert [event["value"] for event in meds.events_of(tables, "albumin_infusion")] == expected


@pytest.mark.parametrize(("orders", "expected"), [(("o1", "o2"), [0.2, 0.2]), (("o1", "o1"), [0.2])])
def test_clif_drips(tmp_path, orders, expected):
    rows = [
        clif.drip("7", hour, "milrinone", value, "mcg/kg/min", action, order)
        for order in orders
        for hour, value, action in ((14, 0.2, "start"), (16, 0.0, "stop"))
    ]
    _, events, _ = clif.read_one(clif.write(tmp_path / "data", clif.tables() | {"medication_admin_continuous": rows}))
    assert events.filter(pl.col("variable") == "milrinone")["value"].to_list() == expected


@pytest.mark.parametrize(("orders", "expected"), [(("A", "B"), 2), (("A", "A"), 1), ((None, None), 1)])
def test_clif_doses(tmp_path, orders, expected):
    rows = [clif.dose("7", 15, "pantoprazole", 40.0, "mg", "iv") | {"med_order_id": order} for order in orders]
    rows.append(clif.dose("7", 16, "magnesium", 2.0, "grams", "iv") | {"med_order_id": "C"})
    _, events, counts = clif.read_one(clif.write(tmp_path / "data", clif.tables() | {"medication_admin_intermittent": rows}))
    assert events.filter(pl.col("text") == "Pantoprazole").height == expected
    assert counts.get("duplicate_row", 0) == 2 - expected


@pytest.mark.parametrize("named", [True, False])
def test_a_map_that_names_a_column_of_orders(tmp_path: Path, monkeypatch, named):
    """Two equal bags and two drips of one drug that end at different times; without the column nothing tells them apart."""
    content = {
        "stays": {"begin": ["WARD//IN"], "end": ["WARD//OUT"]},
        "columns": {"order": ["order_number"]} if named else {},
        "codes": {"BAG": {"variables": "crystalloid"}, "DRIP": {"variables": "norepinephrine", "read": "held"}},
    }
    (tmp_path / "ward.yaml").write_text(yaml.safe_dump(content))
    rows = [icu.row(1, 10, "WARD//IN"), icu.row(1, 40, "WARD//OUT")]
    rows += [icu.row(1, 11, "BAG", 500.0, order_number=order) for order in (31, 32)]
    for order, end in ((33, 14), (34, 16)):
        rows += [icu.row(1, 12, "DRIP", 0.1, order_number=order), icu.row(1, end, "DRIP", 0.0, order_number=order)]
    monkeypatch.setitem(icu.MORE, "order_number", pl.Int64)
    _, events, _ = icu.read_one(icu.write_shards(tmp_path / "data", rows, 1), map=str(tmp_path / "ward.yaml"))
    assert events.filter(pl.col("variable") == "crystalloid").height == (2 if named else 1)
    ends = events.filter(pl.col("variable") == "norepinephrine")["end_time"].sort().to_list()
    assert ends == ([icu.at(14), icu.at(16)] if named else [icu.at(14)])


def test_an_event_without_an_order_is_that_of_any_order_and_the_earliest_storing_counts():
    told = [(0, None, 5), (1, 2, 4), (2, 3, 3), (3, 3, 2), (4, None, 1)]  # row, order, hour of storing
    hour = datetime.datetime(2150, 3, 1, 1)
    rows = [
        {
            "stay_id": 5,
            "variable": "crystalloid",
            "value": 100.0,
            "time": hour,
            "row": row,
            "order": order,
            "store_time": hour.replace(hour=at),
        }
        for row, order, at in told
    ]
    stays = pl.DataFrame({"stay_id": [5], "intime": [hour], "outtime": [hour.replace(hour=9)]})
    counts: Counter[str] = Counter()
    kept = pl.DataFrame(finish(whole(stays), raw_events(pl.DataFrame(rows)), counts).events)
    assert kept.select("row", pl.col("store_time").dt.hour()).rows() == [(0, 1), (2, 2)] and counts["duplicate_row"] == 3


def whole(stays: pl.DataFrame) -> pl.DataFrame:
    """Stays with the other columns of the schema: 1 where one must be known, else null."""
    lacking = [field for field in STAYS_SCHEMA if field.name not in stays.columns]
    return stays.with_columns(pl.lit(None if field.nullable else 1).cast(STAYS_TYPES[field.name]).alias(field.name) for field in lacking)
