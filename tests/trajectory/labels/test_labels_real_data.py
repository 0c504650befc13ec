"""Labels on the real open data sets, against what their own files say; skipped where CLINJEPA_DATA does not hold them."""

from __future__ import annotations

import zipfile

import polars as pl
import pytest

from clinjepa.clinical import load_tasks
from clinjepa.sources import open_source
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import compute_labels
from tests.support.data.handmade_stays import lenient_config
from tests.support.data.real_data import real


def ingested(out: Folder, extracted: Folder | None = None, **source) -> Folder:
    """The first partitions of a source, every stay kept."""
    config = lenient_config(source=source)
    opened = open_source(config.source)
    for piece in opened.extractions() if extracted is not None else ():
        opened.extract(piece, extracted, 1024)
    for place, partition in enumerate(opened.partitions()):
        build_partition(_Reads(opened, extracted), partition, config, out, f"part-{place:05d}")
    finish_ingest(out, config)
    return out


class _Reads:
    def __init__(self, source, extracted: Folder | None) -> None:
        self.source, self.extracted = source, extracted

    def read(self, partition):
        return self.source.read(partition) if self.extracted is None else self.source.read(partition, self.extracted)


def test_the_label_of_cinc2019_arrives_as_it_stands(tmp_path):
    folder = real("cinc2019", "https://physionet.org/content/challenge-2019/1.0.0/")
    ingest = ingested(Folder(tmp_path / "ingest"), kind="cinc2019", path=str(folder), num_partitions=2, max_stays=150)
    labels = compute_labels(ingest, load_tasks(["sepsis_label_cinc2019"]), 24)
    expected = {}
    with zipfile.ZipFile(folder / "training_setA.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".psv"))[:150]:
            rows = pl.read_csv(archive.read(name), separator="|", columns=["SepsisLabel", "ICULOS"], infer_schema_length=None)
            for hour, label in zip(rows["ICULOS"], rows["SepsisLabel"], strict=True):
                expected[int(name.rsplit("/", 1)[-1][1:-4]), hour - 1] = float(label)
    found = {(row["stay_id"] % 1_000_000, row["hour"]): row["label"] for row in labels.to_pylist()}
    assert sum(expected.values()) > 0
    assert found == expected


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = real("mimic-iv-demo-2.2", "https://physionet.org/content/mimic-iv-demo/2.2/")
    scratch = Folder(tmp_path_factory.mktemp("demo"))
    ingest = ingested(scratch / "ingest", scratch / "extracted", kind="mimic_iv", path=str(folder), num_partitions=2)
    return folder, ingest


def test_readmissions_and_deaths_of_the_demo_are_those_of_its_tables(demo):
    folder, ingest = demo
    names = ["hospital_readmission_30d", "icu_readmission", "death_within_30d", "stay_beyond_3d"]
    labels = pl.from_arrow(compute_labels(ingest, load_tasks(names), 24))
    stays, admissions, patients = (
        pl.read_csv(folder / name, try_parse_dates=True)
        for name in ("icu/icustays.csv.gz", "hosp/admissions.csv.gz", "hosp/patients.csv.gz")
    )
    after = admissions.sort("subject_id", "admittime").with_columns(
        (pl.col("admittime").shift(-1).over("subject_id") - pl.col("dischtime")).alias("gap")
    )
    again = after.filter(pl.col("gap").is_between(pl.duration(), pl.duration(days=30)) & (pl.col("hospital_expire_flag") == 0))
    positive = {name: set(labels.filter((pl.col("task") == name) & (pl.col("label") == 1))["stay_id"]) for name in names}
    assert all(positive.values())
    assert positive["hospital_readmission_30d"] == set(stays.join(again, on="hadm_id", how="semi")["stay_id"])
    last = stays.filter(pl.col("intime") == pl.col("intime").max().over("hadm_id"))
    assert positive["icu_readmission"] == set(stays["stay_id"]) - set(last["stay_id"])
    day = pl.duration(days=1)
    there = stays.join(admissions.select("hadm_id", "deathtime"), on="hadm_id").join(patients.select("subject_id", "dod"), on="subject_id")
    there = there.filter((pl.col("outtime") - pl.col("intime") >= day) & ~(pl.col("deathtime") <= pl.col("intime") + day).fill_null(False))
    assert positive["stay_beyond_3d"] == set(there.filter(pl.col("outtime") - pl.col("intime") > 3 * day)["stay_id"])
    died = there.filter(pl.coalesce("deathtime", pl.col("dod").cast(pl.Datetime("us"))) <= pl.col("intime") + 30 * day)
    assert positive["death_within_30d"] == set(died["stay_id"])
