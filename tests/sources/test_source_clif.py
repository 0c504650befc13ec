"""CLIF tables become stays and events with the right values, whatever the types and ids of a site are; broken files are named."""

from __future__ import annotations

import datetime
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ClinJepaError
from clinjepa.sources import open_source
from clinjepa.sources.clif.tables import clif_map, load_tables, number_ids
from clinjepa.sources.extraction import extract_all
from clinjepa.storage import Folder
from tests.support.data import clif_examples as clif


def of(events: pl.DataFrame, variable: str) -> pl.DataFrame:
    return events.filter(pl.col("variable") == variable).sort("stay_id", "time")


def local(hour: float) -> datetime.datetime:
    return clif.at(hour).replace(tzinfo=None)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    return clif.read_one(clif.write(tmp_path_factory.mktemp("clif") / "data"))


def test_contiguous_icu_locations_are_one_stay_and_a_gap_divides_them(small):
    stays, _, _ = small
    found = stays.select("stay_id", "hadm_id", "intime", "outtime", "stay_number_in_admission", "care_unit").rows()
    assert found == [
        (701, 7, local(10), local(60), 1, "medical icu"),
        (702, 7, local(70), local(80), 2, "surgical icu"),
        (901, 9, local(1), local(40.5), 1, "cardiac icu"),
    ]
    assert stays["next_icu_admission_time"].to_list() == [local(70), None, None]
    assert stays["next_hospital_admission_time"].to_list() == [local(200), local(200), None]


def test_people_and_outcomes(small):
    stays, _, _ = small
    columns = ["age_years", "sex", "race", "admission_type", "died_in_hospital", "died_in_icu", "death_time", "chronic_dialysis"]
    first, _, last = stays.select(columns).rows()
    assert first == (60.0, "female", "hispanic", "ed", False, False, None, None)
    assert last == (60.0, "male", "asian", "ed", True, True, local(40), True)
    assert stays["weight_kg"].to_list() == [70.0, None, None] and stays["weight_time"][0] == local(12)
    assert stays["height_cm"].to_list() == [170.0, None, None] and stays["height_time"][0] == local(13)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("heart_rate", [(701, 11, 80.0), (702, 75, 95.0)]),
        ("temperature", [(701, 12, 37.2)]),
        ("lactate", [(701, 11, 2.5)]),
        ("creatinine", [(701, 11, 1.0)]),
        ("platelets", [(901, 3, 210.0)]),
        ("fio2", [(701, 12, 40.0)]),
        ("gcs_eye", [(701, 13, 4.0)]),
        ("rass", [(701, 13, -2.0)]),
        ("crrt", [(901, 6, 1.0)]),
        ("antibiotics_iv", [(701, 15, 1.0)]),
        ("antibiotic", [(701, 15, 1.0)]),
    ],
)
def test_a_reading_has_its_variable_time_and_unit(small, variable, expected):
    _, events, _ = small
    again = variable in ("creatinine", "antibiotic")  # their windows reach back into the stay before
    found = of(events, variable).filter((pl.col("stay_id") != 702) | (not again))
    assert [(stay, time, pytest.approx(value, rel=1e-4)) for stay, time, value in found.select("stay_id", "time", "value").rows()] == [
        (stay, local(hour), value) for stay, hour, value in expected
    ]


def test_words_are_those_of_the_dictionary(small):
    _, events, _ = small
    assert of(events, "o2_device")["text"].to_list() == ["Endotracheal tube", "Nasal cannula"]
    assert of(events, "delirium_assessment")["text"].to_list() == ["Positive"]
    assert of(events, "crrt_mode")["text"].to_list() == ["CVVHDF"]


def test_a_rate_holds_until_the_next_row_of_its_order_and_a_fluid_becomes_an_amount(small):
    _, events, _ = small
    assert of(events, "norepinephrine").select("time", "end_time", "value").rows() == [
        (local(14), local(16), 0.1),
        (local(16), local(18), 0.2),
    ]
    assert of(events, "crystalloid").select("time", "end_time", "value", "unit").rows() == [(local(20), local(22.5), 250.0, "mL")]
    medications = of(events, "medication").select("text", "value", "unit", "end_time").rows()
    assert medications == [
        ("Cefepime", None, None, None),
        ("Pantoprazole", 40.0, "mg", None),
        ("Magnesium (drug)", 2.0, "grams", None),
        ("Esmolol", 50.0, "mcg/kg/min", local(8)),
    ]


