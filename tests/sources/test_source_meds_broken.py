"""Broken MEDS data sets: one error that names the file, what is wrong and what to do, and never a patient."""

from __future__ import annotations

import polars as pl
import pyarrow.parquet as pq
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import SourceError, StoreError
from clinjepa.sources.meds.source import MedsSource
from clinjepa.storage import Folder
from tests.support.data.meds_examples import SCHEMA, chart, read_all, row, stay_rows, write_meds
from tests.support.machines.pipes import put_pipe


def test_a_missing_folder_says_how_to_get_the_data(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder; .*clinjepa data get"):
        MedsSource(SourceConfig(kind="meds", path=str(tmp_path / "nowhere")))


def test_a_folder_without_shards_is_refused(tmp_path):
    (tmp_path / "metadata").mkdir()
    with pytest.raises(SourceError, match="data: no .parquet files there"):
        MedsSource(SourceConfig(kind="meds", path=str(tmp_path)))


def test_a_split_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SourceError, match=r"subsets names \['test'\], found are \['train'\]"):
        MedsSource(SourceConfig(kind="meds", path=str(write_meds(tmp_path, stay_rows())), subsets=["test"]))


@pytest.mark.parametrize("column", ["time", "code", "numeric_value", "icustay_id"])
def test_a_missing_column_is_named_with_its_file(tmp_path, column):
    kept = {name: name for name in SCHEMA if name != column}
    with pytest.raises(SourceError, match=f"data/train/0.parquet: column '{column}' is missing \\(found: subject_id"):
        read_all(write_meds(tmp_path, stay_rows(), schema=kept))


def test_a_header_that_is_none_is_not_quoted(tmp_path):
    write_meds(tmp_path, stay_rows())
    pl.DataFrame({"10006508": [10006509], "2146-02-09 03:11": [None], "time": [None]}).write_parquet(tmp_path / "data/train/0.parquet")
    with pytest.raises(SourceError, match="column 'subject_id' is missing .found: time and 2 others") as error:
        read_all(tmp_path)
    assert "10006508" not in str(error.value) and "2146" not in str(error.value)


def test_a_shard_cut_short_is_refused(tmp_path):
    write_meds(tmp_path, stay_rows() + [chart(220045, 2, 80.0)] * 500)
    path = tmp_path / "data/train/0.parquet"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match="data/train/0.parquet: not a readable Parquet file .*get the file again"):
        read_all(tmp_path)


def test_a_shard_damaged_inside_is_refused(tmp_path):
    write_meds(tmp_path, stay_rows() + [chart(220045, hours / 60, 60.0 + hours % 37) for hours in range(1500)])
    path = tmp_path / "data/train/0.parquet"
    content = bytearray(path.read_bytes())
    content[4:600] = bytes(596)
    path.write_bytes(bytes(content))
    with pytest.raises(SourceError, match="data/train/0.parquet: cannot be read"):
        read_all(tmp_path)


def test_a_file_that_is_no_parquet_is_refused(tmp_path):
    path = tmp_path / "data/train/0.parquet"
    path.parent.mkdir(parents=True)
    path.write_text("subject_id,time,code\n1,2,3\n")
    with pytest.raises(SourceError, match="data/train/0.parquet: not a readable Parquet file"):
        read_all(tmp_path)


def test_numbers_given_as_text_are_refused(tmp_path):
    write_meds(tmp_path, stay_rows())
    path = tmp_path / "data/train/0.parquet"
    pl.read_parquet(path).with_columns(pl.lit("high").alias("numeric_value")).write_parquet(path)
    with pytest.raises(SourceError, match="column 'numeric_value' is String, a number is needed"):
        read_all(tmp_path)


def test_a_subject_in_two_shards_is_refused(tmp_path):
    write_meds(tmp_path, stay_rows(), "data/train/0.parquet")
    write_meds(tmp_path, [chart(220045, 2, 80.0)], "data/train/1.parquet")
    with pytest.raises(SourceError, match="1.parquet: rows of one subject are not contiguous, or in several files"):
        read_all(tmp_path)


def test_an_empty_table_has_no_icu_stay(tmp_path):
    with pytest.raises(SourceError, match="no code starts with 'ICU_ADMISSION'"):
        read_all(write_meds(tmp_path, []))


def test_a_stay_id_given_to_two_admissions_is_refused_without_naming_it(tmp_path):
    rows = stay_rows(stay=987654) + [row("ICU_ADMISSION//Other Unit", 50, icustay_id=987654, hadm_id=101)]
    with pytest.raises(SourceError, match="1 ICU stay ids have two different ICU_ADMISSION rows") as error:
        read_all(write_meds(tmp_path, rows))
    assert "987654" not in str(error.value)


