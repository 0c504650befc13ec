"""Labels from files in MEDS's LabelSchema: which hour a prediction time is, what is left out and counted, what is refused."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from clinjepa.errors import SourceError
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import build_labels, finish_labels, read_labels
from clinjepa.trajectory.labels.label_files import LabelFile, in_words, place_labels, place_times
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table

INTIME = datetime(2150, 1, 1, 10, 20)
US, HOUR = timedelta(microseconds=1), timedelta(hours=1)
STAYS = pl.DataFrame(
    {
        "stay_id": [1, 2, 3],
        "subject_id": [7, 7, 8],
        "intime": [INTIME, INTIME + 30 * HOUR, INTIME],
        "outtime": [INTIME + 9 * HOUR + timedelta(minutes=20), INTIME + 35 * HOUR, INTIME + 3 * HOUR],
        "num_hours": [10, 5, 3],
    }
)


def rows(*given: tuple[int, datetime, float | None]) -> pl.DataFrame:
    """A row for each (subject, time, label)."""
    types = {"subject_id": pl.Int64, "prediction_time": pl.Datetime("us"), "label": pl.Float32}
    return pl.DataFrame(list(given), schema=types, orient="row")


def hours(*times: datetime, subject: int = 7) -> list[tuple[int | None, int]]:
    """(stay, hour) of each time."""
    placed = place_times(rows(*((subject, time, 0.0) for time in times)).with_row_index("row"), STAYS)
    return list(placed.select("stay_id", "hour").iter_rows())


def test_a_prediction_time_is_the_last_hour_that_has_ended():
    assert hours(INTIME + 24 * HOUR, INTIME + HOUR, INTIME + 3 * HOUR + timedelta(minutes=59)) == [(None, -1), (1, 0), (1, 2)]


def test_data_at_the_prediction_time_itself_count_in_meds_and_lie_in_the_next_hour_here():
    """MEDS allows data at p; hour h holds data before intime + (h + 1) h. One microsecond before that instant allows exactly these."""
    end_of_hour_3 = INTIME + 4 * HOUR
    assert hours(end_of_hour_3 - 2 * US, end_of_hour_3 - US, end_of_hour_3, end_of_hour_3 + US) == [(1, 2), (1, 3), (1, 3), (1, 3)]


def test_times_between_the_stays_of_a_subject_are_outside():
    times = [
        INTIME - US,
        INTIME,
        INTIME + HOUR - 2 * US,
        INTIME + 10 * HOUR,
        INTIME + 10 * HOUR + US,
        INTIME + 31 * HOUR,
        INTIME + 36 * HOUR,
    ]
    assert hours(*times) == [(None, -1), (None, -1), (None, -1), (1, 9), (None, -1), (2, 0), (None, -1)]


def test_a_time_after_icu_discharge_has_no_label_also_in_the_hour_of_the_discharge():
    """The first stay ends 20 minutes into its hour 9. At that minute hour 8 is the last that has ended; later the patient is gone."""
    discharge, end = INTIME + 9 * HOUR + timedelta(minutes=20), INTIME + 10 * HOUR
    assert hours(discharge - US, discharge, discharge + US, end - 2 * US) == [(1, 8), (1, 8), (None, -1), (None, -1)]
    assert hours(end - US, end) == [(1, 9), (1, 9)]  # where this project writes the label of the last hour
    cut = STAYS.with_columns(num_hours=pl.lit(4))
    placed = place_times(rows((7, INTIME + 4 * HOUR, 0.0), (7, INTIME + 5 * HOUR, 0.0)).with_row_index("row"), cut)
    assert placed["hour"].to_list() == [3, -1]


NEW_YORK = "America/New_York"
SUMMER_ENDS = datetime(2021, 11, 7, 6)
"""In UTC; the hour before, 01:00 to 02:00 on the wall, comes again."""


def clif_stays(*begins: datetime, numbers: tuple[int, ...], admitted: datetime | None) -> pl.DataFrame:
    """Stays of one hospitalisation of 40 hours each. begins: on the hospital's clock at the first of all its ICU stays."""
    frame = pl.DataFrame({"intime": list(begins), "stay_number_in_admission": list(numbers)}).with_row_index("stay_id", offset=1)
    frame = frame.with_columns(subject_id=pl.lit(7), hadm_id=pl.lit(70), num_hours=pl.lit(40), outtime=pl.col("intime") + 40 * HOUR)
    return frame.with_columns(pl.lit(admitted, pl.Datetime("us")).alias("hospital_admission_time"))


