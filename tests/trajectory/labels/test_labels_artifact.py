"""The labels artifact: parts that are resumed, the prevalence table, the MEDS label files."""

from __future__ import annotations

from datetime import timedelta

import pytest

from clinjepa.clinical import load_tasks
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import MEDS_LABEL_SCHEMAS, build_labels, compute_labels, finish_labels, read_labels
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

TASKS = load_tasks(["hypotension_8h", "in_hospital_death", "log_lactate_4h", "sepsis3_onset_6h"])
PARTS = ("part-0", "part-1")


@pytest.fixture
def ingest(tmp_path) -> Folder:
    """Two parts of two stays; stay 1 has low pressure at hour 4, stay 3 lactate 1.9 at hour 6."""
    config, out = lenient_config(), Folder(tmp_path / "ingest")
    stays = [stays_table(*({"stay_id": i, "outtime": at(30), "died_in_hospital": i == 1} for i in ids)) for ids in ((1, 2), (3, 4))]
    events = [
        events_table(event(1, 2.5, "map", 80.0), event(1, 4.5, "map", 60.0), event(1, 13.5, "map", 80.0), event(2, 1, "map", 90.0)),
        events_table(event(3, 6.5, "lactate", 1.9), event(4, 0.5, "map", 80.0)),
    ]
    source = HandmadeSource(*zip(stays, events, strict=True))
    for place, part in enumerate(PARTS):
        build_partition(source, {"part": place}, config, out, part)
    finish_ingest(out, config)
    return out


def written(ingest: Folder, out: Folder) -> Folder:
    for part in PARTS:
        build_labels(ingest, part, TASKS, 24, out)
    finish_labels(ingest, TASKS, out)
    return out


def test_the_parts_together_are_the_labels_of_the_whole(ingest, tmp_path):
    out = written(ingest, Folder(tmp_path / "labels"))
    keys = [("task", "ascending"), ("stay_id", "ascending"), ("hour", "ascending")]
    whole = compute_labels(ingest, TASKS, 24)
    assert whole.num_rows and out.read_table("labels.parquet").sort_by(keys) == whole.sort_by(keys)


def test_a_finished_part_is_not_computed_again_and_a_cut_one_is(ingest, tmp_path, monkeypatch):
    out = written(ingest, Folder(tmp_path / "labels"))
    computed = []
    real = __import__("clinjepa.trajectory.labels.artifact", fromlist=["_label_part"])._label_part
    monkeypatch.setattr("clinjepa.trajectory.labels.artifact._label_part", lambda *args: computed.append(args[1]) or real(*args))
    out.write_bytes("labels/part-1.parquet", b"cut")
    before = out.read_bytes("labels.parquet")
    assert written(ingest, out).read_bytes("labels.parquet") == before
    assert computed == ["part-1"]


def test_the_artifact_is_not_finished_while_a_part_is_missing(ingest, tmp_path):
    out = Folder(tmp_path / "labels")
    build_labels(ingest, "part-0", TASKS, 24, out)
    with pytest.raises(StoreError, match="1 parts have no labels yet"):
        finish_labels(ingest, TASKS, out)


def test_prevalence_counts_labels_and_patients_over_the_parts(ingest, tmp_path):
    table = written(ingest, Folder(tmp_path / "labels")).read_json("prevalence.json")
    deaths = table["tasks"]["in_hospital_death"].values()
    assert sum(row["num_labels"] for row in deaths) == 4
    assert sum(row["num_positive_patients"] for row in deaths) == 1
    pressure = table["tasks"]["hypotension_8h"].values()  # hours 0-3 positive, 5-12 negative, of one patient; hour 0 of stay 2
    assert (sum(row["num_labels"] for row in pressure), sum(row["num_positive"] for row in pressure)) == (13, 4)
    assert sum(row["num_patients"] for row in pressure) == 2
    assert [row["mean"] for row in table["tasks"]["log_lactate_4h"].values() if row["mean"]] == [pytest.approx(0.6931472)]  # ln 2.0
    assert "sepsis3_onset_6h" not in table["tasks"] and "simulator" in table["without_labels"]["sepsis3_onset_6h"]


def test_prevalence_stands_beside_that_of_the_other_rule_for_a_carried_event(ingest, tmp_path):
    table = written(ingest, Folder(tmp_path / "labels")).read_json("prevalence.json")["by_carried_event"]
    assert set(table) == {"hypotension_8h"} and set(table["hypotension_8h"]) == {"negatives_only", "unknown"}
    # hours 5-12 of stay 1 carry the event of hour 4 until the recovery of hour 13
    sums = {
        rule: [sum(row[name] for row in by_split.values()) for name in ("num_labels", "num_positive")]
        for rule, by_split in table["hypotension_8h"].items()
    }
    assert sums == {"negatives_only": [13, 4], "unknown": [5, 4]}


def test_meds_labels_are_at_the_end_of_their_hour(ingest, tmp_path):
    out = written(ingest, Folder(tmp_path / "labels"))
    deaths, lactate = (out.read_table(f"meds/{name}.parquet") for name in ("in_hospital_death", "log_lactate_4h"))
    assert (deaths.schema, lactate.schema) == (MEDS_LABEL_SCHEMAS[True], MEDS_LABEL_SCHEMAS[False])
    assert sorted(zip(deaths["subject_id"].to_pylist(), deaths["boolean_value"].to_pylist(), strict=True)) == [
        (10, True),
        (20, False),
        (30, False),
        (40, False),
    ]
    assert set(deaths["prediction_time"].to_pylist()) == {at(24)}
    (row,) = lactate.to_pylist()
    assert row["prediction_time"] == at(2) + timedelta(hours=1)
    assert row["float_value"] == pytest.approx(0.6931472)


def test_the_meds_files_follow_the_published_label_schema(ingest, tmp_path):
    meds = pytest.importorskip("meds")
    out = written(ingest, Folder(tmp_path / "labels"))
    for name in out.names("meds"):
        meds.LabelSchema.validate(out.read_table(f"meds/{name}"))


def test_some_tasks_can_be_read_alone(ingest, tmp_path):
    out = written(ingest, Folder(tmp_path / "labels"))
    alone = read_labels(out, ["in_hospital_death"])
    assert alone.num_rows == 4 and set(alone["task"].to_pylist()) == {"in_hospital_death"}
    assert read_labels(out, ["sepsis3_onset_6h"]).num_rows == 0
