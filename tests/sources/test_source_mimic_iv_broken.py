"""Broken MIMIC-IV folders: handled by a rule and counted, or one error with file, row, column and remedy, and never a patient."""

from __future__ import annotations

import gzip

import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ClinJepaError, SourceError
from clinjepa.sources.extraction import item_report
from clinjepa.sources.mimic_iv.source import MimicIvSource
from clinjepa.storage import Folder
from tests.support.data.mimic_iv_examples import (
    INSIDE,
    as_csv,
    at,
    chart,
    events_of,
    hospital,
    infusion,
    lab,
    read_all,
    write_mimic,
    write_table,
)

RATES = [chart(220045, hours / 60, 60 + hours % 40, "bpm") for hours in range(1500)]


def open_source(folder):
    return MimicIvSource(SourceConfig(kind="mimic_iv", path=str(folder)))


def test_a_missing_folder_says_where_the_open_demo_is(tmp_path):
    with pytest.raises(SourceError, match="nowhere: no such folder, or nothing in it; .*physionet.org/content/mimic-iv-demo"):
        open_source(tmp_path / "nowhere")


def test_a_folder_one_too_high_names_the_one_to_give(tmp_path):
    write_mimic(tmp_path / "3.1")
    with pytest.raises(SourceError, match="set source.path=.*/3.1"):
        open_source(tmp_path)


def test_mimic_iii_is_told_apart_by_its_folder(tmp_path):
    (tmp_path / "CHARTEVENTS.csv.gz").write_bytes(b"")
    with pytest.raises(SourceError, match="this is MIMIC-III"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("table", "header"),
    [
        ("d_items", "ITEMID,LABEL,DBSOURCE,LINKSTO,CATEGORY,CONCEPTID"),
        ("icustays", "ROW_ID,SUBJECT_ID,HADM_ID,ICUSTAY_ID,DBSOURCE,FIRST_CAREUNIT,INTIME,OUTTIME,LOS"),
    ],
)
def test_mimic_iii_is_told_apart_by_its_columns(tmp_path, table, header):
    write_table(write_mimic(tmp_path), table, f"{header}\n".encode())
    with pytest.raises(SourceError, match=rf"{table}.csv.gz: this is MIMIC-III"):
        open_source(tmp_path).content_digest()


def test_a_needed_table_that_is_not_there_is_named(tmp_path):
    write_mimic(tmp_path, absent=("labevents",))
    with pytest.raises(SourceError, match="hosp/labevents.csv.gz is missing; get the whole of hosp/ and icu/"):
        open_source(tmp_path)


def test_a_needed_table_of_another_packing_is_named_as_it_is(tmp_path):
    write_mimic(tmp_path, absent=("labevents",))
    (tmp_path / "hosp/labevents.csv.zst").write_bytes(b"\x28\xb5\x2f\xfd")
    with pytest.raises(
        SourceError, match=r"labevents.csv.gz is missing \(found: labevents.csv.zst; write it as .csv or .csv.gz\); get the"
    ):
        open_source(tmp_path)


def test_tables_that_a_hospital_lacks_are_counted(tmp_path):
    tables = read_all(
        write_mimic(tmp_path, {"chartevents": RATES[:3]}, absent=("emar", "microbiologyevents", "prescriptions", "diagnoses_icd"))
    )
    assert {rule for rule in tables.counts if rule.startswith("table_missing")} == {
        f"table_missing:{name}" for name in ("emar", "microbiologyevents", "prescriptions", "diagnoses_icd")
    }
    assert tables.events.num_rows == 3


def test_an_empty_table_is_counted(tmp_path):
    tables = read_all(write_mimic(tmp_path, {"chartevents": RATES[:3]}))
    assert (tables.counts["empty_table:labevents"], tables.events.num_rows) == (1, 3)


