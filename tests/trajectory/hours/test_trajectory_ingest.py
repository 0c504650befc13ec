"""A source's partitions become one ingest artifact: cohort, attrition, resuming part by part, the data card."""

from __future__ import annotations

import pytest

from clinjepa.config.schema import CohortConfig, Config
from clinjepa.errors import SourceError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.cohort import cohort_rules
from clinjepa.trajectory.hours.ingest import HOURS_SCHEMA, INGEST_STAYS_SCHEMA, build_partition, finish_ingest, grid_schema
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

VITALS = [event(stay, 1.5, "heart_rate", 80.0) for stay in range(1, 7)]


def cohort_of(stays: list[dict], events: list[dict], tmp_path, **rules) -> tuple[list[int], list[tuple]]:
    config = lenient_config(cohort=lenient_config().cohort.model_dump() | rules)
    record = build_partition(HandmadeSource((stays_table(*stays), events_table(*events))), {"part": 0}, config, Folder(tmp_path), "p")
    kept = Folder(tmp_path).read_table("stays/p.parquet")["stay_id"].to_pylist()
    return kept, [(row["rule"], row["num_stays"], row["num_patients"]) for row in record["attrition"]]


@pytest.mark.parametrize(
    ("rule", "stays"),
    [
        ({"min_age_years": 18}, [{"age_years": 18.0}, {"age_years": 17.9}, {"age_years": None}]),
        ({"min_stay_hours": 6}, [{"outtime": at(6)}, {"outtime": at(5.99)}, {"outtime": at(1)}]),
        ({"first_stay_of_admission": True}, [{}, {"stay_number_in_admission": 2}, {"stay_number_in_admission": 3}]),
        ({"min_vitals_records": 2}, [{}, {}, {}]),
        ({"max_gap_hours": 5}, [{}, {}, {}]),
    ],
    ids=["age", "length", "first stay", "vitals", "gap"],
)
def test_each_rule_keeps_the_stay_that_satisfies_it(tmp_path, rule, stays):
    first = [event(1, hour, "heart_rate", 80.0) for hour in (3.5, 4.5)]
    others = [event(2, 3.1, "heart_rate", 80.0), event(2, 3.2, "heart_rate", 80.0), event(3, 9.5, "lactate", 1.0)]
    kept, attrition = cohort_of(
        [{"stay_id": number} | stay for number, stay in enumerate(stays, start=1)], first + others, tmp_path, **rule
    )
    assert kept == [1]
    assert [count for _, *count in attrition] == [[3, 3], [3, 3], [1, 1]]


def test_the_longest_gap_counts_the_hours_before_the_first_and_after_the_last_measurement(tmp_path):
    events = [event(1, 5.5, "heart_rate", 80.0), event(2, 6.5, "heart_rate", 80.0), event(3, 3.5, "heart_rate", 80.0)]
    assert cohort_of([{"stay_id": number} for number in (1, 2, 3)], events, tmp_path, max_gap_hours=5)[0] == [1]


def test_hours_beyond_the_cohorts_maximum_are_cut_and_the_stay_is_kept(tmp_path):
    cohort_of([{"stay_id": 1, "outtime": at(9.5)}, {"stay_id": 2, "outtime": at(3.5)}], [], tmp_path, max_stay_hours=5)
    hours = Folder(tmp_path).read_table("hours/p.parquet")
    assert [len(texts) for texts in hours["state_texts"].to_pylist()] == [5, 4]
    assert Folder(tmp_path).read_table("stays/p.parquet")["outtime"].to_pylist()[0] == at(9.5)


def test_presets_replace_the_rules_and_the_method_keeps_its_own():
    assert cohort_rules(CohortConfig(preset="yaib", min_age_years=40)).max_gap_hours == 12
    assert cohort_rules(CohortConfig(preset="clin_jepa", min_age_years=40)).min_age_years == 40


@pytest.fixture
def parts():
    return HandmadeSource(
        (stays_table({"stay_id": 5}, {"stay_id": 2, "died_in_hospital": True}), events_table(*VITALS[1:2], *VITALS[4:5])),
        (stays_table({"stay_id": 4}, {"stay_id": 3}, {"stay_id": 1, "age_years": 5.0}), events_table(*VITALS[2:4])),
    )


def build_all(source: HandmadeSource, out: Folder, config: Config) -> dict:
    for number in range(len(source.parts)):
        build_partition(source, {"part": number}, config, out, f"part-{number}")
    return finish_ingest(out, config)


