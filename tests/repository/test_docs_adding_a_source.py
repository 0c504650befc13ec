"""The example of docs/adding_a_source.md, as it stands there, reads a small export through the whole ingest."""

from __future__ import annotations

import re
import sys
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from clinjepa.clinical import load_tasks
from clinjepa.clinical.variables import load_variables
from clinjepa.config.schema import SourceConfig
from clinjepa.errors import SourceError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from tests.support.data.handmade_stays import INTIME, at, lenient_config

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_source.md"


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def ward(monkeypatch) -> types.ModuleType:
    module = types.ModuleType("ward_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block("python"), str(PAGE), "exec"), module.__dict__)
    mapping = yaml.safe_load(block("yaml"))
    monkeypatch.setitem(module.__dict__, "read_definitions", lambda name: {"maps/ward.yaml": mapping}[name])
    return module


def export(folder: Path) -> str:
    """Four stays of three patients, each patient in a partition of its own."""
    stays = [
        {
            "stay_id": i,
            "subject_id": subject,
            "admitted": INTIME,
            "left": INTIME + timedelta(hours=9),
            "age": 60 + i,
            "sex": "F",
            "died": False,
        }
        for i, subject in ((1, 10), (2, 10), (3, 20), (4, 30))
    ]
    rows = [
        {"stay_id": i, "time": at(hour + 0.5), "end": None, "code": code, "value": value, "unit": unit}
        for i in (1, 2, 3, 4)
        for hour in range(9)
        for code, value, unit in (("PULSE", 80.0 + hour, "/min"), ("ABPM", 70.0, "mmHg"), ("BED", 4.0, None))
    ]
    rows += [{"stay_id": 3, "time": at(2), "end": at(4), "code": "NORADR", "value": 0.1, "unit": "mcg/kg/min"}]
    rows += [{"stay_id": 3, "time": at(5), "end": None, "code": "LACT", "value": 30.0, "unit": "furlongs"}]
    folder.mkdir()
    pl.DataFrame(stays).write_parquet(folder / "stays.parquet")
    pl.DataFrame(rows, infer_schema_length=None).write_parquet(folder / "measurements.parquet")
    return str(folder)


def ingested(ward: Any, folder: Path) -> tuple[Folder, dict[str, Any]]:
    source = ward.WardSource(SourceConfig(path=export(folder)))
    out, config = Folder(folder / "ingest"), lenient_config()
    partitions = source.partitions()
    assert len(partitions) == 3
    for index, partition in enumerate(partitions):
        build_partition(source, partition, config, out, f"part-{index}")
    return out, finish_ingest(out, config)


def test_the_example_of_the_docs_gives_texts_and_counts_what_it_drops(ward, tmp_path):
    out, card = ingested(ward, tmp_path / "in")
    assert (card["num_stays"], card["num_patients"], card["num_hours"]) == (4, 3, 36)
    assert card["dropped"] == {"unknown_unit:lactate": 1, "unmapped_code": 36}
    (row,) = out.read_table("hours/part-1.parquet").to_pylist()
    assert row["state_texts"][2] == "t=2h | Heart Rate: 82 bpm. MAP: 70 mmHg."
    running, none = "Norepinephrine: 0.1 mcg/kg/min.", "No active interventions."
    assert row["action_texts"][1:5] == [f"t=1h | {none}", f"t=2h | {running}", f"t=3h | {running}", f"t=4h | {none}"]
    assert compute_labels(out, load_tasks(["map_8h"]), 24).num_rows == 4 * 8  # every hour but a stay's last


def test_the_codes_of_the_docs_are_variables():
    assert set(yaml.safe_load(block("yaml"))["codes"].values()) <= load_variables().keys()


def test_the_example_of_the_docs_names_what_is_missing(ward, tmp_path):
    with pytest.raises(SourceError, match="stays.parquet is missing"):
        ward.WardSource(SourceConfig(path=str(tmp_path)))
