"""The simulator's MIMIC-IV tables: whole files, the same rows however they are made, real frequencies, and the simulator's own truth."""

from __future__ import annotations

import gzip
import io
import zlib
from pathlib import Path

import polars as pl
import pytest

from clinjepa.clinical import load_variables
from clinjepa.config.schema import SimulatorConfig, SourceConfig
from clinjepa.sources import open_source
from clinjepa.sources.simulated import mimic_writer as simulated_mimic
from clinjepa.sources.simulated.mimic_filler import table_definitions
from clinjepa.sources.simulated.mimic_writer import MIMIC_DENSITY, RECORD, write_simulated_mimic
from clinjepa.storage import Folder

SETTINGS = SimulatorConfig(num_patients=6, seed=4, mean_stay_hours=20, measurement_density=MIMIC_DENSITY)
TABLES = list(table_definitions()["tables"])


def write(folder: Path, settings: SimulatorConfig = SETTINGS, **how) -> Path:
    write_simulated_mimic(Folder(folder), settings, **how)
    return folder


def content(folder: Path, table: str) -> str:
    return gzip.decompress((folder / f"{table}.csv.gz").read_bytes()).decode()


def rows(folder: Path, table: str) -> pl.DataFrame:
    return pl.read_csv(io.BytesIO(content(folder, table).encode()), infer_schema_length=None, try_parse_dates=True)


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def truth() -> dict[str, pl.DataFrame]:
    """The same stays and events, from the simulator itself."""
    source = open_source(SourceConfig(kind="simulator", num_partitions=1, simulator=SETTINGS))
    found = source.read(source.partitions()[0])
    events = pl.from_arrow(found.events).with_columns(pl.col("variable").cast(pl.String))
    return {"stays": pl.from_arrow(found.stays), "events": events}


@pytest.mark.parametrize("table", TABLES)
def test_a_table_is_one_whole_gzip_stream_with_its_header_once(tables, table):
    stream = zlib.decompressobj(wbits=31)
    text = (stream.decompress((tables / f"{table}.csv.gz").read_bytes()) + stream.flush()).decode()
    header = ",".join(table_definitions()["tables"][table])
    assert (stream.eof, stream.unused_data, text.split("\n")[0], text.count(header)) == (True, b"", header, 1)


def test_the_same_rows_come_from_blocks_of_any_size(tables, tmp_path):
    small = write(tmp_path, patients_per_block=2)
    assert [name for name in TABLES if content(small, name) != content(tables, name)] == []


def test_the_same_bytes_come_from_two_processes(tmp_path):
    one, two = write(tmp_path / "1", patients_per_block=3), write(tmp_path / "2", patients_per_block=3, workers=2)
    assert [name for name in TABLES if (one / f"{name}.csv.gz").read_bytes() != (two / f"{name}.csv.gz").read_bytes()] == []


def test_a_patient_is_the_same_among_fewer_patients(tables, tmp_path):
    fewer = write(tmp_path, SETTINGS.model_copy(update={"num_patients": 4}))
    last = 10_000_003
    assert [
        name
        for name in TABLES
        if "subject_id" in table_definitions()["tables"][name]
        and not rows(tables, name).filter(pl.col("subject_id") <= last).cast(pl.String).equals(rows(fewer, name).cast(pl.String))
    ] == []


def test_another_seed_gives_other_rows(tables, tmp_path):
    other = write(tmp_path, SETTINGS.model_copy(update={"seed": 5}))
    assert content(other, "icu/chartevents") != content(tables, "icu/chartevents")


def test_chart_rows_come_at_the_rate_of_the_demo_and_most_are_outside_the_dictionary(tables):
    """MIMIC-IV demo v2.2: 1,298 rows of chartevents per stay-day, 81 % of them items outside the dictionary."""
    charted, days = rows(tables, "icu/chartevents"), rows(tables, "icu/icustays")["los"].sum()
    known = [item for v in load_variables().values() for source in v.sources if source.table == "chartevents" for item in source.itemids]
    outside = 1 - charted["itemid"].is_in(known).mean()
    assert 1100 < charted.height / days < 1500
    assert 0.72 < outside < 0.86


@pytest.mark.parametrize(
    ("table", "dictionary"),
    [
        ("icu/chartevents", "icu/d_items"),
        ("icu/inputevents", "icu/d_items"),
        ("icu/procedureevents", "icu/d_items"),
        ("icu/outputevents", "icu/d_items"),
        ("hosp/labevents", "hosp/d_labitems"),
    ],
)
def test_every_item_stands_in_its_dictionary(tables, table, dictionary):
    assert set(rows(tables, table)["itemid"]) <= set(rows(tables, dictionary)["itemid"])