def test_what_was_left_out_is_counted(small, tmp_path):
    _, _, counts = small
    assert counts["medication_not_given"] == 1
    source = open_source(SourceConfig(kind="clif", path=str(clif.write(tmp_path / "data"))))
    left_out = extract_all(source, Folder(tmp_path / "out"), 500)
    assert left_out["unmapped_code"] == 1 and left_out["table_missing:microbiology_culture"] == 1 and left_out["outside_stay"] == 1


def test_times_are_those_of_the_hospital(tmp_path):
    stays, events, _ = clif.read_one(clif.write(tmp_path / "data"), time_zone="US/Eastern")
    shift = datetime.timedelta(hours=4)  # summer
    assert stays["intime"][0] == local(10) - shift and of(events, "heart_rate")["time"][0] == local(11) - shift


def test_the_zone_is_part_of_the_content_and_an_unknown_one_is_refused(tmp_path):
    folder = str(clif.write(tmp_path / "data"))
    digests = {open_source(SourceConfig(kind="clif", path=folder, time_zone=zone)).content_digest() for zone in ("UTC", "Europe/Berlin")}
    assert len(digests) == 2
    with pytest.raises(ClinJepaError, match="source.time_zone='Berlin' is no time zone; use a name such as"):
        open_source(SourceConfig(kind="clif", path=folder, time_zone="Berlin"))


def as_other_types(content: dict[str, clif.Rows], folder: Path, kind: str) -> Path:
    """The same tables with other types of the same values."""
    folder.mkdir(parents=True)
    for name, rows in content.items():
        frame = pl.DataFrame(rows, infer_schema_length=None)
        for column, dtype in frame.schema.items():
            if kind == "naive" and isinstance(dtype, pl.Datetime):
                frame = frame.with_columns(pl.col(column).dt.replace_time_zone(None))
            if kind == "another zone" and isinstance(dtype, pl.Datetime):
                frame = frame.with_columns(pl.col(column).dt.convert_time_zone("Asia/Tokyo").cast(pl.Datetime("ns", "Asia/Tokyo")))
            if kind == "categories" and dtype == pl.String:
                frame = frame.with_columns(pl.col(column).cast(pl.Categorical))
            if kind == "whole numbers" and column == "hospitalization_id":
                frame = frame.with_columns(pl.col(column).cast(pl.Int32))
            if kind == "upper case" and column.endswith("_category"):
                frame = frame.with_columns(pl.col(column).str.to_uppercase() + " ")
        frame.write_parquet(folder / f"clif_{name}.parquet")
    return folder


@pytest.mark.parametrize("kind", ["naive", "another zone", "categories", "whole numbers", "upper case"])
def test_other_types_of_the_same_values_give_the_same_tables(small, tmp_path, kind):
    stays, events, _ = clif.read_one(as_other_types(clif.tables(), tmp_path / "data", kind))
    assert stays.equals(small[0].sort("stay_id")) and events.sort(events.columns).equals(small[1].sort(events.columns))


def test_ids_that_are_no_numbers_become_stable_ones(small, tmp_path):
    content = clif.tables()
    for rows in content.values():
        for row in rows:
            for column in ("hospitalization_id", "patient_id"):
                if column in row:
                    row[column] = f"0{row[column]}-x"
    stays, events, _ = clif.read_one(clif.write(tmp_path / "data", content))
    assert stays["stay_id"].n_unique() == 3 and (stays["stay_id"] > 1000).all() and stays["subject_id"].n_unique() == 2
    assert sorted(stays["intime"].to_list()) == sorted(small[0]["intime"].to_list())
    assert events.height == small[1].height
    again, _, _ = clif.read_one(clif.write(tmp_path / "again", content))
    assert again.equals(stays)


@pytest.mark.parametrize("ids", [["1", "02"], ["1", "1234567890123456"], ["1", "-2"], ["1", "x"]])
def test_one_id_that_is_no_plain_number_makes_all_of_them_hashes(ids):
    numbers = number_ids(pl.Series("patient_id", ids), "here")
    assert numbers.n_unique() == 2 and numbers.min() > 10**9 and numbers.max() < 2**62  # type: ignore[operator]