def given(folder: Path, dtype: pl.DataType, *instants: datetime) -> LabelFile:
    """A label file beside CLIF tables of a hospital in New York. instants: in UTC, written as `dtype`."""
    folder.mkdir()
    times = pl.Series(instants, dtype=pl.Datetime("us", "UTC"))
    times = times.cast(dtype) if dtype.time_zone is not None else times.dt.replace_time_zone(None)  # type: ignore[attr-defined]
    table = {"subject_id": [7] * len(instants), "prediction_time": times, "float_value": [float(n) for n in range(len(instants))]}
    pl.DataFrame(table).write_parquet(folder / "0.parquet")
    return LabelFile("given", str(folder), "float_value", NEW_YORK)


@pytest.mark.parametrize("zone", [None, "UTC", NEW_YORK, "Asia/Tokyo"])
def test_beside_clif_a_prediction_time_is_an_instant_whatever_its_zone(tmp_path, zone):
    """The clock of a hospitalisation does not change where summer time ends inside it."""
    begin = SUMMER_ENDS - 10 * HOUR  # 16:00 on the wall, 4 h behind UTC
    stays = clif_stays(begin - 4 * HOUR, numbers=(1,), admitted=begin - 9 * HOUR)
    file = given(tmp_path / "given", pl.Datetime("us", zone), begin + 3 * HOUR, begin + 24 * HOUR, begin - HOUR, begin + 41 * HOUR)
    labels, counts = file.placed(stays)
    assert labels.rows() == [(1, 2, 0.0), (1, 23, 1.0)]
    assert (counts["outside_stays"], counts["unknown_clock"], counts["off_hour"]) == (2, 0, 0)


@pytest.mark.parametrize(
    ("begins", "numbers", "admitted", "is_known"),
    [
        ([datetime(2021, 11, 7, 1, 30)], (1,), datetime(2021, 11, 6), False),  # which of the two hours?
        ([datetime(2021, 11, 9, 8)], (2,), datetime(2021, 11, 6), False),  # an earlier stay, before or after the change?
        ([datetime(2021, 11, 9, 8)], (2,), datetime(2021, 11, 8), True),
        ([datetime(2021, 11, 9, 8)], (2,), None, False),
        ([datetime(2021, 11, 6, 8), datetime(2021, 11, 9, 8)], (1, 2), datetime(2021, 11, 6), True),
    ],
)
def test_labels_of_a_stay_whose_clock_is_not_known_are_left_out_and_counted(tmp_path, begins, numbers, admitted, is_known):
    stays = clif_stays(*begins, numbers=numbers, admitted=admitted)
    offset = 4 * HOUR if begins[0] < SUMMER_ENDS else 5 * HOUR
    labels, counts = given(tmp_path / "given", pl.Datetime("us"), begins[-1] + offset + 2 * HOUR).placed(stays)
    assert labels.rows() == ([(len(begins), 1, 0.0)] if is_known else [])
    assert counts["unknown_clock"] == (not is_known) and counts["outside_stays"] == 0


def test_beside_other_sources_a_prediction_time_keeps_its_clock(tmp_path):
    zoned = given(tmp_path / "given", pl.Datetime("us", NEW_YORK), SUMMER_ENDS - 8 * HOUR)
    plain = LabelFile("given", zoned.path, "float_value")
    assert plain.rows(pl.Series([7]))["prediction_time"].to_list() == [SUMMER_ENDS - 12 * HOUR]
    assert zoned.rows(pl.Series([7]))["prediction_time"].to_list() == [SUMMER_ENDS - 8 * HOUR]


