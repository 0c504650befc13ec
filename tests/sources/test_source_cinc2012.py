"""CinC 2012: records, outcomes and their quirks, as a zip or a folder; broken files get one clear error."""

from __future__ import annotations

import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from clinjepa.clinical import load_variables
from clinjepa.config.schema import Config, SourceConfig
from clinjepa.errors import SourceError
from clinjepa.sources.challenges.cinc2012 import Cinc2012Source, load_map
from clinjepa.sources.challenges.cinc2012_records import INTIME, read_outcomes
from clinjepa.sources.schema import SourceTables
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition

RECORD = """Time,Parameter,Value
00:00,RecordID,{number}
00:00,Age,54
00:00,Gender,0
00:00,Height,-1
00:00,ICUType,4
00:00,Weight,80.5
"""
OUTCOMES = "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"


def write_set(folder: Path, lines: dict[int, str], outcomes: str | None = None, letter: str = "a", zipped: bool = True) -> Path:
    """A set with one record per number; `lines` follow the statics."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {f"set-{letter}/{number}.txt": RECORD.format(number=number) + text for number, text in lines.items()}
    if zipped:
        with zipfile.ZipFile(folder / f"set-{letter}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"set-{letter}/", "")
            for name, text in records.items():
                archive.writestr(name, text)
    else:
        (folder / f"set-{letter}").mkdir()
        for name, text in records.items():
            (folder / name).write_text(text)
    rows = "".join(f"{number},6,1,5,-1,0\n" for number in lines) if outcomes is None else outcomes
    (folder / f"Outcomes-{letter}.txt").write_text(OUTCOMES + rows)
    return folder


def read(folder: Path, **settings):
    source = Cinc2012Source(SourceConfig(kind="cinc2012", path=str(folder), num_partitions=1, **settings))
    (partition,) = source.partitions()
    return source.read(partition)


def events(tables, variable):
    hours = lambda event: (event["time"] - INTIME).total_seconds() / 3600  # noqa: E731
    return [(hours(event), event["value"]) for event in tables.events.to_pylist() if event["variable"] == variable]


def test_the_map_names_only_variables_of_the_dictionary():
    named = {name for entry in load_map()["parameters"].values() for name in (entry["variable"], entry.get("also", entry["variable"]))}
    assert named <= load_variables().keys()


def test_a_record_becomes_a_stay_with_missing_statics_null(tmp_path):
    (stay,) = read(write_set(tmp_path, {132539: ""}, "132539,6,1,5,4,1\n")).stays.to_pylist()
    assert (stay["stay_id"], stay["age_years"], stay["sex"], stay["height_cm"], stay["weight_kg"]) == (132539, 54.0, "female", None, 80.5)
    assert (stay["care_unit"], stay["died_in_hospital"], stay["died_in_icu"]) == ("Surgical ICU", True, None)
    assert (stay["outtime"] - stay["intime"]).total_seconds() == 48 * 3600


def test_a_shorter_length_of_stay_ends_the_stay(tmp_path):
    (stay,) = read(write_set(tmp_path, {1: ""}, "1,6,1,1,-1,0\n")).stays.to_pylist()
    assert (stay["outtime"] - stay["intime"]).total_seconds() == 24 * 3600


def test_values_are_mapped_with_their_units(tmp_path):
    tables = read(write_set(tmp_path, {1: "00:37,HR,77\n01:00,FiO2,0.4\n02:00,NISysABP,147\n47:59,K,4.1\n"}))
    assert events(tables, "heart_rate") == [(pytest.approx(37 / 60), 77.0)]
    assert events(tables, "fio2") == [(1.0, 40.0)]
    assert events(tables, "sbp") == events(tables, "sbp_cuff") == [(2.0, 147.0)]
    assert events(tables, "potassium") == [(pytest.approx(47 + 59 / 60), 4.1)]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("01:00,,5", "empty_parameter"),
        ("01:00,SOFA,5", "excluded:outcome"),
        ("01:00,Gender,0", "repeated_static"),
        ("01:00,Mood,5", "unmapped_code"),
        ("soon,HR,80", "bad_time"),
        ("01:00,HR,fast", "non_numeric:heart_rate"),
        ("01:00,MechVent,nan", "non_numeric:invasive_ventilation"),
        ("01:00,MechVent,inf", "non_numeric:invasive_ventilation"),
        ("01:00,MechVent,yes", "non_numeric:invasive_ventilation"),
        ("01:00,MechVent,", "non_numeric:invasive_ventilation"),
        ("01:00,HR,0", "zero_reading:heart_rate"),
        ("01:00,Temp,-17.8", "out_of_range:temperature"),
        ("70:00,HR,80", "outside_stay"),
    ],
)
def test_what_cannot_be_used_is_dropped_and_counted(tmp_path, line, rule):
    tables = read(write_set(tmp_path, {1: line + "\n"}))
    assert (tables.events.num_rows, tables.counts) == (0, {rule: 1})


def test_an_implausible_weight_is_null_and_counted(tmp_path):
    folder = write_set(tmp_path, {1: ""})
    with zipfile.ZipFile(folder / "set-a.zip", "w") as archive:
        archive.writestr("set-a/1.txt", RECORD.format(number=1).replace("80.5", "8000"))
    tables = read(folder)
    assert (tables.stays["weight_kg"].to_pylist(), tables.counts["out_of_range:weight"]) == ([None], 1)


def statics(tmp_path: Path, before: str, after: str = "") -> tuple[dict, SourceTables]:
    """(stay, tables) of a record whose 00:00 rows are `before`, followed by `after`."""
    folder = write_set(tmp_path, {7: ""}, zipped=False)
    (folder / "set-a" / "7.txt").write_text(f"Time,Parameter,Value\n00:00,RecordID,7\n{before}{after}")
    tables = read(folder)
    return tables.stays.to_pylist()[0], tables


@pytest.mark.parametrize("age", ["300", "200", "121", "0"])
def test_an_age_that_stands_for_over_89_is_unknown_and_counted(tmp_path, age):
    stay, tables = statics(tmp_path, f"00:00,Age,{age}\n")
    assert (stay["age_years"], tables.counts) == (None, {"implausible_age": 1})


@pytest.mark.parametrize(
    ("before", "after", "weight", "hours"),
    [
        ("00:00,Weight,70\n", "05:00,Weight,72\n", 70.0, None),
        ("00:00,Weight,-1\n", "05:00,Weight,72\n09:00,Weight,73\n", 72.0, 5.0),
        ("00:00,Weight,0\n", "05:30,Weight,72\n", 72.0, 5.5),
        ("00:00,Weight,7000\n", "05:00,Weight,0\n06:00,Weight,72\n", 72.0, 6.0),
        ("", "09:00,Weight,73\n05:00,Weight,72\n", 72.0, 5.0),
        ("00:00,Weight,-1\n", "soon,Weight,72\n", None, None),
    ],
)
def test_the_weight_is_the_first_plausible_one_and_known_from_its_time(tmp_path, before, after, weight, hours):
    stay, _ = statics(tmp_path, before, after)
    known = None if stay["weight_time"] is None else (stay["weight_time"] - INTIME).total_seconds() / 3600
    assert (stay["weight_kg"], known) == (weight, hours)


def test_a_height_charted_later_is_known_from_then_and_no_repeated_static(tmp_path):
    stay, tables = statics(tmp_path, "00:00,Height,-1\n", "03:00,Height,171\n")
    assert (stay["height_cm"], stay["height_time"] - INTIME, tables.counts) == (171.0, timedelta(hours=3), {})


def test_a_static_after_the_end_of_the_stay_is_not_used(tmp_path):
    folder = write_set(tmp_path, {1: "30:00,Weight,90\n"}, "1,6,1,1,-1,0\n", zipped=False)
    path = folder / "set-a" / "1.txt"
    path.write_text(path.read_text().replace("00:00,Weight,80.5", "00:00,Weight,-1"))
    assert read(folder).stays["weight_kg"].to_pylist() == [None]


def test_age_sex_and_unit_of_a_later_row_hold_from_admission(tmp_path):
    stay, tables = statics(tmp_path, "", "04:00,Age,54\n05:00,Gender,1\n06:00,ICUType,3\n07:00,Age,54\n")
    assert (stay["age_years"], stay["sex"], stay["care_unit"]) == (54.0, "male", "Medical ICU")
    assert tables.counts == {"repeated_static": 1}


def test_an_age_after_the_end_of_the_stay_is_not_used(tmp_path):
    folder = write_set(tmp_path, {7: ""}, "7,6,1,1,-1,0\n", zipped=False)
    (folder / "set-a" / "7.txt").write_text("Time,Parameter,Value\n00:00,RecordID,7\n30:00,Age,54\n")
    assert read(folder).stays["age_years"].to_pylist() == [None]


def test_weights_after_admission_are_a_series(tmp_path):
    tables = read(write_set(tmp_path, {1: "01:00,Weight,81\n02:00,Weight,-1\n03:00,Weight,0\n04:00,Weight,82.4\n05:00,Weight,8000\n"}))
    assert events(tables, "body_weight") == [(1.0, 81.0), (4.0, 82.4)]
    assert tables.counts == {"missing_code:body_weight": 1, "zero_reading:body_weight": 1, "out_of_range:body_weight": 1}


def test_a_weight_is_in_the_text_and_on_the_grid_of_its_hour(tmp_path):
    path = write_set(tmp_path / "in", {1: "01:10,Weight,81\n01:40,Weight,81.5\n" + "".join(f"{h:02d}:00,HR,80\n" for h in range(9))})
    config = Config(source=SourceConfig(kind="cinc2012", path=str(path), num_partitions=1))
    source, out = Cinc2012Source(config.source), Folder(tmp_path / "out")
    build_partition(source, source.partitions()[0], config, out, "00000")
    texts = out.read_table("hours/00000.parquet").to_pylist()[0]["state_texts"]
    assert ["Weight" in text for text in texts[:3]] == [False, True, False]
    assert "Weight: 81 kg. Weight: 81.5 kg." in texts[1]
    assert out.read_table("grid/00000.parquet")["body_weight"].to_pylist()[:3] == [None, 81.5, None]


@pytest.mark.parametrize("zipped", [True, False])
def test_a_record_that_names_another_id_is_refused_with_file_and_line(tmp_path, zipped):
    folder = write_set(tmp_path, {1: "", 2: ""}, zipped=False)
    (folder / "set-a" / "2.txt").write_text(RECORD.format(number=1))
    if zipped:
        with zipfile.ZipFile(folder / "set-a.zip", "w") as archive:
            for path in (folder / "set-a").iterdir():
                archive.write(path, f"set-a/{path.name}")
    message = open_error(folder)
    assert "2.txt, line 2: RecordID is not the number in the file's name (1 such records in this part)" in message


@pytest.mark.parametrize("named", ["1.0", " 1 ", "01"])
def test_the_same_id_in_another_spelling_is_the_same(tmp_path, named):
    folder = write_set(tmp_path, {1: ""}, zipped=False)
    (folder / "set-a" / "1.txt").write_text(RECORD.format(number=named))
    assert read(folder).stays["stay_id"].to_pylist() == [1]


@pytest.mark.parametrize("named", ["1.5", "one", "-1", ""])
def test_an_id_that_is_no_number_is_refused(tmp_path, named):
    folder = write_set(tmp_path, {1: ""}, zipped=False)
    (folder / "set-a" / "1.txt").write_text(RECORD.format(number=named))
    assert "1.txt, line 2: RecordID is not the number" in open_error(folder)


def test_a_record_with_a_second_id_is_refused(tmp_path):
    assert "1.txt, line 8: RecordID is not" in open_error(write_set(tmp_path, {1: "00:00,RecordID,2\n"}))


def test_a_record_without_an_id_is_counted(tmp_path):
    folder = write_set(tmp_path, {1: ""}, zipped=False)
    (folder / "set-a" / "1.txt").write_text(RECORD.replace("00:00,RecordID,{number}\n", ""))
    assert read(folder).counts == {"record_without_id": 1}


@pytest.mark.parametrize("name", ["²", "1" * 30, "1 (1)", "1-checkpoint"])
def test_a_name_that_is_no_record_number_is_refused(tmp_path, name):
    folder = write_set(tmp_path, {1: ""}, zipped=False)
    (folder / "set-a" / f"{name}.txt").write_text(RECORD.format(number=1))
    assert "a record file is named by its number" in open_error(folder)


def test_a_record_without_measurements_is_kept_with_no_events(tmp_path):
    tables = read(write_set(tmp_path, {1: "", 2: "01:00,HR,80\n"}))
    assert (tables.stays.num_rows, tables.events.num_rows) == (2, 1)


def test_a_record_without_outcome_has_none_and_is_counted(tmp_path):
    tables = read(write_set(tmp_path, {1: "", 2: ""}, "1,6,1,5,-1,0\n"))
    assert (tables.stays["died_in_hospital"].to_pylist(), tables.counts["no_outcome"]) == ([False, None], 1)


@pytest.mark.parametrize(
    ("days", "survival", "flag", "died", "rule"),
    [
        (5, -1, 0, False, None),
        (5, 6, 0, False, None),
        (5, 5, 1, True, None),
        (5, 0, 1, True, None),
        (5, 5, 0, None, "impossible_death"),  # died on the day of discharge or before, yet alive
        (5, 0, 0, None, "impossible_death"),
        (5, 6, 1, None, "impossible_death"),  # died in hospital, a day after leaving it
        (5, -1, 1, None, "impossible_death"),
        (5, -23, 0, None, "impossible_death"),  # died before admission
        (-1, 3, 0, False, None),  # an unknown length of stay contradicts neither
        (-1, 3, 1, True, None),
        (-1, -1, 1, None, "impossible_death"),
        (5, -1, -1, None, "no_outcome"),
        (5, -1, 2, None, "unknown_outcome_code"),
        (5, 3, 2, None, "unknown_outcome_code"),
        (5, -1, -7, None, "unknown_outcome_code"),
    ],
)
def test_an_outcome_that_the_file_does_not_say_or_contradicts_is_unknown_and_counted(tmp_path, days, survival, flag, died, rule):
    tables = read(write_set(tmp_path, {1: ""}, f"1,6,1,{days},{survival},{flag}\n"))
    assert (tables.stays["died_in_hospital"].to_pylist(), tables.counts) == ([died], {rule: 1} if rule else {})


def test_an_outcome_file_without_survival_is_read(tmp_path):
    (write_set(tmp_path, {1: ""}) / "Outcomes-a.txt").write_text("RecordID,Length_of_stay,In-hospital_death\n1,5,1\n")
    assert read(tmp_path).stays["died_in_hospital"].to_pylist() == [True]


def test_a_zip_and_a_folder_give_the_same_tables(tmp_path):
    lines = {1: "01:00,HR,80\n", 2: "02:00,MAP,70\n"}
    zipped, unpacked = read(write_set(tmp_path / "a", lines)), read(write_set(tmp_path / "b", lines, zipped=False))
    assert zipped.events.equals(unpacked.events) and zipped.stays.equals(unpacked.stays)


def test_an_object_store_s_address_gives_the_same_tables(tmp_path):
    Folder("memory://cinc").upload(write_set(tmp_path, {1: "01:00,HR,80\n"}))
    source = Cinc2012Source(SourceConfig(kind="cinc2012", path="memory://cinc", num_partitions=1))
    assert source.read(source.partitions()[0]).events.equals(read(tmp_path).events)


def test_a_path_to_one_zip_reads_that_set(tmp_path):
    write_set(tmp_path, {1: ""}, letter="a")
    write_set(tmp_path, {2: ""}, letter="b")
    assert read(tmp_path / "set-b.zip").stays["stay_id"].to_pylist() == [2]


def test_partitions_cover_both_sets_once(tmp_path):
    write_set(tmp_path, dict.fromkeys(range(1, 6), ""), letter="a")
    write_set(tmp_path, dict.fromkeys(range(6, 11), ""), letter="b")
    source = Cinc2012Source(SourceConfig(kind="cinc2012", path=str(tmp_path), num_partitions=3))
    ids = [source.read(partition).stays["stay_id"].to_pylist() for partition in source.partitions()]
    assert ids == [[1, 2, 3], [4, 5, 6], [7, 8, 9, 10]]


def test_subsets_and_max_stays_choose_records(tmp_path):
    write_set(tmp_path, dict.fromkeys(range(1, 6), ""), letter="a")
    write_set(tmp_path, dict.fromkeys(range(6, 11), ""), letter="b")
    assert read(tmp_path, subsets=["b"], max_stays=2).stays["stay_id"].to_pylist() == [6, 7]


def open_error(folder: Path, **settings) -> str:
    with pytest.raises(SourceError) as error:
        read(folder, **settings)
    return str(error.value)


def test_a_missing_zip_says_where_it_is_to_be_had(tmp_path):
    assert "set-a.zip is missing" in open_error(tmp_path) and "physionet.org" in open_error(tmp_path)


def test_a_missing_outcome_file_is_named(tmp_path):
    (write_set(tmp_path, {1: ""}) / "Outcomes-a.txt").unlink()
    assert "Outcomes-a.txt is missing" in open_error(tmp_path)


def test_a_zip_cut_short_is_refused(tmp_path):
    path = write_set(tmp_path, {number: "01:00,HR,80\n" * 50 for number in range(30)}) / "set-a.zip"
    path.write_bytes(path.read_bytes()[:-500])
    assert "set-a.zip: not a whole zip" in open_error(tmp_path)


def test_a_zip_damaged_inside_is_refused(tmp_path):
    path = (
        write_set(tmp_path, {1: "".join(f"{minute // 60:02d}:{minute % 60:02d},HR,{60 + minute % 40}\n" for minute in range(2000))})
        / "set-a.zip"
    )
    content = bytearray(path.read_bytes())
    content[200:260] = bytes(60)
    path.write_bytes(bytes(content))
    assert "set-a.zip: not a whole zip" in open_error(tmp_path)


def test_a_record_that_is_not_utf8_is_named_with_the_byte(tmp_path):
    with zipfile.ZipFile(write_set(tmp_path, {1: ""}) / "set-a.zip", "w") as archive:
        archive.writestr("set-a/1.txt", b"Time,Parameter,Value\n00:00,Age,\xff\n")
    assert "set-a.zip/set-a/1.txt: byte 31 is not UTF-8" in open_error(tmp_path)


def test_a_record_without_its_header_is_refused(tmp_path):
    with zipfile.ZipFile(write_set(tmp_path, {1: ""}) / "set-a.zip", "w") as archive:
        archive.writestr("set-a/1.txt", "00:00,Age,54\n")
    assert "line 1 is not the header 'Time,Parameter,Value'" in open_error(tmp_path)


def test_a_line_with_too_few_fields_is_named(tmp_path):
    message = open_error(write_set(tmp_path, {1: "01:00,HR,80\n01:30;HR;80\n"}))
    assert "set-a/1.txt, line 9: not the 3 fields" in message


def test_a_record_number_in_two_sets_is_refused(tmp_path):
    write_set(tmp_path, {1: ""}, letter="a")
    write_set(tmp_path, {1: ""}, letter="b")
    assert "1 record numbers occur twice, one of them by a second 1.txt; every stay needs a unique number" in open_error(tmp_path)


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ("1,6,1,5,-1,0\n1,6,1,5,-1,1\n", "lines 2 and 3 have the same RecordID"),
        ("1,6,1,long,-1,0\n", "line 2, column 'Length_of_stay': not a whole number"),
        ("1,6,1,5,late,0\n", "line 2, column 'Survival': not a whole number"),
        ("1,6,1,1e1,-1,0\n", "line 2, column 'Length_of_stay': not a whole number"),
        ("1,6,1,1.5,-1,0\n", "line 2, column 'Length_of_stay': not a whole number"),
        ("\n,,,,,\n1,6,1,5,-1,0\n\n2,6,1,long,-1,0\n", "line 6, column 'Length_of_stay': not a whole number"),
        ("\n1,6,1,5,-1,0\n\n1,6,1,5,-1,0\n", "lines 3 and 5 have the same RecordID"),
        ("1,6,1,5,-1,0\n2,6,1\n", "line 3 ends before its last column"),
        (",6,1,5,-1,0\n", "line 2, column 'RecordID': not a whole number"),
        ("NA,6,1,5,-1,0\n", "line 2, column 'RecordID': not a whole number"),
    ],
)
def test_a_broken_outcome_row_is_named_by_its_line(tmp_path, outcomes, message):
    assert f"Outcomes-a.txt: {message}" in open_error(write_set(tmp_path, {1: ""}, outcomes))


@pytest.mark.parametrize("empty", ["", " ", "NA", "NaN", "null", '""'])
def test_an_empty_cell_of_the_outcomes_is_unknown(empty):
    rows = f"1,6,1,{empty},-1,0\n2,6,1,5,{empty},1\n3,6,1,5,-1,{empty}\n4,6,1,{empty},{empty},{empty}\n"
    found = read_outcomes((OUTCOMES + rows).encode(), "Outcomes-a.txt")
    assert found.rows() == [(1, None, False, None), (2, 5, True, None), (3, 5, None, "no_outcome"), (4, None, None, "no_outcome")]


def test_an_outcome_file_without_a_column_is_refused(tmp_path):
    folder = write_set(tmp_path, {1: ""})
    (folder / "Outcomes-a.txt").write_text("RecordID,Length_of_stay\n1,5\n")
    assert "Outcomes-a.txt: column 'In-hospital_death' is missing" in open_error(folder)


@pytest.mark.parametrize(
    ("header", "row"),
    [
        ("RecordID,In-hospital_death,SOFA,Length_of_stay,Survival,In-hospital_death", "1,0,1,5,-1,1"),
        ("RecordID,In-hospital_death,SOFA,Length_of_stay,Survival, In-hospital_death ", "1,0,1,5,-1,1"),
        ('"RecordID","Length_of_stay","Survival","In-hospital_death","Length_of_stay"', "1,5,-1,0,6"),
    ],
)
def test_an_outcome_column_that_occurs_twice_is_refused(tmp_path, header, row):
    folder = write_set(tmp_path, {1: ""})
    (folder / "Outcomes-a.txt").write_text(f"{header}\n{row}\n")
    message = open_error(folder)
    assert "Outcomes-a.txt: column '" in message and "occurs twice; remove one" in message


@pytest.mark.parametrize("line", ["00:00,Gender,1", "12:00,Age,55", "03:30,ICUType,1"])
def test_a_record_with_another_age_sex_or_unit_is_refused(tmp_path, line):
    message = open_error(write_set(tmp_path, {1: "", 2: f"{line}\n"}, zipped=False))
    name = line.split(",")[1]
    assert f"line 8: another {name} than in the rows before; these are rows of two patients (1 such records in this part)" in message
    assert "set-a/2.txt" in message


def test_a_constant_that_is_unknown_or_the_same_again_is_no_contradiction(tmp_path):
    folder = write_set(tmp_path, {1: "00:00,Gender,-1\n05:00,Age,54.0\n06:00,ICUType,\n"}, zipped=False)
    assert read(folder).stays.num_rows == 1


HEADERLESS = {
    "no header": ("132539,6,1,5,-1,0\n132540,16,8,8,-1,0\n", "none of its 6 names is a column of this table; is the header missing?"),
    "another table": ("RecordID,SAPS-I,132539 Miller\n1,2,3\n", "found: RecordID, SAPS-I and 1 others"),
}


@pytest.mark.parametrize(("content", "found"), HEADERLESS.values(), ids=list(HEADERLESS))
def test_a_header_that_is_none_is_not_quoted(tmp_path, content, found):
    folder = write_set(tmp_path, {1: ""})
    (folder / "Outcomes-a.txt").write_text(content)
    message = open_error(folder)
    assert found in message and "13254" not in message and "132539" not in message and len(message) < 300 + len(str(tmp_path))


def test_an_empty_set_is_refused(tmp_path):
    assert "hold no .txt records" in open_error(write_set(tmp_path, {}))


@pytest.mark.parametrize(
    ("parameter", "raw", "column", "rule"),
    [
        ("Gender", "2", "sex", "unknown_sex"),
        ("Gender", "F", "sex", "unknown_sex"),
        ("Gender", "-1", "sex", None),
        ("ICUType", "9", "care_unit", "unknown_care_unit"),
        ("ICUType", "-1", "care_unit", None),
    ],
)
def test_an_unknown_code_of_a_static_is_null_and_counted(tmp_path, parameter, raw, column, rule):
    known = {"Gender": "00:00,Gender,0", "ICUType": "00:00,ICUType,4"}[parameter]
    folder = write_set(tmp_path, {1: ""}, zipped=False)
    path = folder / "set-a/1.txt"
    path.write_text(path.read_text().replace(known, f"00:00,{parameter},{raw}"))
    tables = read(folder)
    assert (tables.stays[column].to_pylist(), tables.counts) == ([None], {} if rule is None else {rule: 1})