def test_every_item_of_the_variables_stands_in_a_dictionary(tables):
    known = set(rows(tables, "icu/d_items")["itemid"]) | set(rows(tables, "hosp/d_labitems")["itemid"])
    assert {item for v in load_variables().values() for source in v.sources for item in source.itemids} <= known


def test_a_row_is_known_by_its_id(tables):
    ids = rows(tables, "hosp/labevents")["labevent_id"]
    assert ids.n_unique() == len(ids)


@pytest.mark.parametrize(
    ("variable", "table", "item", "column"),
    [
        ("heart_rate", "icu/chartevents", 220045, "valuenum"),
        ("temperature", "icu/chartevents", 223761, "valuenum"),
        ("creatinine", "hosp/labevents", 50912, "valuenum"),
        ("urine_output", "icu/outputevents", 226559, "value"),
    ],
)
def test_charted_values_are_the_simulator_s(tables, truth, variable, table, item, column):
    """Outpatient laboratory values have no hospitalisation; temperatures are written in Fahrenheit."""
    number = pl.col(column).cast(pl.Float64)
    value = (number - 32) / 1.8 if variable == "temperature" else number
    charted = rows(tables, table).filter((pl.col("itemid") == item) & pl.col("hadm_id").is_not_null())
    found = charted.select("subject_id", pl.col("charttime").alias("time"), value.round(4).alias("value")).sort("subject_id", "time")
    mine = truth["events"].filter(pl.col("variable") == variable).join(truth["stays"].select("stay_id", "subject_id"), on="stay_id")
    wanted = mine.select("subject_id", "time", pl.col("value").round(4)).sort("subject_id", "time")
    assert found.height and found.rows() == wanted.rows()


def test_a_run_that_breaks_leaves_no_record_and_no_whole_table(tmp_path, monkeypatch):
    make_block = simulated_mimic.make_block

    def breaking(settings, first, number):
        if first >= 4:
            raise OSError("disk")
        return make_block(settings, first, number)

    monkeypatch.setattr(simulated_mimic, "make_block", breaking)
    with pytest.raises(OSError):
        write(tmp_path, patients_per_block=2)
    with pytest.raises(EOFError):
        content(tmp_path, "icu/chartevents")
    assert not (tmp_path / RECORD).exists()


@pytest.fixture(scope="module")
def read_back(tables, tmp_path_factory) -> dict[str, pl.DataFrame]:
    """The tables as the source of MIMIC-IV reads them."""
    source = open_source(SourceConfig(kind="mimic_iv", path=str(tables), num_partitions=1))
    extracted = Folder(tmp_path_factory.mktemp("extracted"))
    for piece in source.extractions():
        source.extract(piece, extracted, 512)
    found = source.read(source.partitions()[0], extracted)
    events = pl.from_arrow(found.events).with_columns(pl.col("variable").cast(pl.String))
    return {"stays": pl.from_arrow(found.stays), "events": events}


def test_the_source_of_mimic_iv_reads_the_simulator_s_stays(read_back, truth):
    same = ["stay_id", "subject_id", "hadm_id", "intime", "outtime", "sex", "race", "height_cm", "weight_kg"]
    same += ["stay_number_in_admission", "died_in_hospital", "died_in_icu", "death_time"]
    assert read_back["stays"].select(same).rows() == truth["stays"].select(same).rows()


WRITTEN = sorted({*table_definitions()["charted"], *table_definitions()["given"]})


@pytest.mark.parametrize("variable", WRITTEN)
def test_the_source_of_mimic_iv_reads_the_simulator_s_events(read_back, truth, variable):
    """Times and values, to the rounding of the tables; a treatment of an instant lasts the minute that MIMIC-IV gives it."""

    def of(events: pl.DataFrame) -> list[tuple]:
        mine = events.filter(pl.col("variable") == variable).join(truth["stays"].select("stay_id", "intime"), on="stay_id")
        inside = mine.filter(pl.col("time") >= pl.col("intime"))
        return inside.select("stay_id", "time", pl.col("value").fill_null(1.0).round(3)).sort("stay_id", "time", "value").rows()

    assert of(read_back["events"]) == of(truth["events"])