def test_the_card_counts_stays_patients_hours_attrition_coverage_and_what_was_dropped(parts, tmp_path):
    card = build_all(parts, Folder(tmp_path), Config())
    assert (card["num_stays"], card["num_patients"], card["num_hours"]) == (4, 4, 40)
    assert [row["num_stays"] for row in card["attrition"]] == [5, 5, 4, 4, 4, 4]
    assert card["dropped"] == {"unmapped_code": 2}
    assert card["coverage"]["heart_rate"] == {"num_events": 4, "num_hours": 4, "num_stays": 4, "share_of_hours": 0.1, "share_of_stays": 1.0}
    assert sum(split["num_stays"] for split in card["splits"].values()) == 4
    assert Folder(tmp_path).read_json("attrition.json") == card["attrition"]


def test_what_a_source_does_not_know_is_not_counted_as_none(parts, tmp_path):
    splits = build_all(parts, Folder(tmp_path), Config())["splits"].values()
    assert [split["num_sepsis"] for split in splits] == [None] * 3
    assert sum(split["num_died_in_hospital"] for split in splits) == 1


def test_the_tables_follow_their_schemas(parts, tmp_path):
    out = Folder(tmp_path)
    build_all(parts, out, Config())
    stays = out.read_table("stays.parquet")
    assert stays.schema.equals(INGEST_STAYS_SCHEMA)
    assert stays["stay_id"].to_pylist() == [2, 3, 4, 5] and stays["part"].to_pylist() == ["part-0", "part-1", "part-1", "part-0"]
    assert out.read_table("hours/part-0.parquet").schema.equals(HOURS_SCHEMA)
    assert out.read_table("grid/part-0.parquet").schema.equals(grid_schema())


def test_a_finished_part_is_not_read_again(parts, tmp_path):
    build_all(parts, Folder(tmp_path), Config())
    build_all(parts, Folder(tmp_path), Config())
    assert parts.num_reads == 2


def test_a_part_with_a_missing_or_cut_file_is_done_again(parts, tmp_path):
    out = Folder(tmp_path)
    build_all(parts, out, Config())
    whole = out.read_bytes("grid/part-0.parquet")
    out.write_bytes("grid/part-0.parquet", whole[:-10])
    with pytest.raises(StoreError, match="a file of part part-0 is missing or was cut"):
        finish_ingest(out, Config())
    build_all(parts, out, Config())
    assert parts.num_reads == 3 and out.read_bytes("grid/part-0.parquet") == whole


def test_a_part_of_another_schema_version_is_refused(parts, tmp_path):
    out = Folder(tmp_path)
    build_all(parts, out, Config())
    out.write_json("parts/part-0.json", out.read_json("parts/part-0.json") | {"schema_version": 0})
    with pytest.raises(StoreError, match="schema version 0"):
        finish_ingest(out, Config())


def test_the_result_does_not_depend_on_how_the_source_was_partitioned(parts, tmp_path):
    split = Folder(tmp_path / "two")
    build_all(parts, split, Config())
    (stays_a, events_a), (stays_b, events_b) = parts.parts
    import pyarrow as pa

    joined = Folder(tmp_path / "one")
    build_all(HandmadeSource((pa.concat_tables([stays_b, stays_a]), pa.concat_tables([events_b, events_a]))), joined, Config())
    assert split.read_table("stays.parquet").drop("part").equals(joined.read_table("stays.parquet").drop("part"))


def test_a_stay_without_measurements_has_texts_that_say_so(tmp_path):
    cohort_of([{"stay_id": 1}], [], tmp_path)
    assert set(text.split(" | ")[1] for text in Folder(tmp_path).read_table("hours/p.parquet")["state_texts"].to_pylist()[0]) == {
        "No observations."
    }


def test_a_partition_that_loses_all_its_stays_leaves_an_empty_part(tmp_path):
    source = HandmadeSource(
        (stays_table({"stay_id": 9, "age_years": 3.0}), events_table()),
        (stays_table(*({"stay_id": stay} for stay in (1, 2, 3))), events_table(*VITALS[:3])),
    )
    assert build_all(source, Folder(tmp_path), Config())["num_stays"] == 3


def test_no_stay_left_names_the_rules(tmp_path):
    source = HandmadeSource((stays_table({"stay_id": 9, "age_years": 3.0}), events_table()))
    with pytest.raises(SourceError, match="age at least 18 years: 0"):
        build_all(source, Folder(tmp_path), Config())


def test_a_patient_in_two_partitions_is_refused(tmp_path):
    source = HandmadeSource(*((stays_table({"stay_id": stay, "subject_id": 77}), events_table(VITALS[stay - 1])) for stay in (1, 2)))
    with pytest.raises(SourceError, match="share 0 stays and 1 patients"):
        build_all(source, Folder(tmp_path), Config())


def test_a_stay_id_given_twice_is_refused_without_naming_it(tmp_path):
    source = HandmadeSource((stays_table({"stay_id": 424242}, {"stay_id": 424242}), events_table()))
    with pytest.raises(SourceError) as raised:
        build_all(source, Folder(tmp_path), Config())
    assert "424242" not in str(raised.value)