@pytest.mark.parametrize("table", ["icustays", "patients", "admissions", "d_items"])
def test_without_stays_patients_or_admissions_nothing_is_read(tmp_path, table):
    write_table(write_mimic(tmp_path), table, as_csv(table, []))
    with pytest.raises(SourceError, match=f"{table}.csv.gz: there is a header but no row"):
        read_all(tmp_path)


def test_a_file_of_no_bytes_is_refused(tmp_path):
    write_table(write_mimic(tmp_path), "labevents", b"", packed=True)
    with pytest.raises(SourceError, match="hosp/labevents.csv.gz: the file is empty, its first line has no header"):
        read_all(tmp_path)


def test_a_missing_column_is_named_with_its_file_and_what_was_found(tmp_path):
    header = ["subject_id", "stay_id", "charttime", "itemid", "value", "valueuom"]
    write_table(write_mimic(tmp_path), "chartevents", as_csv("chartevents", RATES[:3], header))
    with pytest.raises(
        SourceError, match=r"icu/chartevents.csv.gz, row 1: column 'valuenum' is missing \(found: subject_id, stay_id, .*2.0 to 3.1"
    ):
        read_all(tmp_path)


@pytest.mark.parametrize(("separator", "name"), [(b";", "semicolons"), (b"\t", "tabs"), (b"|", "bars")])
def test_a_wrong_separator_is_named(tmp_path, separator, name):
    write_table(write_mimic(tmp_path), "chartevents", as_csv("chartevents", RATES[:3]).replace(b",", separator))
    with pytest.raises(SourceError, match=f"icu/chartevents.csv.gz, row 1: columns are separated by {name}, commas are needed"):
        read_all(tmp_path)


def test_a_column_that_stands_there_twice_is_refused(tmp_path):
    header = ["subject_id", "stay_id", "charttime", "itemid", "value", "valuenum", "valueuom", "valuenum"]
    write_table(write_mimic(tmp_path), "chartevents", as_csv("chartevents", RATES[:3], header))
    with pytest.raises(SourceError, match="icu/chartevents.csv.gz, row 1: column 'valuenum' occurs twice"):
        read_all(tmp_path)


def test_columns_without_use_may_have_any_names(tmp_path):
    """As a table program writes them: commas at the end of every line, the header's too."""
    content = b"".join(line + b",,\n" for line in as_csv("chartevents", RATES[:3]).splitlines())
    write_table(write_mimic(tmp_path), "chartevents", content)
    assert read_all(tmp_path).events.num_rows == 3


def test_a_decimal_comma_does_not_move_values_into_other_columns(tmp_path):
    header, *rows = as_csv("labevents", [lab(50971, hour, 4, "mEq/L") for hour in range(300)]).decode().splitlines()
    valuenum = header.split(",").index("valuenum")
    fields = rows[200].split(",")
    rows[200] = ",".join([*fields[:valuenum], "6,2", *fields[valuenum + 1 :]])
    write_table(write_mimic(tmp_path), "labevents", "\n".join([header, *rows, ""]).encode())
    with pytest.raises(SourceError, match=r"labevents.csv.gz, row 202: \d+ fields, the header has \d+"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (gzip.compress(as_csv("labevents", []), mtime=0), "the file is packed with gzip; name it .csv.gz"),
        (as_csv("labevents", []).decode().encode("utf-16"), "the file is UTF-16; export the table as UTF-8"),
        (as_csv("labevents", []).replace(b",", b"^"), "row 1: columns are separated by carets"),
    ],
    ids=["packed", "utf-16", "carets"],
)
def test_another_encoding_packing_or_delimiter_is_named(tmp_path, content, words):
    write_mimic(tmp_path, absent=("labevents",))
    (tmp_path / "hosp/labevents.csv").write_bytes(content)
    with pytest.raises(SourceError, match=f"labevents.csv.*{words}"):
        read_all(tmp_path)


