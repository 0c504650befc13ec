"""Who a row belongs to: ids that became floating-point numbers, ids of another patient, and patients in two splits."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from clinjepa.errors import SourceError
from tests.support.data import meds_examples as meds
from tests.support.data import mimic_iv_examples as mimic

IDS = ("subject_id", "icustay_id", "hadm_id", "order_id")


def rewrite(folder: Path, **columns: pl.Expr) -> Path:
    path = folder / "data/train/0.parquet"
    pl.read_parquet(path).with_columns(**columns).write_parquet(path)
    return folder


def two_patients() -> list[dict[str, object]]:
    charted = [meds.chart(220045, 2, 80.0), meds.row("LAB//50813//mmol/L", 3, 2.5)]
    return [*meds.stay_rows(), *charted, *meds.infusion(221906, 2, 5, 0.2, "mcg/kg/min", 4.0), *meds.stay_rows(subject=2, stay=12)]


def write_splits(folder: Path, subjects: list[float | None], splits: list[str | None]) -> None:
    (folder / "metadata").mkdir()
    pl.DataFrame({"subject_id": subjects, "split": splits}).write_parquet(folder / "metadata/subject_splits.parquet")


def test_ids_that_pandas_made_floating_point_numbers_are_read_as_integers(tmp_path):
    whole = meds.read_all(meds.write_meds(tmp_path / "whole", two_patients()))
    folder = meds.write_meds(tmp_path / "float", two_patients())
    floats = meds.read_all(rewrite(folder, **{name: pl.col(name).cast(pl.Float64).fill_null(float("nan")) for name in IDS}))
    assert floats.stays.equals(whole.stays)
    assert floats.events.equals(whole.events)
    assert floats.counts == whole.counts


@pytest.mark.parametrize("missing", [0, -1])
def test_an_id_of_zero_or_minus_one_is_none(tmp_path, missing):
    whole = meds.read_all(meds.write_meds(tmp_path / "whole", two_patients()))
    folder = meds.write_meds(tmp_path / "filled", two_patients())
    filled = meds.read_all(rewrite(folder, **{name: pl.col(name).fill_null(missing) for name in IDS[1:]}))
    assert filled.stays.equals(whole.stays)
    assert filled.events.equals(whole.events)


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("hadm_id", 101.5, pl.Float64),
        ("icustay_id", float("inf"), pl.Float64),
        ("order_id", 2.0**60, pl.Float64),
        ("hadm_id", 20_000_001.0, pl.Float32),
    ],
)
def test_ids_that_are_not_exact_are_refused_without_naming_them(tmp_path, column, value, kind):
    folder = meds.write_meds(tmp_path, meds.stay_rows())
    first = pl.int_range(pl.len()) == 0
    rewrite(folder, **{column: pl.when(first).then(pl.lit(value)).otherwise(pl.col(column)).cast(kind)})
    message = f"0.parquet: column '{column}' is Float.*, and 1 of its ids .*write it as nullable int64"
    with pytest.raises(SourceError, match=message) as error:
        meds.read_all(folder)
    assert str(value) not in str(error.value)


def test_a_row_without_a_subject_is_refused_with_its_file(tmp_path):
    folder = rewrite(meds.write_meds(tmp_path, two_patients()), subject_id=pl.when(pl.int_range(pl.len()) > 2).then("subject_id"))
    with pytest.raises(SourceError, match="0.parquet: column 'subject_id' is empty in .* rows"):
        meds.read_all(folder)


def test_a_patient_in_two_splits_is_refused(tmp_path):
    folder = meds.write_meds(tmp_path, two_patients())
    write_splits(folder, [1, 2, 1], ["train", "tuning", "held_out"])
    with pytest.raises(SourceError, match="subject_splits.parquet: 1 subjects are in more than one split"):
        meds.read_all(folder)


def test_splits_with_floating_point_ids_and_repeated_rows_are_read(tmp_path):
    folder = meds.write_meds(tmp_path, two_patients())
    write_splits(folder, [1.0, 2.0, 1.0, None, 2.0], ["train", "tuning ", "train", "train", None])
    assert meds.read_all(folder).stays["source_split"].to_pylist() == ["train", "tuning"]


def test_a_stay_does_not_take_the_hospitalisation_of_another_patient(tmp_path):
    base, other = mimic.hospital(), mimic.hospital(subject=2, stay=12, died=True)
    for name in ("patients", "admissions", "icustays"):
        base[name] += other[name]
    base["icustays"][0]["hadm_id"] = 102
    raw = mimic.read_all(mimic.write_mimic(tmp_path / "raw", {}, base))
    rows = [*meds.stay_rows(), *meds.stay_rows(subject=2, stay=12, died=True)]
    rows = [row | ({"hadm_id": 102} if row.get("icustay_id") == 11 else {}) for row in rows]
    converted = meds.read_all(meds.write_meds(tmp_path / "meds", rows))
    for tables in (raw, converted):
        assert tables.stays["died_in_hospital"].to_pylist() == [None, True]
        assert tables.stays["admission_type"].to_pylist() == [None, "EW EMER."]
        assert tables.counts["stay_without_admission"] == 1


def test_a_charted_row_with_the_stay_of_another_patient_is_left_out(tmp_path):
    base, other = mimic.hospital(), mimic.hospital(subject=2, stay=12)
    for name in ("patients", "admissions", "icustays"):
        base[name] += other[name]
    charted = [mimic.chart(220045, 2, 80.0), mimic.chart(220045, 3, 130.0, stay_id=12)]
    raw = mimic.read_all(mimic.write_mimic(tmp_path / "raw", {"chartevents": charted}, base))
    rows = [*two_patients(), meds.row("LAB//220045//bpm", 3, 130.0, icustay_id=12, hadm_id=101)]
    converted = meds.read_all(meds.write_meds(tmp_path / "meds", rows))
    for tables in (raw, converted):
        heart_rates = [event["value"] for event in tables.events.to_pylist() if event["variable"] == "heart_rate"]
        assert (heart_rates, tables.counts["without_stay"]) == ([80.0], 1)


def test_a_discharge_of_meds_under_another_patient_ends_no_stay(tmp_path):
    rows = meds.stay_rows()
    next(row for row in rows if row["code"].startswith("ICU_DISCHARGE"))["subject_id"] = 2
    rows = sorted([*rows, *meds.stay_rows(subject=2, stay=22)], key=lambda row: row["subject_id"])
    tables = meds.read_all(meds.write_meds(tmp_path, rows))
    assert (tables.stays["stay_id"].to_pylist(), tables.counts["stay_without_end"]) == ([22], 1)


def test_a_row_left_out_of_one_shard_is_not_left_out_of_another(tmp_path):
    """Shards of one partition number their rows from 0."""
    foreign = meds.chart(220045, 2, 150, "bpm", subject_id=2)
    meds.write_meds(tmp_path, [*meds.stay_rows(subject=2, stay=22), foreign], "data/train/1.parquet")
    meds.write_meds(tmp_path, [*meds.stay_rows(), meds.chart(220045, 1, 80, "bpm")])
    assert meds.events_of(meds.read_all(tmp_path), "heart_rate")[0]["value"] == 80
