"""The sources on the real open data sets; skipped where CLINJEPA_DATA does not hold them."""

from __future__ import annotations

import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.sources import open_source
from tests.support.data.real_data import real


@pytest.fixture(scope="module")
def demo() -> dict[str, pl.DataFrame]:
    folder = real("mimic-iv-demo-meds", "https://physionet.org/content/mimic-iv-demo-meds/0.0.1/")
    source = open_source(SourceConfig(kind="meds", path=str(folder), num_partitions=4))
    tables = [source.read(partition) for partition in source.partitions()]
    events = pl.concat(pl.from_arrow(t.events).with_columns(pl.col("variable").cast(pl.String)) for t in tables)
    return {"stays": pl.concat(pl.from_arrow(t.stays) for t in tables), "events": events}


@pytest.fixture(scope="module")
def cinc():
    folder = real("cinc2012", "https://physionet.org/content/challenge-2012/1.0.0/")
    source = open_source(SourceConfig(kind="cinc2012", path=str(folder), num_partitions=40))
    return source, source.read(source.partitions()[0])


def test_the_demo_has_its_140_stays_and_20_hospital_deaths(demo):
    assert (demo["stays"].height, demo["stays"]["died_in_hospital"].sum()) == (140, 20)


def test_the_demo_s_patients_keep_the_split_it_ships(demo):
    assert demo["stays"].group_by("source_split").agg(pl.col("subject_id").n_unique()).sort("source_split").rows() == [
        ("held_out", 10),
        ("train", 80),
        ("tuning", 10),
    ]


def test_most_heart_rates_of_the_demo_are_read_and_none_twice(demo):
    rates = demo["events"].filter(pl.col("variable") == "heart_rate")
    assert rates.height > 13_000
    assert rates.select("stay_id", "time").is_unique().mean() > 0.99


def test_every_vasopressin_of_the_demo_is_per_minute(demo):
    assert demo["events"].filter(pl.col("variable") == "vasopressin")["value"].max() < 0.2


@pytest.fixture(scope="module")
def cinc2019():
    folder = real("cinc2019", "https://physionet.org/content/challenge-2019/1.0.0/")
    source = open_source(SourceConfig(kind="cinc2019", path=str(folder), num_partitions=40))
    return source, source.read(source.partitions()[0])


def test_cinc_has_8000_stays(cinc):
    source, _ = cinc
    assert sum(partition["num_records"] for partition in source.partitions()) == 8000


def test_a_part_of_cinc_has_its_vitals_and_deaths(cinc):
    _, tables = cinc
    assert tables.stays.num_rows == 200
    assert 10 < sum(tables.stays["died_in_hospital"].to_pylist()) < 60
    assert tables.events.num_rows > 80_000


def test_cinc_2019_has_20336_stays(cinc2019):
    source, _ = cinc2019
    assert sum(partition["num_records"] for partition in source.partitions()) == 20_336


def test_a_part_of_cinc_2019_has_its_hours_and_septic_patients(cinc2019):
    """Of the first 508 records; counted from the files by hand: rows, rows with the label, patients with it."""
    _, tables = cinc2019
    label = pl.from_arrow(tables.events).filter(pl.col("variable").cast(pl.String) == "sepsis_label")
    assert (label.height, int(label["value"].sum()), sum(tables.stays["sepsis"].to_pylist())) == (19_704, 432, 45)
