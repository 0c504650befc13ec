"""CinC 2019: hourly records with their label, as a zip or a folder; broken files get one clear error."""

from __future__ import annotations

import zipfile
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from clinjepa.clinical import excluded_by, load_variables
from clinjepa.config.schema import Config, SourceConfig
from clinjepa.errors import SourceError
from clinjepa.sources import open_source
from clinjepa.sources.challenges.cinc2019 import COLUMNS, load_map
from clinjepa.sources.challenges.cinc2019_records import INTIME
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition

HEADER = "|".join(COLUMNS)
STATICS = {"Age": "61.5", "Gender": "1", "Unit1": "0", "Unit2": "1", "HospAdmTime": "-2.5", "SepsisLabel": "0"}


def row(hour: int, **values: str) -> str:
    """One line of a record: hour is ICULOS, what is not given is NaN."""
    fields = dict.fromkeys(COLUMNS, "NaN") | STATICS | {"ICULOS": str(hour)} | values
    return "|".join(fields[name] for name in COLUMNS)


def write_set(folder: Path, records: dict[int, list[str]], letter: str = "A", zipped: bool = True, header: str = HEADER) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    files = {f"training_set{letter}/p{number:06d}.psv": "\n".join([header, *rows]) + "\n" for number, rows in records.items()}
    if zipped:
        with zipfile.ZipFile(folder / f"training_set{letter}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"training_set{letter}/", "")
            for name, text in files.items():
                archive.writestr(name, text)
    else:
        (folder / f"training_set{letter}").mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    return folder


def source_of(path: Path | str, **settings):
    return open_source(SourceConfig(**{"kind": "cinc2019", "path": str(path), "num_partitions": 1, **settings}))


def read(path: Path | str, **settings):
    source = source_of(path, **settings)
    (partition,) = source.partitions()
    return source.read(partition)


def events(tables, variable: str) -> list[tuple[float, float]]:
    """(hours after admission, value)"""
    return [((e["time"] - INTIME).total_seconds() / 3600, e["value"]) for e in tables.events.to_pylist() if e["variable"] == variable]


def test_the_map_names_every_column_once_and_only_variables_of_the_dictionary():
    mapping = load_map()
    assert {entry["variable"] for entry in mapping["columns"].values()} <= load_variables().keys()
    named = [*mapping["columns"], *mapping["statics"], *mapping["care_units"], mapping["hour"], mapping["label"]["column"]]
    assert sorted(named) == sorted(COLUMNS)


def test_a_record_becomes_a_stay_of_one_patient(tmp_path):
    (stay,) = read(write_set(tmp_path, {7126: [row(1), row(2)]})).stays.to_pylist()
    assert (stay["stay_id"], stay["subject_id"], stay["stay_number_in_admission"]) == (7126, 7126, 1)
    assert (stay["age_years"], stay["sex"], stay["care_unit"], stay["died_in_hospital"]) == (61.5, "male", "Surgical ICU", None)


def test_the_row_of_iculos_k_is_hour_k_minus_1(tmp_path):
    tables = read(write_set(tmp_path, {1: [row(3, HR="80"), row(4, HR="81"), row(6, HR="82")]}))
    assert events(tables, "heart_rate") == [(2.0, 80.0), (3.0, 81.0), (5.0, 82.0)]


def test_a_stay_ends_with_its_last_row(tmp_path):
    (stay,) = read(write_set(tmp_path, {1: [row(3), row(6)]})).stays.to_pylist()
    assert stay["outtime"] - stay["intime"] == timedelta(hours=6)


def test_units_are_brought_to_those_of_the_dictionary(tmp_path):
    tables = read(write_set(tmp_path, {1: [row(1, FiO2="0.4", Lactate="2.1", WBC="9.5", SaO2="97")]}))
    values = {name: events(tables, name)[0][1] for name in ("fio2", "lactate", "wbc", "sao2")}
    assert values == {"fio2": 40.0, "lactate": 2.1, "wbc": 9.5, "sao2": 97.0}


def test_age_sex_and_unit_of_a_later_row_hold_from_admission(tmp_path):
    absent = {"Age": "NaN", "Gender": "NaN", "Unit1": "NaN", "Unit2": "NaN", "HospAdmTime": "NaN"}
    tables = read(write_set(tmp_path, {1: [*(row(hour, **absent) for hour in range(1, 6)), row(6), row(7)]}))
    (stay,) = tables.stays.to_pylist()
    assert (stay["age_years"], stay["sex"], stay["care_unit"]) == (61.5, "male", "Surgical ICU")
    assert stay["intime"] - stay["hospital_admission_time"] == timedelta(hours=2.5)


def test_a_field_that_is_not_measured_gives_no_event(tmp_path):
    tables = read(write_set(tmp_path, {1: [row(1, HR="", MAP="NaN")]}))
    assert (tables.events["variable"].unique().to_pylist(), tables.counts) == (["sepsis_label"], {})


def test_the_label_stands_in_the_hour_of_its_row(tmp_path):
    tables = read(write_set(tmp_path, {1: [row(1), row(2, SepsisLabel="1")]}))
    assert (events(tables, "sepsis_label"), tables.stays["sepsis"].to_pylist()) == ([(0.0, 0.0), (1.0, 1.0)], [True])


def test_a_stay_without_a_positive_hour_is_not_septic(tmp_path):
    assert read(write_set(tmp_path, {1: [row(1), row(2)]})).stays["sepsis"].to_pylist() == [False]


@pytest.mark.parametrize(
    ("field", "rule"),
    [({"HR": "fast"}, "non_numeric:heart_rate"), ({"Temp": "-17.8"}, "out_of_range:temperature"), ({"Age": "200"}, "implausible_age")],
)
def test_what_cannot_be_used_is_dropped_and_counted(tmp_path, field, rule):
    assert read(write_set(tmp_path, {1: [row(1, **field)]})).counts == {rule: 1}


def test_a_child_s_age_is_kept_for_the_cohort_to_decide(tmp_path):
    tables = read(write_set(tmp_path, {1: [row(1, Age="15")]}))
    assert (tables.stays["age_years"].to_pylist(), tables.counts) == ([15.0], {})


def test_a_static_that_is_missing_in_a_row_is_no_other_patient_s(tmp_path):
    assert read(write_set(tmp_path, {1: [row(1), row(2, Age="NaN")]})).stays["age_years"].to_pylist() == [61.5]


def test_a_record_without_a_row_is_dropped_and_counted(tmp_path):
    tables = read(write_set(tmp_path, {1: [], 2: [row(1)]}))
    assert (tables.stays["stay_id"].to_pylist(), tables.counts) == ([2], {"empty_record": 1})


def test_the_label_is_on_the_grid_but_in_no_text(tmp_path):
    """The excluded column reaches labels only: not a word of it is in a text, septic or not."""
    rows = [row(hour, HR="80", SepsisLabel=str(int(hour > 4))) for hour in range(1, 9)]
    config = Config(source=SourceConfig(kind="cinc2019", path=str(write_set(tmp_path / "in", {1: rows})), num_partitions=1))
    source = open_source(config.source)
    out = Folder(tmp_path / "out")
    build_partition(source, source.partitions()[0], config, out, "00000")
    texts = out.read_table("hours/00000.parquet").to_pylist()[0]
    assert out.read_table("grid/00000.parquet")["sepsis_label"].to_pylist() == [0.0] * 4 + [1.0] * 4
    assert [text.split(" | ")[1] for text in texts["state_texts"]] == ["Heart Rate: 80 bpm."] * 8
    assert "sepsis" not in " ".join([texts["static_text"], *texts["state_texts"], *texts["action_texts"]]).casefold()


def test_the_label_column_is_excluded_and_its_variable_in_no_text():
    label = load_map()["label"]
    assert (excluded_by(label["column"]), load_variables()[label["variable"]].role) == ("sepsis_label", "label_only")


def test_zip_folder_and_bare_files_give_the_same_tables(tmp_path):
    records = {1: [row(1, HR="80")], 2: [row(1, MAP="70")]}
    zipped, unpacked = write_set(tmp_path / "a", records), write_set(tmp_path / "b", records, zipped=False)
    (tmp_path / "c").mkdir()
    for path in (unpacked / "training_setA").iterdir():
        (tmp_path / "c" / path.name).write_bytes(path.read_bytes())
    wanted = read(zipped)
    for path in (zipped / "training_setA.zip", unpacked, unpacked / "training_setA", tmp_path / "c"):
        found = read(path)
        assert found.events.equals(wanted.events) and found.stays.equals(wanted.stays)


def test_partitions_cover_both_sets_once_and_never_share_a_patient(tmp_path):
    write_set(tmp_path, {number: [row(1)] for number in range(1, 6)}, "A")
    write_set(tmp_path, {100_000 + number: [row(1)] for number in range(1, 6)}, "B")
    source = source_of(tmp_path, num_partitions=3)
    ids = [source.read(partition).stays["subject_id"].to_pylist() for partition in source.partitions()]
    assert ids == [[1, 2, 3], [4, 5, 100_001], [100_002, 100_003, 100_004, 100_005]]


def test_subsets_and_max_stays_choose_records(tmp_path):
    write_set(tmp_path, {number: [row(1)] for number in range(1, 6)}, "A")
    write_set(tmp_path, {100_000 + number: [row(1)] for number in range(1, 6)}, "B")
    assert read(tmp_path, subsets=["b"], max_stays=2).stays["stay_id"].to_pylist() == [100_001, 100_002]


def test_another_content_has_another_digest(tmp_path):
    one, other = write_set(tmp_path / "a", {1: [row(1, HR="80")]}), write_set(tmp_path / "b", {1: [row(1, HR="81")]})
    assert source_of(one).content_digest() != source_of(other).content_digest()


def error(path: Path, **settings) -> str:
    with pytest.raises(SourceError) as raised:
        read(path, **settings)
    return str(raised.value)


def test_a_missing_zip_says_where_it_is_to_be_had(tmp_path):
    assert "training_setA.zip is missing" in error(tmp_path) and "physionet.org" in error(tmp_path)


def test_a_zip_cut_short_is_refused(tmp_path):
    path = write_set(tmp_path, {number: [row(hour) for hour in range(1, 30)] for number in range(20)}) / "training_setA.zip"
    path.write_bytes(path.read_bytes()[:-400])
    assert "training_setA.zip: not a whole zip" in error(tmp_path)


def test_a_missing_column_is_named(tmp_path):
    header = HEADER.replace("|Lactate", "")
    assert "training_setA.zip/training_setA/p000001.psv: line 1: column 'Lactate' is missing" in error(
        write_set(tmp_path, {1: [row(1)]}, header=header)
    )


def test_another_header_is_refused(tmp_path):
    assert "line 1 is not the header 'HR|O2Sat" in error(write_set(tmp_path, {1: ["00:00,Age,54"]}, header="Time,Parameter,Value"))


def test_an_empty_file_is_named(tmp_path):
    path = write_set(tmp_path, {1: [row(1)]}, zipped=False)
    (path / "training_setA" / "p000001.psv").write_bytes(b"")
    assert "training_setA/p000001.psv: the file is empty" in error(path)


def test_a_line_with_too_few_fields_is_named(tmp_path):
    assert "p000001.psv, line 3: not the 41 fields" in error(write_set(tmp_path, {1: [row(1), "80|97|37"]}))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1), row(2, SepsisLabel="2")], "line 3, column 'SepsisLabel': neither 0 nor 1"),
        ([row(1, SepsisLabel="NaN")], "line 2, column 'SepsisLabel': neither 0 nor 1"),
        ([row(0)], "line 2, column 'ICULOS': not a whole hour of at least 1"),
        ([row(1, ICULOS="soon")], "line 2, column 'ICULOS': not a whole hour of at least 1"),
        ([row(2), row(2)], "line 3, column 'ICULOS': not later than the hour of the row before"),
        ([row(1), row(2), row(3, Age="70")], "line 4, column 'Age': another value than in the rows before; these are rows of two patients"),
        ([row(1), row(2, Gender="0")], "line 3, column 'Gender': another value than in the rows before"),
    ],
)
def test_a_row_that_cannot_be_placed_is_named_by_line_and_column(tmp_path, rows, message):
    assert message in error(write_set(tmp_path, {1: rows}))


