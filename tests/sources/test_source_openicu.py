"""MEDS data sets of other conventions than MIMIC-IV's are read through a map of their codes; maps that do not fit are refused."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
import yaml

from clinjepa.config.schema import Config, SourceConfig
from clinjepa.errors import ClinJepaError, ConfigError, SourceError
from clinjepa.report.data_card_page import DataCardView
from clinjepa.sources import open_source
from clinjepa.sources.extraction import extract_all
from clinjepa.sources.mapped_meds.coverage import NAMED_PATIENTS, CoverageCounter, add_coverage, read_coverage
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from pipelines.graph.experiment import build_experiment
from pipelines.graph.planning import source_digest
from tests.support.data import openicu_examples as icu
from tests.support.data.handmade_stays import lenient_config


def of(events: pl.DataFrame, variable: str, stay: int = 1001) -> pl.DataFrame:
    return events.filter((pl.col("variable") == variable) & (pl.col("stay_id") == stay)).sort("time")


def write_map(path: Path, **content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


def ward_map(path: Path, **more: object) -> str:
    """A map of a convention of its own: words of a hospital as codes, units in a column."""
    content = {
        "stays": {"begin": ["WARD//IN"], "end": ["WARD//OUT"]},
        "columns": {"unit": ["unit"]},
        "codes": {"PULSE": "heart_rate", "CREA": "creatinine"},
    }
    return write_map(path, **(content | more))


def ward_rows(subjects: int = 3) -> icu.Rows:
    return [
        each
        for subject in range(1, subjects + 1)
        for each in (
            icu.row(subject, 10, "WARD//IN//bed 7"),
            icu.row(subject, 40, "WARD//OUT"),
            icu.row(subject, 100, "WARD//IN"),
            icu.row(subject, 130, "WARD//OUT"),
            icu.row(subject, 11, "PULSE", 80.0),
            icu.row(subject, 101, "PULSE", 90.0),
            icu.row(subject, 12, "CREA", 88.4, unit="umol/L"),
            icu.row(subject, 13, "CREA", 2.0),
        )
    ]


@pytest.fixture(scope="module")
def mimic(tmp_path_factory: pytest.TempPathFactory) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    return icu.read_one(icu.write(tmp_path_factory.mktemp("openicu") / "datasets", icu.mimic()))


def test_stays_have_their_ids_admission_person_and_outcome(mimic):
    stays, _, _ = mimic
    columns = ["stay_id", "subject_id", "hadm_id", "intime", "outtime", "age_years", "sex", "race", "admission_type"]
    assert stays.select(columns).row(0) == (1001, 1, 101, icu.at(10), icu.at(40), 60.0, "female", "white", "URGENT")
    assert stays["died_in_hospital"].to_list() == [False, False, False, True]
    assert stays["death_time"].to_list() == [None, None, None, icu.at(59)]
    assert stays["hospital_discharge_time"].to_list() == [icu.at(60)] * 4


def test_a_reading_is_converted_from_the_unit_of_its_code(mimic):
    _, events, _ = mimic
    assert of(events, "temperature")["value"].to_list() == [pytest.approx(37.0, abs=0.01)]
    assert of(events, "creatinine")["value"].to_list() == [pytest.approx(1.0, rel=1e-3)]
    assert of(events, "ph")["value"].to_list() == [pytest.approx(7.3)]


def test_a_rate_holds_until_the_next_row_and_zero_ends_it(mimic):
    _, events, _ = mimic
    found = of(events, "norepinephrine").select("time", "end_time", "value").rows()
    assert [(begin, end, round(value, 3)) for begin, end, value in found] == [
        (icu.at(16), icu.at(18), 0.1),
        (icu.at(18), icu.at(20), 0.2),
    ]


def test_a_rate_holds_no_longer_than_its_hours(tmp_path):
    rows = [
        icu.concept(1, 10, "norepinephrine_rate", 0.1),
        icu.concept(1, 90, "norepinephrine_rate", 0.3),
        icu.concept(1, 9, "heart_rate", 80),
    ]
    tables = icu.mimic((1,))[1]
    tables["icustay/icu_discharge"][0]["time"] = icu.at(200)
    _, events, counts = icu.read_one(icu.write(tmp_path / "datasets", (rows, tables)))
    assert of(events, "norepinephrine")["end_time"].to_list() == [icu.at(82), None]
    assert counts["start_without_end"] == 1


def test_only_readings_of_the_stay_are_read_and_the_others_counted(mimic):
    _, events, counts = mimic
    assert of(events, "heart_rate")["time"].to_list() == [icu.at(hour) for hour in (11, 12, 39)]
    assert counts["out_of_range:heart_rate"] == 4
    assert counts["row_without_time"] == 4 and counts["excluded:not_used"] == 4 and counts["outside_stay"] >= 4


def test_a_weight_is_known_from_its_charting(mimic):
    stays, _, _ = mimic
    assert stays.select("weight_kg", "weight_time").rows() == [(70.0, icu.at(22))] * 4


def test_an_antibiotic_without_a_number_is_given(mimic):
    _, events, _ = mimic
    assert of(events, "antibiotic").select("time", "value").rows() == [(icu.at(20), 1.0)]


def test_eicu_has_several_stays_of_a_hospitalisation_and_words_of_its_own(tmp_path):
    stays, _, _ = icu.read_one(icu.write(tmp_path / "datasets", icu.eicu(), "eicu-crd", "2.0"))
    assert stays.select("stay_id", "stay_number_in_admission", "care_unit").rows() == [(71, 1, "MICU"), (72, 2, "MICU"), (73, 1, "MICU")]
    assert stays["age_years"].to_list() == [65.0] * 3 and stays["sex"].unique().to_list() == ["female"]
    assert stays["race"].unique().to_list() == ["white"]
    assert stays["died_in_hospital"].to_list() == [False, False, True]
    assert stays["hospital_admission_time"].unique().to_list() == [icu.at(5)]
    assert stays["next_icu_admission_time"].to_list() == [icu.at(50), None, None]
    assert stays["weight_kg"].to_list() == [70.0, None, 70.0]  # charted more than a day before the second stay


def test_hirid_has_neither_ids_nor_ends_of_stays(tmp_path):
    folder = icu.write(tmp_path / "datasets", icu.hirid(), "hirid", "1.1.1")
    stays, events, counts = icu.read_one(folder)
    assert stays.select("stay_id", "subject_id", "intime", "outtime").rows() == [
        (101, 1, icu.at(10), icu.at(45)),
        (201, 2, icu.at(10), icu.at(45)),
    ]
    assert stays["sex"].to_list() == ["male", "male"] and stays["age_years"].to_list() == [70.0, 70.0]
    # What HiRID says of the outcome is the state at ICU discharge: a hospital death is not known.
    assert stays["died_in_hospital"].to_list() == [None, None] and counts["stay_end_from_last_row"] == 2
    assert of(events, "heart_rate", 101)["time"].to_list() == [icu.at(hour) for hour in (11, 12, 39, 45)]
    assert open_source(SourceConfig(kind="meds", map="openicu", path=str(folder))).stay_counts() is None


def test_a_merged_data_set_of_several_shards_with_a_zone_gives_the_same_tables(tmp_path, mimic):
    concepts, tables = icu.mimic()
    rows = [*concepts, *(each for table in tables.values() for each in table)]
    stays, events, _ = icu.read_one(icu.write_shards(tmp_path / "meds", rows, 3, "Europe/Berlin"), num_partitions=2)
    assert stays.equals(mimic[0])
    assert events.drop("row").equals(mimic[1].drop("row"))


def test_a_folder_of_several_data_sets_needs_a_choice(tmp_path):
    folder = icu.write(tmp_path / "datasets", icu.mimic())
    icu.write(folder, icu.eicu(), "eicu-crd", "2.0")
    with pytest.raises(SourceError, match=r"2 data sets \(eicu-crd, mimic-iv\).*source.subsets=\[eicu-crd\]"):
        icu.read(folder)
    with pytest.raises(SourceError, match="names \\['hirid'\\]"):
        icu.read(folder, subsets=["hirid"])
    stays, _, _ = icu.read_one(folder, subsets=["mimic-iv"])
    assert stays["stay_id"].to_list() == [1001, 1002, 1003, 1004]


def test_a_map_of_a_hospital_pairs_stays_by_time_and_reads_units_from_a_column(tmp_path):
    folder, own = icu.write_shards(tmp_path / "meds", ward_rows()), ward_map(tmp_path / "ward.yaml")
    stays, events, _ = icu.read_one(folder, map=own)
    assert stays.filter(pl.col("subject_id") == 1).select("stay_id", "intime", "outtime", "care_unit").rows() == [
        (101, icu.at(10), icu.at(40), "bed 7"),
        (102, icu.at(100), icu.at(130), None),
    ]
    assert of(events, "creatinine", 101)["value"].to_list() == [pytest.approx(1.0, rel=1e-3), 2.0]
    assert of(events, "heart_rate", 102)["value"].to_list() == [90.0]


def test_a_map_states_its_differences_to_another_one(tmp_path):
    folder = icu.write(tmp_path / "datasets", icu.mimic())
    own = write_map(tmp_path / "own.yaml", extends="openicu", codes={"sofa": "gcs_total", "lactate": None}, not_used={"sofa": None})
    stays, events, counts = icu.read_one(folder, map=own)
    assert stays.height == 4 and of(events, "gcs_total")["value"].to_list() == [3.0]
    assert "excluded:not_used" not in counts
    again = write_map(tmp_path / "again.yaml", extends="own.yaml", codes={"heart_rate": None})
    _, fewer, _ = icu.read_one(folder, map=again)
    assert not of(fewer, "heart_rate").height and of(fewer, "gcs_total").height


def test_the_map_is_part_of_the_content_and_its_path_is_not(tmp_path):
    folder = icu.write(tmp_path / "datasets", icu.mimic())
    same = [write_map(tmp_path / name, extends="openicu", unit_in_code=True) for name in ("a.yaml", "b.yaml")]
    other = write_map(tmp_path / "c.yaml", extends="openicu", unit_in_code=False)
    digests = [open_source(SourceConfig(kind="meds", map=each, path=str(folder))).content_digest() for each in ("openicu", *same, other)]
    assert digests[0] == digests[1] == digests[2] != digests[3]
    configs = [
        Config(storage=str(tmp_path / "storage"), source={"kind": "meds", "map": each, "path": str(folder)}) for each in ("openicu", other)
    ]
    assert source_digest(configs[0]) == digests[0] and source_digest(configs[1]) == digests[3]  # not the remembered one


def test_only_a_map_of_its_own_adds_an_extraction_to_the_graph():
    plain, own = (
        build_experiment(Config(source={"kind": "meds", "path": "x", **more}), "digest").data[0].ingest for more in ({}, {"map": "openicu"})
    )
    assert list(plain.inputs) == [] and list(own.inputs) == ["extract"]
    assert "map" not in plain.settings["source"] and "map" not in own.settings["source"]


def test_a_stay_that_begins_where_another_ends_has_the_later_end(tmp_path):
    rows = [icu.row(1, 10, "WARD//IN"), icu.row(1, 40, "WARD//OUT"), icu.row(1, 40, "WARD//IN"), icu.row(1, 60, "WARD//OUT")]
    rows += [icu.row(1, 45, "PULSE", 80.0), *ward_rows(3)[8:]]
    stays, _, _ = icu.read_one(icu.write_shards(tmp_path / "meds", rows), map=ward_map(tmp_path / "ward.yaml"))
    assert stays.filter(pl.col("subject_id") == 1).select("intime", "outtime").rows() == [
        (icu.at(10), icu.at(40)),
        (icu.at(40), icu.at(60)),
    ]


def test_what_does_not_change_may_have_no_time_and_a_later_admission_says_nothing_of_an_earlier_one(tmp_path):
    people = {"race": ["RACE"], "races": {"blue": "other"}, "sex": ["SEX"], "sexes": {"w": "female"}, "birth": ["MEDS_BIRTH"]}
    own = ward_map(
        tmp_path / "ward.yaml",
        people=people,
        hospitalizations={"begin": ["HOSP//IN"], "end": ["HOSP//OUT"], "admission_type": ["KIND"], "places": {"morgue": "died"}},
    )
    rows = ward_rows(3) + [icu.row(1, None, "SEX//W"), icu.row(1, None, "RACE//Blue"), icu.row(1, 99, "KIND//planned")]
    rows += [icu.row(1, 5, "HOSP//IN"), icu.row(1, 50, "HOSP//OUT//home"), icu.row(1, 99, "HOSP//IN"), icu.row(1, 130, "HOSP//OUT//Morgue")]
    stays, _, _ = icu.read_one(icu.write_shards(tmp_path / "meds", rows), map=own)
    first = stays.filter(pl.col("subject_id") == 1).select("sex", "race", "admission_type", "died_in_hospital", "hospital_admission_time")
    assert first.rows() == [("female", "other", None, False, icu.at(5)), ("female", "other", "planned", True, icu.at(99))]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"codes": {"PULSE": "heart_rat"}}, "codes.PULSE: 'heart_rat' is no variable that a source gives; did you mean heart_rate?"),
        ({"codes": {"PULSE": {"variables": "heart_rate", "units": "bpm"}}}, "codes.PULSE: key 'units' is unknown; did you mean unit?"),
        ({"codez": {}}, "key 'codez' is unknown; did you mean codes?"),
        ({"stays": {"begin": ["A"]}}, "stays: missing \\['end'\\]"),
        ({"stays": {"begin": ["PULSE"], "end": ["B"]}}, "code 'PULSE' is in codes.PULSE and in stays.begin; keep one of them"),
        ({"stays": {"begin": [["A"]], "end": ["B"]}}, "stays.begin: expected a list of texts"),
        (
            {"codes": {"NORA": {"variables": "norepinephrine", "read": "held", "hours": 0}}},
            "codes.NORA: hours='0' must be a number above 0",
        ),
        ({"unit_in_code": "perhaps"}, "unit_in_code='perhaps' must be true or false"),
        ({"people": {"sex": ["S"], "sexes": {"f": "woman"}}}, "people.sexes='woman' is not one of"),
        ({"codes": {"PULSE": {"variables": "heart_rate", "read": "held"}}}, "read=held needs variables of kind rate"),
        ({"extends": "opnicu"}, "extends=opnicu is no map and no file .*; did you mean openicu?"),
        ({"extends": "mimic_iv"}, "mimic_iv is built in and cannot be extended"),
        ({"extends": "ward.yaml"}, "`extends` goes round in a circle"),
    ],
)
def test_a_wrong_map_is_refused_with_file_key_and_remedy(tmp_path, content, said):
    own = ward_map(tmp_path / "ward.yaml", **content)
    with pytest.raises(ConfigError, match=said) as caught:
        open_source(SourceConfig(kind="meds", map=own, path=str(tmp_path)))
    assert "ward.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unknown_map_and_a_map_for_another_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="source.map=openicuu is no map and no file openicuu; did you mean openicu"):
        open_source(SourceConfig(kind="meds", map="openicuu", path=str(tmp_path)))
    with pytest.raises(SourceError, match="source.map=openicu is for source.kind=meds; this kind is clif"):
        open_source(SourceConfig(kind="clif", map="openicu", path=str(tmp_path)))


def test_a_folder_without_files_or_stays_of_the_map_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=r"no file with readings matches concept/data/.* of .*openicu.yaml; set source.path"):
        icu.read(tmp_path / "empty")
    folder = icu.write_shards(tmp_path / "meds", ward_rows())
    with pytest.raises(SourceError, match=r"meds: no row has a code that begins an ICU stay .* of clinjepa/.*openicu.yaml; set source.map"):
        icu.read(folder)


def test_a_map_that_names_too_few_of_the_rows_is_refused(tmp_path):
    rows = ward_rows() + [icu.row(1, 11 + number / 60, f"OTHER//{number}", 1.0) for number in range(60)]
    folder = icu.write_shards(tmp_path / "meds", rows)
    with pytest.raises(
        SourceError, match=r"ward.yaml names the codes of only 16.7 % of the 72 rows .*, at least 20 % are needed; set source.map"
    ):
        icu.read(folder, map=ward_map(tmp_path / "ward.yaml"))
    none = ward_map(tmp_path / "none.yaml", codes={"NOTHING": "heart_rate"})
    with pytest.raises(SourceError, match=r"none.yaml names no code of the 72 rows with a number inside ICU stays; set source.map"):
        icu.read(folder, map=none)


def test_rows_outside_icu_stays_are_not_held_against_a_map(tmp_path):
    rows = ward_rows() + [icu.row(1, 500 + number, "BILL//7", 12.5) for number in range(100)]
    rows += [icu.row(9, number, "BILL//7", 12.5) for number in range(100)]  # a patient without an ICU stay
    folder = icu.write_shards(tmp_path / "meds", rows)
    stays, _, counts = icu.read_one(folder, map=ward_map(tmp_path / "ward.yaml"))
    assert stays.height == 6 and counts["unmapped_code"] == 100 and counts["no_icu_stay"] == 100


def test_unknown_codes_of_several_patients_are_named_in_the_data_card_only(tmp_path):
    rows = ward_rows(12) + [icu.row(subject, 12, "FEVER CURVE", 1.0) for subject in range(1, 13)]
    rows += [icu.row(1, 12 + number / 60, "note of one patient", None, "x") for number in range(30)]
    folder, own = icu.write_shards(tmp_path / "meds", rows, num_shards=1), ward_map(tmp_path / "ward.yaml")
    config = lenient_config(source={"kind": "meds", "map": own, "path": str(folder), "num_partitions": 2, "access": "open"})
    source, extracted, out = open_source(config.source), Folder(tmp_path / "extracted"), Folder(tmp_path / "ingest")
    left_out = extract_all(source, extracted, 500)
    for number, partition in enumerate(source.partitions()):
        build_partition(source, partition, config, out, f"part-{number}", extracted)
    card = finish_ingest(out, config, left_out, read_coverage(extracted))
    assert card["code_coverage"]["unknown"] == [{"code": "FEVER CURVE", "num_rows": 12, "num_patients": 12}]
    assert card["code_coverage"]["num_unknown"] == 42 and card["dropped"]["unmapped_code"] == 42
    view = DataCardView(dict(card))
    assert view.unknown_codes() == [("FEVER CURVE", "12", "12")] and "FEVER" not in (view.code_sentence() or "")
    assert "note of one patient" not in (tmp_path / "ingest/data_card.json").read_text()
    assert "FEVER" not in str(left_out)


def test_a_code_of_too_few_patients_of_each_piece_is_not_named():
    pieces = []
    for first in (0, NAMED_PATIENTS - 1):
        counter = CoverageCounter()
        subjects = list(range(first, first + NAMED_PATIENTS - 1))
        counter.add(
            pl.DataFrame({"subject_id": subjects, "code": "x", "numeric_value": 1.0, "kind": None}, schema_overrides={"kind": pl.String})
        )
        pieces.append(counter.result())
    assert add_coverage(pieces)["unknown"] == [] and add_coverage(pieces)["num_unknown"] == 2 * (NAMED_PATIENTS - 1)


@pytest.mark.parametrize("fault", ["cut", "twice", "no_code", "time_as_text", "shared_stay"])
def test_a_broken_file_is_named_without_ids(tmp_path, fault):
    folder = icu.write(tmp_path / "datasets", icu.mimic((880001, 880002)))
    path = folder / "extraction/data/mimic-iv/3.1/icustay/icu_admission.parquet"
    frame = pl.read_parquet(path)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif fault == "no_code":
        frame.drop("code").write_parquet(path)
    elif fault == "time_as_text":
        frame.with_columns(pl.col("time").cast(pl.String)).write_parquet(path)
    elif fault == "shared_stay":
        frame.with_columns(pl.lit(881001).alias("stay_id")).write_parquet(path)
    else:
        pl.concat([frame, frame]).write_parquet(path)
    if fault == "twice":
        stays, _, counts = icu.read_one(folder)
        assert stays.height == 2 and counts["duplicate_row"] == 2
        return
    with pytest.raises(ClinJepaError) as caught:
        icu.read(folder)
    assert "88" not in str(caught.value).replace(str(tmp_path), "")