def test_headers_in_capitals_and_other_line_ends_are_read(tmp_path):
    content = as_csv("chartevents", RATES[:3])
    head, _, body = content.partition(b"\n")
    write_table(write_mimic(tmp_path), "chartevents", b"\xef\xbb\xbf" + (head.upper() + b"\n" + body).replace(b"\n", b"\r\n"))
    assert len(events_of(read_all(tmp_path), "heart_rate")) == 3


def test_an_unpacked_csv_is_read(tmp_path):
    write_mimic(tmp_path)
    (tmp_path / "icu/chartevents.csv.gz").unlink()
    write_table(tmp_path, "chartevents", as_csv("chartevents", RATES[:3]), packed=False)
    assert len(events_of(read_all(tmp_path), "heart_rate")) == 3


def test_a_packed_table_cut_short_is_refused(tmp_path):
    write_mimic(tmp_path, {"chartevents": RATES})
    path = tmp_path / "icu/chartevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(
        SourceError, match=r"icu/chartevents.csv.gz: not a complete gzip file after row \d+ .*cut short or altered, get it again"
    ):
        read_all(tmp_path)


def test_a_table_that_is_no_gzip_is_refused(tmp_path):
    write_mimic(tmp_path)
    (tmp_path / "icu/chartevents.csv.gz").write_bytes(as_csv("chartevents", RATES[:3]))
    with pytest.raises(SourceError, match="icu/chartevents.csv.gz: not a complete gzip file"):
        read_all(tmp_path)


def test_an_unpacked_table_cut_short_is_refused(tmp_path):
    write_mimic(tmp_path)
    (tmp_path / "icu/chartevents.csv.gz").unlink()
    write_table(tmp_path, "chartevents", as_csv("chartevents", RATES)[:-12], packed=False)
    with pytest.raises(SourceError, match="icu/chartevents.csv: the last row ends in the middle; the file was cut short"):
        read_all(tmp_path)


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"valuenum": "eighty"}, "row 4: the value of column 'valuenum' is not a number"),
        ({"itemid": "HR"}, "row 4: the value of column 'itemid' is not an integer"),
        ({"charttime": "03/01/2150 12:00"}, "row 4: the value of column 'charttime' is not a time of the form YYYY-MM-DD HH:MM:SS"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_row_and_without_the_value(tmp_path, row, what):
    write_mimic(tmp_path, {"chartevents": [*RATES[:2], RATES[2] | row, *RATES[3:6]]})
    with pytest.raises(SourceError, match=f"icu/chartevents.csv.gz, {what}") as error:
        read_all(tmp_path)
    assert str(next(iter(row.values()))) not in str(error.value)


def test_a_row_with_too_many_fields_is_refused_with_its_number(tmp_path):
    lines = as_csv("chartevents", RATES[:5]).splitlines(keepends=True)
    lines[3] = lines[3].rstrip() + b",1,2,3\n"
    write_table(write_mimic(tmp_path), "chartevents", b"".join(lines))
    with pytest.raises(SourceError, match="icu/chartevents.csv.gz, row 4: 12 fields, the header has 9"):
        read_all(tmp_path)


def test_a_quotation_mark_that_is_never_closed_is_refused(tmp_path):
    write_mimic(tmp_path, {"chartevents": [RATES[0], *RATES[2:]]})
    content = as_csv("chartevents", RATES).replace(b"\n1,11,2150-03-01 10:01:00,", b'\n1,"11,2150-03-01 10:01:00,')
    write_table(tmp_path, "chartevents", content)
    with pytest.raises(SourceError, match="icu/chartevents.csv.gz: (the last row ends in the middle|a quotation mark is never closed)"):
        read_all(tmp_path)


def test_bytes_that_are_not_utf_8_are_replaced_and_counted(tmp_path):
    rows = [chart(228332, 2, text="Negative"), chart(228332, 3, text="Posit#ve")]
    write_table(write_mimic(tmp_path), "chartevents", as_csv("chartevents", rows).replace(b"#", b"\xef"))
    tables = read_all(tmp_path)
    assert tables.counts["invalid_utf8:chartevents"] == 1
    assert [event["text"] for event in events_of(tables, "delirium_assessment")] == ["Negative", "Posit\ufffdve"]


def test_commas_quotes_and_line_breaks_inside_quotes_are_text(tmp_path):
    text = 'said "no",\nthen\nslept'
    tables = read_all(write_mimic(tmp_path, {"chartevents": [chart(228332, 2, text=text), RATES[200]]}))
    assert [event["text"] for event in events_of(tables, "delirium_assessment")] == [text]
    assert len(events_of(tables, "heart_rate")) == 1


def test_a_stay_given_twice_word_for_word_counts_once(tmp_path):
    base = hospital()
    base["icustays"] *= 2
    tables = read_all(write_mimic(tmp_path, base=base))
    assert (tables.stays.num_rows, tables.counts["duplicate_row"]) == (1, 1)


@pytest.mark.parametrize(("table", "column"), [("icustays", "stay_id"), ("patients", "subject_id"), ("admissions", "hadm_id")])
def test_an_id_with_two_different_rows_is_refused_without_naming_it(tmp_path, table, column):
    base = hospital(stay=987654)
    change = {"icustays": {"outtime": at(31)}, "patients": {"gender": "M"}, "admissions": {"race": "ASIAN"}}[table]
    base[table].append(base[table][0] | change)
    with pytest.raises(SourceError, match=rf"{table}.csv.gz, row 3: column '{column}' repeats an id with different content") as error:
        read_all(write_mimic(tmp_path, base=base))
    assert "987654" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"outtime": at(-2)}, "stay_end_before_start"), ({"outtime": None}, "stay_without_end"), ({"stay_id": None}, "stay_without_id")],
)
def test_an_unusable_stay_is_dropped_and_counted(tmp_path, change, rule):
    base = hospital()
    for name, rows in hospital(subject=2, stay=12).items():
        if not name.startswith("d_"):
            base[name] += rows
    base["icustays"][1] |= change
    tables = read_all(write_mimic(tmp_path, base=base))
    assert tables.stays["stay_id"].to_pylist() == [11]