def test_partitions_share_no_patient_and_max_stays_takes_the_first(tmp_path):
    folder = clif.write(tmp_path / "data")
    subjects = [set(part.stays["subject_id"].to_pylist()) for part in clif.read(folder)]
    assert sum(len(each) for each in subjects) == len(set.union(*subjects)) == 2
    stays, _, _ = clif.read_one(clif.write(tmp_path / "less"), max_stays=1)
    assert stays["stay_id"].to_list() == [701]


def test_doses_of_two_orders_do_not_end_each_other_and_a_last_one_is_a_point(tmp_path):
    content = clif.tables()
    content["medication_admin_continuous"] = [
        clif.drip("7", 14, "norepinephrine", 0.1, "mcg/kg/min", "start", "a"),
        clif.drip("7", 15, "norepinephrine", 0.3, "mcg/kg/min", "start", "b"),
        clif.drip("7", 17, "norepinephrine", 0.0, "mcg/kg/min", "stop", "a"),
        clif.drip("7", 20, "propofol", -5.0, "mcg/kg/min", "start", "c"),
        clif.drip("7", 21, "propofol", None, "mcg/kg/min", "dose_change", "c"),
        clif.drip("7", 30, "sodium chloride", 5.0, "mg/h", "start", "d"),
        clif.drip("7", 31, "sodium chloride", 0.0, "mg/h", "stop", "d"),
    ]
    _, events, counts = clif.read_one(clif.write(tmp_path / "data", content))
    assert of(events, "norepinephrine").select("time", "end_time", "value").rows() == [(local(14), local(17), 0.1), (local(15), None, 0.3)]
    assert counts["start_without_end"] == 1 and counts["negative_rate"] == 1 and counts["non_numeric"] == 1
    assert counts["unknown_unit:crystalloid"] == 1 and not of(events, "crystalloid").height


def test_a_rate_per_patient_is_divided_by_the_weight_known_at_its_time(tmp_path):
    content = clif.tables()
    content["medication_admin_continuous"] = [
        clif.drip("7", 14, "norepinephrine", 7.0, "mcg/min", "start"),
        clif.drip("7", 15, "norepinephrine", 0.0, "mcg/min", "stop"),
        clif.drip("9", 5, "norepinephrine", 7.0, "mcg/min", "start"),
        clif.drip("9", 6, "norepinephrine", 0.0, "mcg/min", "stop"),
    ]
    _, events, counts = clif.read_one(clif.write(tmp_path / "data", content))
    assert of(events, "norepinephrine")["value"].to_list() == [pytest.approx(0.1)] and counts["no_weight:norepinephrine"] == 1


@pytest.mark.parametrize(
    ("word", "died", "rule"),
    [
        ("EXPIRED", True, None),
        ("Missing", None, None),
        (None, None, None),
        ("Moved house", None, "unknown_discharge"),
        ("Hospice", False, None),
    ],
)
def test_a_discharge_says_what_it_says(tmp_path, word, died, rule):
    content = clif.tables()
    content["hospitalization"][0]["discharge_category"] = word
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content))
    # Without a word the outcome is open only where nothing else is known: the patient was discharged, and no death is recorded.
    expected = False if word in ("Missing", None) else died
    assert stays["died_in_hospital"][0] is expected and counts.get("unknown_discharge", 0) == (2 if rule else 0)


@pytest.mark.parametrize("zone", ["US/Central", "Europe/Berlin", "UTC"])
def test_a_date_of_death_without_a_time_is_the_hospital_s_day(tmp_path, zone):
    content = clif.tables()
    content["patient"][1]["death_dttm"] = datetime.date(2021, 6, 2)  # hour 24 to 48; discharged as dead at hour 41
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content), time_zone=zone)
    left = stays.filter(pl.col("hadm_id") == 9).row(0, named=True)
    assert left["died_in_hospital"] is True and left["death_time"] == left["hospital_discharge_time"] and "impossible_death" not in counts


def test_an_open_location_ends_where_the_next_one_begins(tmp_path):
    content = clif.tables()
    content["adt"][1]["out_dttm"] = None
    stays, _, _ = clif.read_one(clif.write(tmp_path / "data", content))
    assert stays.select("intime", "outtime").row(0) == (local(10), local(60))


