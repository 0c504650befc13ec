"""The split is patient-disjoint, stratified, and a function of patients and seed alone."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clinjepa.config.schema import SplitConfig
from clinjepa.errors import SourceError
from clinjepa.trajectory.hours.split import SPLITS, draw_split


def stays_of(patients: list[tuple[int, bool | None, bool | None]], num_stays: int = 2) -> pl.DataFrame:
    rows = [(subject, died if stay == 0 else False, sepsis, None) for subject, died, sepsis in patients for stay in range(num_stays)]
    schema = {"subject_id": pl.Int64, "died_in_hospital": pl.Boolean, "sepsis": pl.Boolean, "source_split": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


PATIENTS = st.lists(
    st.tuples(st.integers(1, 10**9), st.sampled_from([True, False, None]), st.sampled_from([True, False, None])),
    min_size=3,
    max_size=120,
    unique_by=lambda p: p[0],
)


@given(patients=PATIENTS)
def test_every_patient_is_in_one_split_and_every_split_has_patients(patients):
    stays = stays_of(patients)
    stays = stays.with_columns(draw_split(stays, SplitConfig()))
    assert stays.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1
    assert set(stays["split"]) == set(SPLITS)


@given(patients=PATIENTS, seed=st.integers(0, 5))
def test_the_order_of_rows_changes_no_patients_split(patients, seed):
    stays = stays_of(patients)
    shuffled = stays.sample(fraction=1.0, shuffle=True, seed=seed)
    drawn = dict(zip(stays["subject_id"], draw_split(stays, SplitConfig()), strict=True))
    assert drawn == dict(zip(shuffled["subject_id"], draw_split(shuffled, SplitConfig()), strict=True))


def test_each_stratum_is_cut_in_proportion():
    patients = [(subject, subject % 10 == 0, subject % 3 == 0) for subject in range(2000)]
    stays = stays_of(patients, num_stays=1)
    stays = stays.with_columns(draw_split(stays, SplitConfig()))
    for died in (True, False):
        for sepsis in (True, False):
            stratum = stays.filter((pl.col("died_in_hospital") == died) & (pl.col("sepsis") == sepsis))
            for split, fraction in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
                assert abs((stratum["split"] == split).sum() - fraction * stratum.height) <= 2


def test_another_seed_draws_another_split():
    stays = stays_of([(subject, False, None) for subject in range(200)])
    assert draw_split(stays, SplitConfig(seed=1)).to_list() != draw_split(stays, SplitConfig(seed=2)).to_list()


def test_fewer_patients_than_splits_are_refused():
    with pytest.raises(SourceError, match="2 patients are left"):
        draw_split(stays_of([(1, False, None), (2, False, None)]), SplitConfig())


def test_the_sources_own_split_is_taken_when_asked_for():
    stays = stays_of([(subject, False, None) for subject in range(3)], num_stays=1).with_columns(
        pl.Series("source_split", ["held_out", "train", "tuning"])
    )
    assert draw_split(stays, SplitConfig(use_source_split=True)).to_list() == ["held_out", "train", "tuning"]


def test_a_source_split_that_tears_a_patient_apart_is_refused():
    stays = stays_of([(1, False, None)], num_stays=2).with_columns(pl.Series("source_split", ["train", "held_out"]))
    with pytest.raises(SourceError, match="1 patients are in more than one split"):
        draw_split(stays, SplitConfig(use_source_split=True))