def test_unusable_stays_of_a_known_patient_are_counted(tmp_path):
    base = hospital()
    base["icustays"] += [base["icustays"][0] | {"stay_id": 12, "outtime": at(-2)}, base["icustays"][0] | {"stay_id": 13, "outtime": None}]
    tables = read_all(write_mimic(tmp_path, base=base))
    assert (tables.counts["stay_end_before_start"], tables.counts["stay_without_end"]) == (1, 1)


@pytest.mark.parametrize("age", [-5, 300])
def test_an_impossible_age_is_unknown_and_counted(tmp_path, age):
    base = hospital()
    base["patients"][0]["anchor_age"] = age
    tables = read_all(write_mimic(tmp_path, base=base))
    assert (tables.stays["age_years"].to_pylist(), tables.counts["implausible_age"]) == ([None], 1)


def test_a_stay_of_a_patient_who_is_not_listed_is_kept_and_counted(tmp_path):
    base = hospital()
    base["patients"][0]["subject_id"] = 2
    tables = read_all(write_mimic(tmp_path, base=base))
    assert (tables.stays["sex"].to_pylist(), tables.counts["stay_without_patient"]) == ([None], 1)


def test_events_years_away_are_dropped_and_counted(tmp_path):
    far = chart(220045, 24 * 365 * 40, 80.0, "bpm")
    tables = read_all(write_mimic(tmp_path, {"chartevents": [far, RATES[0]], "labevents": [lab(50813, -24 * 365 * 90, 2.0, "mmol/L")]}))
    assert (tables.events.num_rows, tables.counts["outside_stay"]) == (1, 2)