def test_two_sexes_of_a_patient_are_unknown_and_counted(tmp_path):
    content = clif.tables()
    content["patient"].append(content["patient"][1] | {"sex_category": "Female"})
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content))
    assert stays["sex"].to_list() == ["female", "female", None] and counts["patient_with_several_sexes"] == 1


def test_an_unknown_word_beside_another_one_says_nothing(tmp_path):
    content = clif.tables()
    for other in ({"sex_category": "Unknown", "race_category": "Unknown"}, {"sex_category": None, "race_category": None}):
        content["patient"] = [content["patient"][1] | other, *content["patient"]]
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content))
    assert stays.filter(pl.col("hadm_id") == 9).select("sex", "race").row(0) == ("male", "asian")
    assert not {rule for rule in counts if rule.startswith(("patient_with", "unknown_"))}


def test_several_races_and_deaths_of_a_patient_and_races_without_a_meaning_are_counted(tmp_path):
    content = clif.tables()
    content["patient"].append(content["patient"][1] | {"race_category": "White", "death_dttm": clif.at(40.5)})
    content["patient"][0] |= {"ethnicity_category": None, "race_category": "Martian"}
    stays, _, counts = clif.read_one(clif.write(tmp_path / "data", content))
    last = stays.filter(pl.col("hadm_id") == 9).row(0, named=True)
    assert last["race"] == "asian" and last["death_time"] == local(40.5) and stays["race"].to_list()[0] is None
    assert counts["patient_with_several_races"] == counts["patient_with_several_deaths"] == counts["unknown_race"] == 1


def test_who_is_still_admitted_has_no_outcome_yet(tmp_path):
    content = clif.tables()
    content["hospitalization"][0] |= {"discharge_category": "Still Admitted", "discharge_dttm": None}
    stays, _, _ = clif.read_one(clif.write(tmp_path / "data", content))
    assert stays["died_in_hospital"].to_list() == [None, None, True]


@pytest.mark.parametrize(("rate", "unit"), [(100.0, "mL/hour"), (100.0 / 60, "mL/min"), (0.1, "L/hr")])
def test_the_rate_of_a_fluid_may_have_any_unit_of_volume(tmp_path, rate, unit):
    content = clif.tables()
    content["medication_admin_continuous"][3] |= {"med_dose": rate, "med_dose_unit": unit}
    _, events, _ = clif.read_one(clif.write(tmp_path / "data", content))
    assert of(events, "crystalloid")["value"].to_list() == [pytest.approx(250.0)]


@pytest.mark.parametrize(
    ("category", "value", "expected"),
    [
        ("troponin_t", 52.0, 0.052),
        ("esr", 40.0, 40.0),
        ("magnesium", 2.1, 2.1),
        ("wbc", 9.5, 9.5),
        ("ph_arterial", 7.31, 7.31),
        ("crp", 50.0, 50.0),
    ],
)
@pytest.mark.parametrize("unit", [None, "", " ", "no units", "(No units)", "UNK", "n/a", "-"])
def test_a_laboratory_value_without_a_unit_has_the_one_that_clif_fixes(tmp_path, category, value, expected, unit):
    content = clif.tables()
    content["labs"] = [clif.lab("7", 11, category, value, unit)]
    _, events, _ = clif.read_one(clif.write(tmp_path / "data", content))
    names = {"troponin_t": "troponin_t", "ph_arterial": "ph"}
    assert of(events, names.get(category, category))["value"].to_list()[0] == pytest.approx(expected)
    for rows in content["labs"]:
        del rows["reference_unit"]
    _, again, _ = clif.read_one(clif.write(tmp_path / "no column", content))
    assert again.equals(events)


def test_a_unit_that_is_written_counts_before_the_one_that_clif_fixes(tmp_path):
    content = clif.tables()
    content["labs"] = [clif.lab("7", 11, "troponin_t", 0.052, "ng/mL"), clif.lab("7", 12, "calcium_ionized", 1.2, "mmol/L")]
    _, events, _ = clif.read_one(clif.write(tmp_path / "data", content))
    assert of(events, "troponin_t")["value"][0] == pytest.approx(0.052) and of(events, "calcium_ionized")["value"][0] == pytest.approx(1.2)