def test_a_message_never_holds_a_value_of_a_record(tmp_path):
    assert "61.5" not in error(write_set(tmp_path, {1: [row(1, SepsisLabel="2")]}))


def test_a_foreign_file_name_is_refused(tmp_path):
    path = write_set(tmp_path, {1: [row(1)]}, zipped=False)
    (path / "training_setA" / "notes.psv").write_text("hello")
    assert "notes.psv: a record file's name is p and its number" in error(path)


def test_a_record_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    path = write_set(tmp_path, {1: [row(1)]}, zipped=False)
    (path / "training_setA" / "p000001.psv").write_bytes(HEADER.encode() + b"\n\xff")
    assert f"p000001.psv: byte {len(HEADER) + 1} is not UTF-8" in error(path)


def test_the_schema_of_stays_is_filled_whatever_columns_it_has(tmp_path):
    stays = pl.from_arrow(read(write_set(tmp_path, {1: [row(1)]})).stays)
    assert (stays["hadm_id"].null_count(), stays["source_split"].null_count()) == (1, 1)


@pytest.mark.parametrize("zipped", [True, False])
def test_hours_of_few_records_are_known_before_they_are_read(tmp_path: Path, zipped: bool) -> None:
    for letter, first in (("A", 1), ("B", 100001)):
        write_set(tmp_path, {first + at: [row(hour + 1) for hour in range(9 + at)] for at in range(5)}, letter, zipped)
    counts = source_of(tmp_path).stay_counts()
    assert counts == (10, 10, 110, 110) and source_of(tmp_path, max_stays=2).stay_counts() == (2, 2, 19, 19)


