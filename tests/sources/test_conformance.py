"""What every source must do, whatever its format: one test per promise of docs/adding_a_source.md, run on a small example of every kind.

A kind that is registered in `clinjepa.sources.SOURCES` without an example in `tests/support/data/source_examples.py` fails.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinjepa.clinical import load_variables
from clinjepa.config.schema import Config, SourceConfig
from clinjepa.errors import ClinJepaError
from clinjepa.sources import SOURCES, SourceTables, open_source, validate
from clinjepa.sources.extraction import extract_all, read_partition
from clinjepa.sources.mapped_meds.coverage import read_coverage
from clinjepa.sources.schema import LOOKBACK_HOURS, TIMES_OF_STATICS
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.checks import AuditedData, Sampling
from clinjepa.trajectory.audit.leaks import audit
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from tests.support.data.handmade_stays import lenient_config
from tests.support.data.source_examples import EXAMPLES, SourceExample


@dataclass(frozen=True, repr=False)
class Reading:
    """An example, read whole: its parts, and the rows that its extraction left out."""

    name: str
    example: SourceExample
    folder: Path
    config: SourceConfig
    partitions: list[Any]
    parts: list[SourceTables]
    left_out: dict[str, int]
    extracted: Folder

    @property
    def stays(self) -> pl.DataFrame:
        return pl.concat([pl.DataFrame(part.stays) for part in self.parts]).sort("stay_id")

    @property
    def events(self) -> pl.DataFrame:
        parts = [pl.DataFrame(part.events).with_columns(pl.col("variable").cast(pl.String)) for part in self.parts]
        return pl.concat(parts).sort("stay_id", "time", "variable", "row")

    @property
    def counts(self) -> dict[str, int]:
        totals = dict(self.left_out)
        for part in self.parts:
            for rule, number in part.counts.items():
                totals[rule] = totals.get(rule, 0) + number
        return totals


def read_again(name: str, folder: Path, scratch: Path, **settings: Any) -> Reading:
    """Read an example that lies in `folder`, with a new source and a new extraction."""
    kind, example = EXAMPLES[name]
    config = example.config(kind, folder, **settings)
    source, extracted = open_source(config), Folder(scratch)
    left_out = extract_all(source, extracted, 500)
    partitions = list(source.partitions())
    reads = extracted if left_out or extracted.exists("parts") else None
    parts = [read_partition(open_source(config), partition, reads) for partition in partitions]
    return Reading(name, example, folder, config, partitions, parts, left_out, extracted)


@pytest.fixture(scope="module", params=sorted(EXAMPLES))
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reading:
    folder = tmp_path_factory.mktemp("example")
    write = EXAMPLES[request.param][1].write
    if write is not None:
        write(folder / "data")
    return read_again(request.param, folder / "data", folder / "extracted")


def test_every_registered_kind_has_an_example():
    assert {kind for kind, _ in EXAMPLES.values()} == set(SOURCES)


def test_every_part_follows_the_schema(whole):
    assert whole.parts and whole.stays.height >= 3 and whole.events.height
    for part in whole.parts:
        validate(part)


def test_values_are_in_their_variables_units(whole):
    if whole.name != "simulator":
        assert whole.example.converted
    for variable, expected in whole.example.converted.items():
        found = whole.events.filter(pl.col("variable") == variable)["value"]
        assert found.len() and found.to_list() == [pytest.approx(expected, rel=1e-3)] * found.len(), variable
    own = {name: variable for name, variable in load_variables().items() if variable.kind in ("numeric", "rate")}
    for name, values in whole.events.filter(pl.col("variable").is_in(list(own))).group_by("variable").agg(pl.col("value")).iter_rows():
        kept = [value for value in values if value is not None]
        assert all(own[name].minimum <= value <= own[name].maximum for value in kept if own[name].aggregation != "sum"), name


def test_no_event_is_outside_its_stay(whole):
    hours = {name: variable.lookback_hours for name, variable in load_variables().items()}
    joined = whole.events.join(whole.stays.select("stay_id", "intime", "outtime"), on="stay_id", how="left")
    lookback = pl.col("variable").replace_strict(hours, default=LOOKBACK_HOURS, return_dtype=pl.Int64)
    assert joined["intime"].null_count() == 0
    assert joined.filter(pl.col("time") > pl.col("outtime")).height == 0
    assert joined.filter(pl.col("time") < pl.col("intime") - pl.duration(hours=lookback)).height == 0
    assert joined.filter(pl.col("end_time") < pl.col("time")).height == 0


def test_partitions_share_no_patient_and_together_are_the_data_set(whole, tmp_path):
    subjects = [set(part.stays["subject_id"].to_pylist()) for part in whole.parts]
    assert sum(map(len, subjects)) == len(set().union(*subjects))
    one = read_again(whole.name, whole.folder, tmp_path / "one", num_partitions=1)
    assert len(one.parts) == 1
    assert one.stays.equals(whole.stays)
    assert one.events.drop("row").equals(whole.events.drop("row"))  # a source that makes its rows numbers them by partition
    assert one.counts == whole.counts


def test_the_same_files_give_the_same_partitions_rows_and_digest_wherever_they_lie(whole, tmp_path):
    folder = whole.folder
    if whole.example.write is not None:
        folder = Path(shutil.copytree(whole.folder, tmp_path / "moved"))
    again = read_again(whole.name, folder, tmp_path / "again")
    assert again.partitions == whole.partitions
    for part, other in zip(again.parts, whole.parts, strict=True):
        assert part.stays.equals(other.stays) and part.events.equals(other.events) and part.counts == other.counts
    assert open_source(again.config).content_digest() == open_source(whole.config).content_digest()


def test_the_digest_changes_with_the_content(whole, tmp_path):
    if whole.example.write is None:
        pytest.skip("has no files")
    folder = Path(shutil.copytree(whole.folder, tmp_path / "changed"))
    largest = max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: (path.stat().st_size, path.name))
    largest.write_bytes(largest.read_bytes() + b"x")
    assert open_source(whole.example.config(EXAMPLES[whole.name][0], folder)).content_digest() != open_source(whole.config).content_digest()


def test_dropped_rows_are_counted(whole):
    for rule in whole.example.dropped:
        assert whole.counts.get(rule, 0) > 0, f"{rule} is not among {sorted(whole.counts)}"


def test_at_most_max_stays_are_read(whole, tmp_path):
    few = read_again(whole.name, whole.folder, tmp_path / "few", max_stays=2)
    assert few.stays.height == 2
    assert few.stays["stay_id"].to_list() == whole.stays["stay_id"].to_list()[:2]


def test_statics_are_known_from_their_charting(whole):
    for column, time in TIMES_OF_STATICS.items():
        timed = whole.stays.filter(pl.col(time).is_not_null())
        assert timed[column].null_count() == 0
        assert timed.filter(pl.col(time) > pl.col("outtime")).height == 0
    if whole.example.weight_hours is not None:
        weighed = whole.stays.filter(pl.col("weight_kg").is_not_null())
        assert weighed.height
        assert (weighed["weight_time"] - weighed["intime"]).unique().to_list() == [timedelta(hours=whole.example.weight_hours)]


@pytest.fixture(scope="module")
def ingested(whole: Reading, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Folder, dict[str, Any]]:
    config = lenient_config(source=whole.config.model_dump())
    out = Folder(tmp_path_factory.mktemp("ingest"))
    extracted = whole.extracted if whole.extracted.exists("parts") else None
    for number, partition in enumerate(whole.partitions):
        build_partition(open_source(whole.config), partition, config, out, f"part-{number:05d}", extracted)
    codes = read_coverage(whole.extracted) if extracted is not None else None
    card = finish_ingest(out, config, whole.left_out, codes)
    return config, out, dict(card)


def test_attrition_and_data_card_are_made_of_all_stays_and_counts(whole, ingested):
    _, out, card = ingested
    assert card["num_stays"] == card["attrition"][-1]["num_stays"] == whole.stays.height
    assert card["attrition"][0]["num_patients"] == card["num_patients"] == whole.stays["subject_id"].n_unique()
    assert all(card["dropped"].get(rule, 0) >= number for rule, number in whole.counts.items())
    assert out.read_json("attrition.json") == card["attrition"]
    assert card["num_events"] > 0 and card["num_hours"] > 0


def test_texts_and_grid_know_nothing_of_the_future(whole, ingested):
    """The leak audit of the ingest: charts cut at an hour give the same texts and grid up to it, and nothing lies after the discharge."""
    config, out, _ = ingested
    extracted = whole.extracted if whole.extracted.exists("parts") else None
    parts = {f"part-{number:05d}": partition for number, partition in enumerate(whole.partitions)}
    report = audit(AuditedData(out), config, Sampling(parts, lambda one: read_partition(open_source(whole.config), one, extracted)))
    made = [check for check in report["checks"] if check["outcome"] != "skipped"]
    assert report["num_leaks"] == 0 and report["sample"]["num_stays"] >= 3 and len(made) >= 5
    stays = pl.DataFrame(out.read_table("stays.parquet"))
    for name in out.names("grid"):
        grid = pl.DataFrame(out.read_table(f"grid/{name}")).join(stays.select("stay_id", "num_hours"), on="stay_id", how="left")
        assert grid.filter((pl.col("hour") < 0) | (pl.col("hour") >= pl.col("num_hours")) | pl.col("num_hours").is_null()).height == 0


def test_a_broken_file_is_named_in_one_line_without_an_id(whole, tmp_path):
    """Every file of the example in turn is cut; the message names the file or the folder, and no patient."""
    if whole.example.write is None:
        pytest.skip("has no files")
    files = [path.relative_to(whole.folder) for path in whole.folder.rglob("*") if path.is_file()]
    failures = 0
    for number, name in enumerate(sorted(files)[:40]):
        folder = Path(shutil.copytree(whole.folder, tmp_path / f"cut{number}"))
        (folder / name).write_bytes((folder / name).read_bytes()[:30])
        try:
            read_again(whole.name, folder, tmp_path / f"extracted{number}")
        except ClinJepaError as error:
            failures += 1
            said = str(error)
            assert "\n" not in said
            assert name.name in said or str(folder) in said
            without_path = said.replace(str(folder), "").replace(name.name, "")
            assert not [each for each in whole.example.ids if str(each) in without_path]
    assert failures >= 1