def test_rows_of_one_patient_in_the_stay_of_another_are_counted(tmp_path):
    first, second = hospital(), hospital(subject=2, stay=12)
    contents = {name: rows + [row for row in second[name] if row not in rows] for name, rows in first.items()}
    contents["chartevents"] = [RATES[0], RATES[1] | {"subject_id": 2}, RATES[2] | {"subject_id": 2, "stay_id": 12}]
    tables = read_all(write_mimic(tmp_path, contents))
    assert (tables.events.num_rows, tables.counts["without_stay"]) == (2, 1)


def test_units_never_seen_are_dropped_and_counted(tmp_path):
    tables = read_all(write_mimic(tmp_path, {"labevents": [lab(50813, 2, 2.0, "furlong")]}))
    assert (tables.events.num_rows, tables.counts["unknown_unit:lactate"]) == (0, 1)


def test_an_infusion_that_ends_before_it_starts_is_dropped_and_counted(tmp_path):
    tables = read_all(write_mimic(tmp_path, {"inputevents": [infusion(221906, 6, 5, 0.2, "mcg/kg/min", 1.0)]}))
    assert (tables.events.num_rows, tables.counts["end_before_start"]) == (0, 1)


def test_rows_without_a_stay_or_of_others_are_counted(tmp_path):
    rows = [RATES[0] | {"stay_id": None}, RATES[1] | {"subject_id": 5}, RATES[2] | {"charttime": None}, RATES[3]]
    tables = read_all(write_mimic(tmp_path, {"chartevents": rows}))
    assert tables.events.num_rows == 1
    assert [tables.counts[rule] for rule in ("without_stay", "no_icu_stay", "without_time")] == [1, 1, 1]


def test_items_that_are_absent_or_mean_something_else_are_reported(tmp_path):
    base = hospital()
    base["d_items"] = [row | {"label": "Heart Rhythm"} if row["itemid"] == 220045 else row for row in base["d_items"]]
    base["d_labitems"] = [
        row | {"fluid": "Urine"} if row["itemid"] == 50813 else row for row in base["d_labitems"] if row["itemid"] != 50889
    ]
    counts = read_all(write_mimic(tmp_path, base=base)).counts
    assert {rule: number for rule, number in counts.items() if rule.startswith("item_")} == {
        "item_absent:crp": 1,
        "item_changed:heart_rate": 1,
        "item_changed:lactate": 1,
    }


def test_the_message_of_a_budget_that_is_too_small_says_what_to_raise(tmp_path):
    source = open_source(write_mimic(tmp_path))
    with pytest.raises(SourceError, match="300 MB are too little .* raise execution.memory_mb"):
        source.extract({"table": "chartevents", "bytes": 1}, Folder(tmp_path / "out"), 300)


def test_what_was_extracted_is_not_read_again_and_what_was_cut_is(tmp_path):
    source, out = open_source(write_mimic(tmp_path, {"chartevents": RATES[:3]})), Folder(tmp_path / "out")
    piece = {"table": "chartevents", "bytes": 1}
    source.extract(piece, out, 1024)
    chunk = tmp_path / "out/chartevents/chunk-00000.parquet"
    whole, stamp = chunk.read_bytes(), chunk.stat().st_mtime_ns
    source.extract(piece, out, 1024)
    assert chunk.stat().st_mtime_ns == stamp
    chunk.write_bytes(whole[:-10])
    source.extract(piece, out, 1024)
    assert chunk.read_bytes() == whole