def test_hours_of_many_records_lie_in_the_range_of_a_sample(tmp_path: Path) -> None:
    lengths = {number: 6 + (number * 37) % 90 for number in range(1, 1001)}
    write_set(tmp_path, {number: [row(hour + 1) for hour in range(length)] for number, length in lengths.items()})
    counts = source_of(tmp_path).stay_counts()
    assert counts.least_stays == counts.most_stays == 1000
    assert counts.least_hours < sum(lengths.values()) < counts.most_hours < 1.5 * counts.least_hours


@pytest.mark.parametrize(
    ("values", "column", "value", "rule"),
    [
        ({"Unit1": "1", "Unit2": "1"}, "care_unit", None, "unknown_care_unit"),
        ({"Unit1": "7", "Unit2": "NaN"}, "care_unit", None, "unknown_care_unit"),
        ({"Unit1": "NaN", "Unit2": "NaN"}, "care_unit", None, None),
        ({"Unit1": "1", "Unit2": "0"}, "care_unit", "Medical ICU", None),
        ({"Gender": "3"}, "sex", None, "unknown_sex"),
        ({"HospAdmTime": "-1e7"}, "hospital_admission_time", None, "implausible_admission_time"),
        ({"HospAdmTime": "1e300"}, "hospital_admission_time", None, "implausible_admission_time"),
    ],
)
def test_a_static_that_cannot_be_is_null_and_counted(tmp_path, values, column, value, rule):
    tables = read(write_set(tmp_path, {1: [row(1, **values), row(2, **values)], 2: [row(1)]}))
    assert (tables.stays[column].to_pylist()[0], tables.counts) == (value, {} if rule is None else {rule: 1})
    assert tables.stays[column].to_pylist()[1] is not None


def test_an_hour_that_no_stay_has_is_refused(tmp_path):
    assert read(write_set(tmp_path / "late", {1: [row(1), row(9999)]})).stays.num_rows == 1
    with pytest.raises(SourceError, match="line 3, column 'ICULOS': an hour after 10000, which no stay has; get the file again"):
        read(write_set(tmp_path, {1: [row(1), row(10001)]}))


def test_a_label_that_is_taken_back_is_counted(tmp_path):
    positive = {"SepsisLabel": "1"}
    tables = read(write_set(tmp_path, {1: [row(1), row(2, **positive), row(3)], 2: [row(1), row(2, **positive)]}))
    assert (tables.stays["sepsis"].to_pylist(), tables.counts) == ([True, True], {"label_taken_back": 1})