def test_of_two_stays_that_hold_a_time_the_later_one_has_it():
    overlapping = STAYS.with_columns(outtime=pl.lit(INTIME + 12 * HOUR), intime=pl.Series([INTIME, INTIME + 2 * HOUR, INTIME]))
    placed = place_times(rows((7, INTIME + 4 * HOUR, 0.0), (7, INTIME + 2 * HOUR, 0.0)).with_row_index("row"), overlapping)
    assert list(placed.select("stay_id", "hour").iter_rows()) == [(2, 1), (1, 1)]


def test_what_becomes_of_every_row_is_counted():
    given = rows(
        (7, INTIME + 2 * HOUR, 1.0),
        (7, INTIME + 2 * HOUR, 1.0),  # the same again
        (7, INTIME + 2 * HOUR + 5 * US, 0.0),  # in the hour of the first
        (7, INTIME + 5 * HOUR + 7 * US, 0.0),  # floored
        (7, INTIME + timedelta(minutes=30), 0.0),  # before the first hour has ended
        (7, INTIME + 20 * HOUR, 0.0),  # between the stays
        (8, INTIME + 3 * HOUR, None),
        (8, INTIME + 4 * HOUR, 1.0),  # after the stay
        (8, INTIME + 3 * HOUR, 1.0),
    )
    labels, counts = place_labels(given, STAYS, "file")
    assert list(labels.iter_rows()) == [(1, 1, 1.0), (1, 4, 0.0), (3, 2, 1.0)]
    assert counts == {
        "num_rows": 9,
        "num_labels": 3,
        "without_value": 1,
        "duplicate": 1,
        "other_subject": 0,
        "before_first_hour": 1,
        "outside_stays": 2,
        "unknown_clock": 0,
        "same_hour": 1,
        "off_hour": 1,
    }
    assert counts["num_rows"] == counts["num_labels"] + sum(counts[name] for name in list(counts)[2:-1])
    assert "3 of 9 rows" in in_words("death", counts) and "outside_stays 2" in in_words("death", counts)


def test_two_labels_at_one_time_are_refused_without_naming_the_subject():
    with pytest.raises(SourceError, match="1 rows have the subject_id and prediction_time of another row") as fault:
        place_labels(rows((7, INTIME + 2 * HOUR, 1.0), (7, INTIME + 2 * HOUR, 0.0)), STAYS, "labels/0.parquet")
    assert "labels/0.parquet" in str(fault.value) and "2150" not in str(fault.value)


@pytest.fixture
def ingest(tmp_path: Path) -> Folder:
    """Two parts of two stays of 30 hours each."""
    config, out = lenient_config(), Folder(tmp_path / "ingest")
    stays = [stays_table(*({"stay_id": i, "outtime": at(30), "died_in_hospital": i == 1} for i in ids)) for ids in ((1, 2), (3, 4))]
    events = [events_table(*(event(i, 0.5, "map", 80.0) for i in ids)) for ids in ((1, 2), (3, 4))]
    source = HandmadeSource(*zip(stays, events, strict=True))
    for place in (0, 1):
        build_partition(source, {"part": place}, config, out, f"part-{place}")
    finish_ingest(out, config)
    return out


def labelled(ingest: Folder, out: Folder, *files: LabelFile) -> Folder:
    for part in ("part-0", "part-1"):
        build_labels(ingest, part, [], 24, out, files)
    finish_labels(ingest, [], out, files)
    return out


def shards(folder: Path, column: str, *labels: list[object]) -> Path:
    """A folder of label files: stay i of every file has a label at the end of its hour 23; and one of a stranger."""
    folder.mkdir()
    for place, values in enumerate(labels):
        subjects = [10 * (2 * place + each + 1) for each in range(len(values))]
        table = {"subject_id": [*subjects, 999 + place], "prediction_time": [at(24)] * (len(values) + 1), column: [*values, values[0]]}
        pl.DataFrame(table).with_columns(pl.col("prediction_time").cast(pl.Datetime("us"))).write_parquet(folder / f"{place}.parquet")
    return folder