def test_a_split_table_without_its_columns_is_refused(tmp_path):
    write_meds(tmp_path, stay_rows())
    (tmp_path / "metadata").mkdir()
    pl.DataFrame({"subject_id": [1], "fold": ["train"]}).write_parquet(tmp_path / "metadata/subject_splits.parquet")
    with pytest.raises(SourceError, match=r"subject_splits.parquet: columns \['split'\] are missing"):
        read_all(tmp_path)


def test_an_id_above_int64_is_refused_by_column_and_type(tmp_path):
    root = write_meds(tmp_path, stay_rows())
    (file,) = (root / "data").rglob("*.parquet")
    table = pl.read_parquet(file)
    table.with_columns(pl.col("subject_id").cast(pl.UInt64) + 2**63).write_parquet(file)
    with pytest.raises(SourceError, match="'subject_id' is UInt64, and .* at most .*int64") as caught:
        read_all(root)
    assert "cut or altered" not in str(caught.value) and "\n" not in str(caught.value) and str(2**63)[:6] not in str(caught.value)
    table.with_columns(pl.col("subject_id").cast(pl.UInt64)).write_parquet(file)
    assert read_all(root).stays.num_rows == 1


@pytest.mark.parametrize("name", ["data/train/0.parquet", "metadata/subject_splits.parquet"])
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path, name):
    write_meds(tmp_path, stay_rows())
    Folder(tmp_path / "metadata").make()
    put_pipe(tmp_path / name)
    for read in (read_all, lambda folder: MedsSource(SourceConfig(kind="meds", path=str(folder))).content_digest()):
        with pytest.raises(StoreError, match=f"{name} is no regular file"):
            read(tmp_path)


@pytest.mark.parametrize("name", ["0 ü[1]*数?", "{a,b}", "#1 %20~"])
def test_letters_of_a_pattern_in_a_name_are_letters(tmp_path, name):
    shard = f"data/train/{name}.parquet"
    wanted = read_all(write_meds(tmp_path / "plain", stay_rows() + [chart(220045, 2, 80.0)]))
    found = read_all(write_meds(tmp_path / "odd [1]*", stay_rows() + [chart(220045, 2, 80.0)], shard))
    assert found.events.num_rows == 1 and found.events.equals(wanted.events) and found.stays.equals(wanted.stays)


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"icustay_id": 0}, "stay_without_id"), ({"icustay_id": -5}, "stay_without_id"), ({"icustay_id": None}, "stay_without_id")]
    + [({"time": None}, "stay_without_beginning")],
)
def test_a_stay_without_an_id_or_a_beginning_is_counted(tmp_path, change, rule):
    lost = [each | change if each["code"].startswith("ICU_ADMISSION") else each for each in stay_rows(subject=2, stay=12)]
    tables = read_all(write_meds(tmp_path / "some", stay_rows() + lost))
    counted = {name: number for name, number in tables.counts.items() if name.startswith("stay_")}
    assert (tables.stays["stay_id"].to_pylist(), counted) == ([11], {rule: 1})
    told = "none of the 1 rows 'ICU_ADMISSION' can be used: .*; write both columns in the conversion to MEDS"
    with pytest.raises(SourceError, match=told):
        read_all(write_meds(tmp_path / "all", lost))


@pytest.mark.parametrize("shards", [("data/train/0.parquet", "data/train/1.parquet"), ("data/train/0.parquet",) * 2])
def test_a_stay_id_of_two_subjects_is_refused_with_the_files(tmp_path, shards):
    patients = [stay_rows(subject=subject, stay=987654) for subject in (1, 2)]
    if shards[0] == shards[1]:
        write_meds(tmp_path, patients[0] + patients[1])
    else:
        for shard, rows in zip(shards, patients, strict=True):
            write_meds(tmp_path, rows, shard)
    told = f"1 ICU stay ids belong to two subjects, in {', '.join(sorted(set(shards)))}; .* renumber those of one file"
    source = MedsSource(SourceConfig(kind="meds", path=str(tmp_path), num_partitions=2))
    with pytest.raises(SourceError, match=told) as error:
        source.partitions()
    assert "987654" not in str(error.value)


def test_a_column_that_occurs_twice_is_named(tmp_path):
    path = write_meds(tmp_path, stay_rows()) / "data/train/0.parquet"
    table = pq.read_table(path)
    pq.write_table(table.append_column("code", table["code"]), path)
    with pytest.raises(SourceError, match=r"data/train/0.parquet: column 'code' occurs twice; remove one"):
        read_all(tmp_path)


@pytest.mark.parametrize("column", ["text_value", "unit", "numeric_value", "code"])
def test_a_column_of_lists_is_named(tmp_path, column):
    path = write_meds(tmp_path, stay_rows()) / "data/train/0.parquet"
    pl.read_parquet(path).with_columns(pl.col(column).reshape((-1, 1)).arr.to_list()).write_parquet(path)
    with pytest.raises(SourceError, match=rf"data/train/0.parquet: column '{column}' is List.*; convert it"):
        read_all(tmp_path)