def test_a_column_that_occurs_twice_is_named(tmp_path):
    folder = clif.write(tmp_path / "data")
    table = pq.read_table(folder / "clif_vitals.parquet")
    pq.write_table(table.append_column("vital_value", table["vital_value"]), folder / "clif_vitals.parquet")
    with pytest.raises(ClinJepaError, match="clif_vitals.parquet: column 'vital_value' occurs twice; remove one"):
        clif.read(folder)


BROKEN = {
    "no folder": (
        lambda folder: None,
        "clif_patient.parquet, clif_hospitalization.parquet, clif_adt.parquet, clif_vitals.parquet are missing",
    ),
    "a table is missing": (lambda folder: (folder / "clif_adt.parquet").unlink(), "clif_adt.parquet is missing; source.path must be"),
    "cut": (
        lambda folder: (folder / "clif_vitals.parquet").write_bytes((folder / "clif_vitals.parquet").read_bytes()[:200]),
        "clif_vitals.parquet: not a readable Parquet file",
    ),
    "a column is missing": (
        lambda folder: pl.read_parquet(folder / "clif_vitals.parquet").drop("vital_value").write_parquet(folder / "clif_vitals.parquet"),
        "clif_vitals.parquet: column 'vital_value' is missing",
    ),
    "float ids": (
        lambda folder: (
            pl.read_parquet(folder / "clif_labs.parquet")
            .with_columns(pl.col("hospitalization_id").cast(pl.Float64))
            .write_parquet(folder / "clif_labs.parquet")
        ),
        "clif_labs.parquet: column 'hospitalization_id' is double; write ids as text",
    ),
    "times as text": (
        lambda folder: (
            pl.read_parquet(folder / "clif_adt.parquet")
            .with_columns(pl.col("in_dttm").cast(pl.String))
            .write_parquet(folder / "clif_adt.parquet")
        ),
        "clif_adt.parquet: column 'in_dttm' is large_string; write it as a timestamp in UTC",
    ),
    "no ICU": (
        lambda folder: (
            pl.read_parquet(folder / "clif_adt.parquet")
            .with_columns(pl.lit("ward").alias("location_category"))
            .write_parquet(folder / "clif_adt.parquet")
        ),
        "clif_adt.parquet: no row has location_category 'icu' (7 rows)",
    ),
    "an id twice": (
        lambda folder: pl.concat(
            [
                pl.read_parquet(folder / "clif_hospitalization.parquet"),
                pl.read_parquet(folder / "clif_hospitalization.parquet").head(1).with_columns(pl.lit("B").alias("patient_id")),
            ]
        ).write_parquet(folder / "clif_hospitalization.parquet"),
        "clif_hospitalization.parquet: 2 rows share their 'hospitalization_id' with a different row",
    ),
    "no row": (
        lambda folder: pl.read_parquet(folder / "clif_adt.parquet").head(0).write_parquet(folder / "clif_adt.parquet"),
        "clif_adt.parquet: the table has no row",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_named_with_file_and_remedy(tmp_path, name):
    spoil, message = BROKEN[name]
    folder = tmp_path / "data"
    if name != "no folder":
        clif.write(folder)
        spoil(folder)
    with pytest.raises(ClinJepaError) as caught:
        clif.read(folder)
    assert message in str(caught.value)


def test_an_empty_clinical_table_is_counted(tmp_path):
    folder = clif.write(tmp_path / "data")
    pl.read_parquet(folder / "clif_labs.parquet").head(0).write_parquet(folder / "clif_labs.parquet")
    source = open_source(SourceConfig(kind="clif", path=str(folder)))
    assert extract_all(source, Folder(tmp_path / "out"), 500)["empty_table:labs"] == 1
    assert not clif.read_one(folder)[1].filter(pl.col("variable") == "lactate").height


def test_every_category_and_column_of_the_map_is_read():
    known = clif_map()
    assert set(known["ventilation"]) <= set(load_tables()["respiratory_support"].optional)
    words = [*known["vitals"], *known["labs"], *known["assessments"]]
    assert len(words) == len(set(words)) and all(
        word == word.lower() for word in [*known["devices"], *known["modes"], *known["continuous"]]
    )