def test_the_shards_of_a_label_file_become_labels_of_hours_with_counts(ingest, tmp_path):
    file = LabelFile("seen_elsewhere", str(shards(tmp_path / "given", "boolean_value", [True, False], [False, False])), "boolean_value")
    out = labelled(ingest, Folder(tmp_path / "labels"), file)
    table = read_labels(out, ["seen_elsewhere"])
    assert table["hour"].to_pylist() == [23] * 4 and table["label"].to_pylist() == [1.0, 0.0, 0.0, 0.0]
    prevalence = out.read_json("prevalence.json")
    counts = prevalence["files"]["seen_elsewhere"]
    assert (counts["num_rows"], counts["num_labels"], counts["other_subject"]) == (6, 4, 2)
    assert sum(row["num_positive"] for row in prevalence["tasks"]["seen_elsewhere"].values()) == 1
    assert out.read_table("meds/seen_elsewhere.parquet").num_rows == 4


def test_labels_that_this_project_writes_are_read_back_as_the_same_hours(ingest, tmp_path):
    first = LabelFile("first", str(shards(tmp_path / "given", "float_value", [0.5, 1.5], [2.5, 3.5])), "float_value")
    out = labelled(ingest, Folder(tmp_path / "labels"), first)
    again = LabelFile("first", f"{out.address}/meds/first.parquet", "float_value")
    other = labelled(ingest, Folder(tmp_path / "again"), again)
    assert other.read_table("labels.parquet") == out.read_table("labels.parquet")


def test_the_digest_is_of_the_content(tmp_path):
    folder = shards(tmp_path / "given", "boolean_value", [True, False])
    file = LabelFile("seen", str(folder), "boolean_value")
    before = file.content_digest()
    moved = LabelFile("seen", str(shards(tmp_path / "moved", "boolean_value", [True, False])), "boolean_value")
    assert moved.content_digest() == before
    pl.read_parquet(folder / "0.parquet").with_columns(~pl.col("boolean_value")).write_parquet(folder / "0.parquet")
    assert file.content_digest() != before


@pytest.mark.parametrize(
    ("column", "changed", "words"),
    [
        ("float_value", {}, "column 'float_value' is missing .found: subject_id, prediction_time, boolean_value"),
        ("boolean_value", {"boolean_value": pl.Int64}, "column 'boolean_value' is Int64, MEDS has boolean"),
        ("boolean_value", {"prediction_time": pl.Date}, "column 'prediction_time' is Date"),
        ("boolean_value", {"subject_id": pl.String}, "column 'subject_id' is String, MEDS has int64"),
    ],
)
def test_a_file_that_is_not_meds_label_schema_is_refused(tmp_path, column, changed, words):
    folder = shards(tmp_path / "given", "boolean_value", [True, False])
    pl.read_parquet(folder / "0.parquet").cast(changed).write_parquet(folder / "0.parquet")
    with pytest.raises(SourceError, match=words):
        LabelFile("seen", str(folder), column).content_digest()


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"no .parquet file there; set labels.files.seen.path"):
        LabelFile("seen", str(tmp_path / "nowhere"), "boolean_value").content_digest()
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match="cut.parquet: cannot be read"):
        LabelFile("seen", str(tmp_path / "cut.parquet"), "boolean_value").content_digest()


def test_subject_ids_beyond_int64_are_refused_by_column_and_never_shown(tmp_path):
    too_large = 2**63 + 4_711
    frame = pl.DataFrame({"prediction_time": [INTIME + 2 * HOUR] * 3, "float_value": [0.5, 1.5, 2.5]})
    good = frame.with_columns(pl.Series("subject_id", [7, 8, None], dtype=pl.UInt64))
    bad = frame.with_columns(pl.Series("subject_id", [7, too_large, None], dtype=pl.UInt64))
    file = LabelFile("given", str(tmp_path), "float_value")
    good.write_parquet(tmp_path / "0.parquet")
    assert file.rows(pl.Series([7, 8])).select("subject_id", "label").rows() == [(7, 0.5), (8, 1.5)]
    bad.write_parquet(tmp_path / "1.parquet")
    for read in (file.content_digest, file.num_rows, lambda: file.rows(pl.Series([7, 8]))):
        with pytest.raises(SourceError, match=r"1\.parquet: column 'subject_id' is UInt64, and 1 of its ids") as found:
            read()
        assert str(too_large) not in str(found.value) and found.value.__cause__ is None