def test_a_file_without_its_header_is_refused_without_repeating_its_first_row(tmp_path):
    content = as_csv("chartevents", [RATES[0] | {"value": "a patient's own words"}]).partition(b"\n")[2]
    write_table(write_mimic(tmp_path), "chartevents", content)
    with pytest.raises(SourceError, match="'subject_id' is missing .none of its .* names is a column .* is the header missing") as fault:
        read_all(tmp_path)
    assert "own words" not in str(fault.value) and str(RATES[0]["stay_id"]) not in str(fault.value).partition("row 1")[2]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (as_csv("chartevents", RATES[:3]).replace(b"\n", b"\r"), "the line does not end with LF or CRLF"),
        (b'"' + as_csv("chartevents", RATES[:3]), "row 1: a quotation mark is never closed"),
        (as_csv("chartevents", RATES[:3]) + b'"' + b"x" * 200_000, "a quotation mark is never closed"),
        (as_csv("chartevents", RATES[:3]).replace(b"\n", b"\n" + b"x" * 200_000, 1), "is not an integer"),
        (
            as_csv("chartevents", RATES[:3]) + b"1,11\n" + as_csv("chartevents", RATES[:3]).partition(b"\n")[2],
            "row 5: 2 fields, the header",
        ),
        (
            as_csv("chartevents", RATES[:3]) + b'1,"a,b,c,d,e,f,g,h"\n' + as_csv("chartevents", RATES[:1]).partition(b"\n")[2],
            "row 5: 2 fields",
        ),
    ],
)
def test_text_that_is_no_csv_is_refused_in_words(tmp_path, content, what):
    write_table(write_mimic(tmp_path), "chartevents", content)
    with pytest.raises(SourceError, match=f"icu/chartevents.csv.gz.*{what}"):
        read_all(tmp_path)


def test_blank_lines_are_passed_over(tmp_path):
    write_table(write_mimic(tmp_path), "chartevents", as_csv("chartevents", RATES[:3]) + b"\n\n")
    assert read_all(tmp_path).events.num_rows == 3


def test_a_folder_in_a_table_s_place_is_named(tmp_path):
    write_mimic(tmp_path)
    (tmp_path / "icu/chartevents.csv.gz").unlink()
    (tmp_path / "icu/chartevents.csv.gz").mkdir()
    with pytest.raises(ClinJepaError, match="icu/chartevents.csv.gz is a folder, a file is needed there"):
        read_all(tmp_path)


def test_rows_of_a_stay_that_nobody_knows_are_counted(tmp_path):
    strange = {"stay_id": 99}
    tables = read_all(
        write_mimic(
            tmp_path,
            {
                "chartevents": [RATES[0], RATES[1] | strange],
                "inputevents": [infusion(221906, 2, 5, 0.2, "mcg/kg/min", 1.0) | strange],
                "procedureevents": [INSIDE | strange | {"starttime": at(1), "endtime": at(2), "itemid": 225802}],
            },
        )
    )
    assert (tables.events.num_rows, tables.counts["without_stay"]) == (1, 3)


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"outtime": at(-2)}, "stay_end_before_start"), ({"outtime": "2999-01-01 00:00:00"}, "implausible_stay_length")],
)
def test_a_patient_s_only_stay_that_is_of_no_use_counts_under_its_rule(tmp_path, change, rule):
    base, other = hospital(), hospital(subject=2, stay=12)
    for name in ("patients", "admissions"):
        base[name] += other[name]
    base["icustays"] += [other["icustays"][0] | change]
    tables = read_all(write_mimic(tmp_path, base=base))
    assert tables.stays["stay_id"].to_pylist() == [11]
    # The rows of the patient and of the admission have no stay; the stay itself says why.
    assert (tables.counts[rule], tables.counts["no_icu_stay"]) == (1, 2)


def test_patients_with_negative_ids_are_read(tmp_path):
    tables = read_all(write_mimic(tmp_path, base=hospital(subject=-3)))
    assert tables.stays["subject_id"].to_pylist() == [-3]


def test_treatments_are_held_against_the_data_s_dictionary_too(tmp_path):
    base = hospital()
    base["d_items"] = [
        row | {"label": "Something else"} if row["itemid"] == 221261 else row for row in base["d_items"] if row["itemid"] != 225943
    ]
    source = MimicIvSource(SourceConfig(kind="mimic_iv", path=str(write_mimic(tmp_path, base=base))))
    assert source.check_items() == {"item_absent:medication": 1, "item_changed:medication": 1}
    assert item_report(source.check_items()) == (
        "1 items in use are not in the data's dictionaries (medication); 1 items in use are defined differently there (medication)"
    )
