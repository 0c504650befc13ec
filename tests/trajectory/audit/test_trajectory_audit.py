"""The leak audit: clean data pass, and each leak that is planted is found by the check that is there for it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from clinjepa.clinical import list_tasks, load_tasks, load_variables
from clinjepa.config import save_config
from clinjepa.sources.schema import EVENTS_SCHEMA
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.checks import AuditedData, Check, Labelling, Sampling
from clinjepa.trajectory.audit.label_checks import label_checks, relabeller
from clinjepa.trajectory.audit.leaks import (
    audit,
    patient_checks,
    sample_charts,
    store_time_checks,
    table_check,
    text_checks,
    token_check,
    truncation_checks,
)
from clinjepa.trajectory.audit.truncation import Chart, cut_chart, on_the_boundary
from clinjepa.trajectory.hours import ingest as ingest_module
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import TrajectorySettings, tokenizer_settings
from clinjepa.trajectory.tokens.build import build_trajectories, finish_trajectories
from clinjepa.trajectory.tokens.tokenizer import build_tokenizer
from pipelines.audit import audit_data
from pipelines.cli import app
from tests.support.data.finished_data import finish_data, simulated
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

CONFIG = lenient_config(tokenizer={"vocab_size": 300})
PARTS = {"part-0": {"part": 0}, "part-1": {"part": 1}}
TASKS = load_tasks(["in_hospital_death", "tachycardia_8h"])
PREDICTION_HOUR = 4
NUM_HOURS = 16


def part_of_stays(part: int):
    """Three patients of 16 h, tachycardic from hour 13 on; an infusion, an amount, a category; nothing on a whole hour."""
    ids = range(1 + 3 * part, 4 + 3 * part)
    rows = []
    for i in ids:
        for hour in range(NUM_HOURS):
            rows.append(event(i, hour + 0.25, "heart_rate", 140.0 if hour >= 13 else 80.0))
            rows.append(event(i, hour + 0.5, "map", 60.0 + hour, store_time=at(hour + (0.75 if hour % 4 else 1.75))))
        rows.append(event(i, 2.3, "norepinephrine", 0.125, until=13.1))
        rows.append(event(i, 1.1, "crystalloid", 777.0, until=11.9))
        rows.append(event(i, 3.4, "medication", 1000.0, text="Vancomycin", unit="mg"))
    stays = stays_table(*({"stay_id": i, "outtime": at(NUM_HOURS), "died_in_hospital": i % 2 == 0} for i in ids))
    return stays, events_table(*rows)


SOURCE = HandmadeSource(part_of_stays(0), part_of_stays(1))


relabel = relabeller(TASKS, PREDICTION_HOUR)


def write_labels(root: Path, compute=relabel) -> None:
    """labels.parquet in groups of one task each, as the labels stage writes it."""
    ingest = Folder(root / "ingest")
    table = pa.concat_tables([compute(ingest, part) for part in PARTS]).sort_by([("task", "ascending"), ("stay_id", "ascending")])
    Folder(root / "labels").write_table("labels.parquet", table, row_group_size=1)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("finished")
    ingest, tokenizer, store = (Folder(root / name) for name in ("ingest", "tokenizer", "store"))
    for name, partition in PARTS.items():
        build_partition(SOURCE, partition, CONFIG, ingest, name)
    finish_ingest(ingest, CONFIG)
    build_tokenizer(ingest, tokenizer_settings(CONFIG), tokenizer)
    for name in PARTS:
        build_trajectories(ingest, name, tokenizer, TrajectorySettings.of(CONFIG), store)
    finish_trajectories(ingest, store, TrajectorySettings.of(CONFIG))
    write_labels(root)
    return root


@pytest.fixture
def data(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(finished, tmp_path / "data"))


def sampled(root: Path) -> list[Chart]:
    return sample_charts(pl.from_arrow(Folder(root / "ingest").read_table("stays.parquet")), Sampling(PARTS, SOURCE.read, 2, 6))


def names_of(checks: list[Check]) -> set[str]:
    """The checks that found a leak; every one has looked at something."""
    assert all(check.num_checked > 0 for check in checks)
    return {check.name for check in checks if check.outcome == "leak"}


def leaks_of_texts(root: Path) -> set[str]:
    return names_of(text_checks(Folder(root / "ingest"), list(PARTS), CONFIG.text))


def leaks_of_time(root: Path, stays: int = 1) -> set[str]:
    return names_of(truncation_checks(Folder(root / "ingest"), CONFIG, sampled(root)[-stays:]))


def leaks_of_patients(root: Path) -> set[str]:
    return names_of(patient_checks(pl.from_arrow(Folder(root / "ingest").read_table("stays.parquet")), Folder(root / "store")))


def leaks_of_labels(root: Path, compute=relabel) -> set[str]:
    ingest, labels = Folder(root / "ingest"), Folder(root / "labels")
    stays = pl.from_arrow(ingest.read_table("stays.parquet"))
    return names_of(label_checks(AuditedData(ingest, labels=labels), stays, Labelling(TASKS, compute), CONFIG, sampled(root)[:1]))


def change(root: Path, name: str, *columns: pl.Expr, stay: int | None = None) -> None:
    """Rewrite columns of a stored table, of one stay or of all."""
    folder = Folder(root)
    table = folder.read_table(name)
    frame = pl.from_arrow(table)
    if stay is not None:
        here = pl.col("stay_id") == stay
        columns = tuple(pl.when(here).then(one).otherwise(pl.col(one.meta.output_name())).alias(one.meta.output_name()) for one in columns)
    folder.write_table(
        name, frame.with_columns(columns).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(table.schema), row_group_size=1
    )


def add_to_hour_3(root: Path, phrase: str, column: str = "state_texts") -> None:
    texts = pl.col(column).list
    spoiled = pl.concat_list(texts.head(3), texts.slice(3, 1).list.eval(pl.element() + f" {phrase}"), texts.slice(4))
    change(root, "ingest/hours/part-0.parquet", spoiled.alias(column), stay=2)


def test_clean_data_pass_every_check(data):
    found = audit(
        AuditedData(Folder(data / "ingest"), Folder(data / "store"), Folder(data / "labels")),
        CONFIG,
        Sampling(PARTS, SOURCE.read),
        Labelling(TASKS, relabel),
    )
    assert found["num_leaks"] == 0 and found["sample"] == {"num_partitions": 2, "num_stays": 6}
    outcomes = {check["name"]: check["outcome"] for check in found["checks"]}
    assert outcomes.pop("infusions and procedures stored after the hour in which they began") == "skipped"
    assert set(outcomes.values()) == {"ok", "note"}
    assert all(check["num_checked"] > 0 for check in found["checks"] if check["outcome"] != "skipped")


@pytest.mark.parametrize(
    ("phrase", "check"),
    [
        ("Sofa: 7.", "no excluded field or task names a phrase"),
        ("Length-of-stay: 7.", "no excluded field or task names a phrase"),
        ("MAP (cuff): 70 mmHg.", "no label-only variable stands in a text"),
        ("Norepinephrine: 0.1 mcg/kg/min.", "each kind of text names only its own fields"),
        ("Prognosis: poor.", "each kind of text names only its own fields"),
    ],
)
def test_a_name_that_may_not_open_a_phrase_is_found(data, phrase, check):
    add_to_hour_3(data, phrase)
    assert leaks_of_texts(data) == {check}


def test_a_discharge_code_inside_a_value_is_found(data):
    add_to_hour_3(data, "Aspirin: by drg_code 291.", "action_texts")
    assert leaks_of_texts(data) == {"no identifier of an excluded field or discharge code stands in a text"}


def test_a_written_variable_from_a_table_of_discharge_codes_is_named(monkeypatch):
    rate = load_variables()["heart_rate"]
    coded = replace(rate, sources=(replace(rate.sources[0], table="diagnoses_icd"),))
    monkeypatch.setattr("clinjepa.trajectory.audit.leaks.load_variables", lambda: {"heart_rate": coded, "map": load_variables()["map"]})
    check = table_check()
    assert (check.outcome, check.num_checked, check.detail) == ("leak", 2, "heart_rate")


def test_texts_that_say_the_hour_after_are_found(data):
    later = pl.col("state_texts").list.eval(pl.element().shift(-1).fill_null(pl.element().last()))
    change(data, "ingest/hours/part-1.parquet", later, stay=5)
    assert leaks_of_texts(data) == {"the hour written in a text is its place in the stay"}
    assert leaks_of_time(data) == {"an hour's texts are the same in a chart that ends with it"}


def test_tokens_that_say_more_than_the_texts_are_found(data):
    change(data, "ingest/hours/part-0.parquet", pl.col("state_texts").list.eval(pl.element().str.replace("MAP", "SBP")), stay=2)
    stays = sampled(data)[:1]
    check = token_check(Folder(data / "ingest"), Folder(data / "store"), stays, CONFIG)
    assert (check.outcome, check.num_found) == ("leak", NUM_HOURS)


def test_a_grid_that_shows_the_hour_after_is_found_with_its_column(data):
    change(data, "ingest/grid/part-1.parquet", pl.col("map").shift(-1))
    assert leaks_of_time(data) == {"an hour's grid is the same in a chart that ends with it"}


def test_an_hour_that_takes_in_the_event_on_its_end_is_found(data, monkeypatch):
    place = ingest_module.place_events

    def place_too_early(events, *rest):
        frame = pl.DataFrame(events).with_columns(pl.col("time") - timedelta(microseconds=1), pl.col("variable").cast(pl.String))
        plain = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        return place(plain.set_column(3, "variable", plain["variable"].cast("string").dictionary_encode()).cast(EVENTS_SCHEMA), *rest)

    monkeypatch.setattr(ingest_module, "place_events", place_too_early)
    assert leaks_of_time(data) == {"an event on the end of an hour is not in that hour"}


@pytest.mark.parametrize(
    ("name", "column", "other", "check"),
    [
        ("ingest/stays.parquet", "split", "held_out", "no patient is in two splits"),
        ("ingest/stays.parquet", "part", "part-1", "no patient is in two partitions"),
        ("store/stays.parquet", "shard", "shards/part-1.parquet", "no patient is in two shards of the trajectory store"),
    ],
)
def test_a_patient_on_both_sides_is_found(data, name, column, other, check):
    for table in ("ingest/stays.parquet", "store/stays.parquet"):
        change(data, table, pl.lit(10, pl.Int64).alias("subject_id"), stay=2)
        change(data, table, pl.lit("train").alias("split"))
    change(data, "store/windows.parquet", pl.lit("train").alias("split"))
    change(data, name, pl.lit(other).alias(column), stay=1)
    assert leaks_of_patients(data) - {"the trajectory store keeps splits and stays"} == {check}


def test_a_store_whose_split_differs_from_the_ingest_is_found(data):
    rotate = pl.col("split").replace({"train": "tuning", "tuning": "held_out", "held_out": "train"})
    change(data, "store/stays.parquet", rotate)
    change(data, "store/windows.parquet", rotate)
    assert leaks_of_patients(data) == {"the trajectory store keeps splits and stays"}


def test_a_window_that_reaches_beyond_its_stay_is_found(data):
    change(data, "store/windows.parquet", pl.col("start_hour") + 1)
    assert leaks_of_patients(data) == {"a window lies in its stay and in its split"}


SAME = "labels computed again are the same"
INSIDE = "a label lies in its stay; a stay's outcome is asked of who is still there"
AHEAD = "labels whose horizon lies before the cut do not change with it"


def test_an_altered_label_is_found(data):
    change(data, "labels/labels.parquet", (1 - pl.col("label")).alias("label"))
    assert leaks_of_labels(data) == {SAME, AHEAD}


def test_a_label_beyond_the_stay_is_found(data):
    change(data, "labels/labels.parquet", pl.when(pl.col("hour") == 7).then(NUM_HOURS).otherwise(pl.col("hour")).alias("hour"))
    assert leaks_of_labels(data) == {INSIDE, SAME}


def test_an_outcome_asked_after_death_is_found(data):
    change(data, "ingest/stays.parquet", pl.lit(at(PREDICTION_HOUR)).alias("death_time"), stay=2)
    assert leaks_of_labels(data) == {INSIDE, SAME}


def test_labels_that_look_beyond_their_horizon_are_found(data):
    far = [replace(task, horizon_hours=12) if task.kind == "event" else task for task in TASKS]

    looks_too_far = relabeller(far, PREDICTION_HOUR)
    write_labels(data, looks_too_far)
    assert leaks_of_labels(data, compute=looks_too_far) == {AHEAD}


def test_rows_stored_after_their_hour_are_counted():
    charts = [Chart(part, SOURCE.read(partition), pl.DataFrame()) for part, partition in PARTS.items()]
    check, intervals = store_time_checks(charts)
    assert intervals.outcome == "skipped"  # this source's infusions have no storage time
    assert (check.outcome, check.num_checked, check.num_found) == ("note", 96, 24)


def test_by_store_time_nothing_leaks_either(tmp_path):
    config = lenient_config(tokenizer={"vocab_size": 300}, source={"event_time": "stored"})
    ingest = Folder(tmp_path)
    for name, partition in PARTS.items():
        build_partition(SOURCE, partition, config, ingest, name)
    finish_ingest(ingest, config)
    by_stored = audit(AuditedData(ingest), config, Sampling(PARTS, SOURCE.read))
    assert by_stored["num_leaks"] == 0
    grid = pl.concat(pl.DataFrame(ingest.read_table(f"grid/{name}.parquet")) for name in PARTS).filter(pl.col("stay_id") == 1)
    # Every fourth value, measured at half past the hour, was stored in the hour after it.
    assert grid.sort("hour")["map"].to_list()[:5] == [None, 60.5, 62.0, 63.0, None]
    # Outcomes go by when they were measured.
    measured = pl.concat(pl.DataFrame(ingest.read_table(f"measured/{name}.parquet")) for name in PARTS).filter(pl.col("stay_id") == 1)
    assert measured.sort("hour")["map"].to_list()[:5] == [60.0, 61.0, 62.0, 63.0, 64.0]
    by_measured = audit(AuditedData(ingest), CONFIG, Sampling(PARTS, SOURCE.read))
    assert by_measured["num_leaks"] > 0, "texts of another rule must be told apart"


def test_a_chart_cut_at_an_hour_knows_nothing_later():
    tables = HandmadeSource((stays_table({"stay_id": 1, "died_in_hospital": True, "death_time": at(9)}), part_of_stays(0)[1])).read(
        {"part": 0}
    )
    events = pl.DataFrame(tables.events).filter(pl.col("stay_id") == 1).to_arrow(compat_level=pl.CompatLevel.oldest())
    events = events.set_column(3, "variable", events["variable"].cast("string").dictionary_encode()).cast(EVENTS_SCHEMA)
    cut = cut_chart(Chart("p", replace(tables, events=events), pl.DataFrame({"stay_id": [1], "cut_hour": [4]}))).tables
    rows = pl.DataFrame(cut.events).with_columns(pl.col("variable").cast(pl.String))
    assert rows["time"].max() == at(4.5) and rows["end_time"].max() == at(5)
    amount = rows.filter(pl.col("variable") == "crystalloid")["value"].item()
    assert amount == pytest.approx(777 * 3.9 / 10.8)
    stay = cut.stays.to_pylist()[0]
    assert (stay["outtime"], stay["died_in_hospital"], stay["death_time"]) == (at(5), None, None)


def test_a_chart_moved_onto_the_boundary_has_an_event_exactly_there():
    tables = SOURCE.read({"part": 0})
    moved = on_the_boundary(Chart("p", tables, pl.DataFrame()))
    stays = pl.from_arrow(moved.tables.stays).join(moved.cuts, on="stay_id")
    events = pl.DataFrame(moved.tables.events).join(stays.select("stay_id", "intime", "cut_hour"), on="stay_id")
    end = pl.col("intime") + pl.duration(hours=pl.col("cut_hour").cast(pl.Int64) + 1)
    assert events.filter(pl.col("time") == end)["stay_id"].n_unique() == 3


def test_the_command_writes_its_findings_and_fails_on_a_leak(tmp_path):
    config = simulated(tmp_path)
    artifacts = finish_data(config)
    file = tmp_path / "own.yaml"
    file.write_text(save_config(config))
    clean = CliRunner().invoke(app, ["data", "audit", str(file)])
    assert clean.exit_code == 0, clean.output
    assert Folder(tmp_path).read_json("runs/small/audit.json")["num_leaks"] == 0
    labels = artifacts["labels"].folder
    change(Path(labels.address), "labels.parquet", (1 - pl.col("label")).alias("label"))
    manifest = labels.read_json("manifest.json")
    next(file for file in manifest["files"] if file["path"] == "labels.parquet")["bytes"] = labels.size("labels.parquet")
    labels.write_json("manifest.json", manifest)
    spoiled_run = CliRunner().invoke(app, ["data", "audit", str(file)])
    assert spoiled_run.exit_code == 3 and "found a leak" in " ".join(spoiled_run.output.split())
    assert Folder(tmp_path).read_json("runs/small/audit.json")["num_leaks"] == 2


def test_real_patients_have_no_leak_in_any_task(tmp_path):
    data = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / "mimic-iv-demo-meds"
    if not data.is_dir():
        pytest.skip("CLINJEPA_DATA holds no mimic-iv-demo-meds; `clinjepa data get mimic-iv-demo-meds` gets it")
    source = {"kind": "meds", "path": str(data), "num_partitions": 4, "max_stays": 40}
    config = simulated(tmp_path, source=source, evaluation={"downstream": {"tasks": list_tasks()}})
    finish_data(config)
    audit_data(config, num_partitions=2)
    checks = Folder(tmp_path).read_json("runs/small/audit.json")["checks"]
    assert {check["outcome"] for check in checks if check["num_checked"]} == {"ok"}
    assert {check["detail"] for check in checks if not check["num_checked"]} == {"the source gives no storage times"}
