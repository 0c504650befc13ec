"""The open MIMIC-IV demo, once as PhysioNet's own tables and once as their MEDS conversion: two readers, one truth.

chartevents of the copy at CLINJEPA_DATA may have been rebuilt from MEDS, in which case charted values agree by construction; labs,
infusions, procedures, outputs and everything about the stays do not.
"""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from clinjepa.clinical import load_tasks
from clinjepa.clinical.tasks import list_tasks
from clinjepa.config.schema import SourceConfig
from clinjepa.sources import SourceTables, open_source
from clinjepa.sources.extraction import extract_all, has_extractions
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from tests.support.data.handmade_stays import lenient_config

KINDS = {"mimic_iv": "mimic-iv-demo-2.2", "meds": "mimic-iv-demo-meds"}
ONLY_RAW = {"antibiotic", "culture"}
"""Variables that MEDS cannot give: its demo has no microbiology, and its orders no route."""

KNOWN_TO_DIFFER = ONLY_RAW | {"medication", "hemodialysis"}
"""medication: the raw demo v2.2 here has no emar. hemodialysis: MEDS lost the end of one."""


class AsRead:
    """A source's one partition, read once."""

    name = "as_read"

    def __init__(self, tables: SourceTables) -> None:
        self.tables = tables

    def read(self, partition: dict[str, object]) -> SourceTables:
        return self.tables


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> dict[str, SourceTables]:
    found = {}
    for kind, name in KINDS.items():
        folder = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / name
        if not folder.is_dir():
            pytest.skip(f"CLINJEPA_DATA holds no {name}; the public copies are at https://physionet.org/content/{name.rsplit('-', 1)[0]}/")
        source = open_source(SourceConfig(kind=kind, path=str(folder), num_partitions=1))
        out = Folder(tmp_path_factory.mktemp(kind))
        extract_all(source, out, 1024)
        (partition,) = source.partitions()
        found[kind] = source.read(partition, out) if has_extractions(source) else source.read(partition)
    return found


@pytest.fixture(scope="module")
def labels(read, tmp_path_factory) -> dict[str, pl.DataFrame]:
    tasks, found = load_tasks(list_tasks()), {}
    for kind, tables in read.items():
        config = lenient_config(source={"kind": kind, "path": KINDS[kind]})
        out = Folder(tmp_path_factory.mktemp(kind))
        build_partition(AsRead(tables), {}, config, out, "part-00000")
        finish_ingest(out, config)
        found[kind] = pl.DataFrame(compute_labels(out, tasks, 24))
    return found


def test_every_item_in_use_means_the_same_in_the_demo(tmp_path):
    folder = Path(os.environ.get("CLINJEPA_DATA", "/nonexistent")) / KINDS["mimic_iv"]
    if not folder.is_dir():
        pytest.skip("CLINJEPA_DATA holds no mimic-iv-demo-2.2; the public copy is at https://physionet.org/content/mimic-iv-demo/2.2/")
    source = open_source(SourceConfig(kind="mimic_iv", path=str(folder)))
    check = next(piece for piece in source.extractions() if piece["table"] == "dictionaries")
    assert {rule for rule in source.extract(check, Folder(tmp_path), 1024) if rule.startswith("item_")} == set()


def test_both_conversions_give_the_same_stays(read):
    raw, meds = (pl.DataFrame(read[kind].stays).drop("source_split") for kind in KINDS)
    assert raw.height == 140
    assert raw.equals(meds)


def test_both_conversions_give_the_same_events(read):
    def events(kind: str) -> pl.DataFrame:
        table = pl.DataFrame(read[kind].events).with_columns(pl.col("variable").cast(pl.String)).drop("row", "store_time")
        kept = table.filter(~pl.col("variable").is_in(KNOWN_TO_DIFFER))
        return kept.sort(kept.columns)

    raw, meds = events("mimic_iv"), events("meds")
    assert raw.height > 200_000
    assert raw.equals(meds)


def test_both_conversions_give_the_same_labels_hour_by_hour(labels):
    raw, meds = (labels[kind].sort("task", "stay_id", "hour") for kind in KINDS)
    shared = meds["task"].unique()
    assert shared.len() >= 50
    assert "sepsis3_onset_6h" in raw["task"].unique()
    assert raw.filter(pl.col("task").is_in(shared.implode())).equals(meds)


def test_times_of_storing_of_labs_are_after_their_draw(read):
    labs = pl.DataFrame(read["mimic_iv"].events).filter(pl.col("variable").cast(pl.String) == "creatinine")
    assert labs["store_time"].null_count() == 0
    assert (labs["store_time"] >= labs["time"]).mean() > 0.99
