"""The store of changed actions gives back what was written, resumes by part, and refuses what does not belong together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.changed_actions import (
    ChangedActionReader,
    ChangedStay,
    Origin,
    ShiftCounts,
    finish_changed_actions,
    is_finished,
    write_changed_part,
)

DIM = 4
ORIGIN = Origin("encoder", 4.0)


def counts(num_stays: int, num_changed: int) -> ShiftCounts:
    return {
        "num_stays": num_stays,
        "num_hours": 10 * num_stays,
        "num_changed": num_changed,
        "num_doses": 2 * num_changed,
        "num_unread": 1,
        "num_tokens": 7 * num_changed,
    }


def changed(stay_id: int, *hours: int) -> ChangedStay:
    z_ND = np.random.default_rng(stay_id).normal(size=(len(hours), DIM)).astype(np.float32)
    return ChangedStay(stay_id, np.array(hours, np.int64), z_ND)


STAYS = {7: changed(7, 2, 3, 9), 3: changed(3), 11: changed(11, 0), 5: changed(5)}


@pytest.fixture
def store(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    write_changed_part(folder, "b", ORIGIN, "float32", [STAYS[7], STAYS[3], STAYS[11]], counts(3, 4))
    write_changed_part(folder, "a", ORIGIN, "float32", [STAYS[5]], counts(1, 0))  # nothing changed: no row, of no width
    finish_changed_actions(folder)
    return folder


def test_every_stay_has_its_hours_and_latents(store: Folder) -> None:
    reader = ChangedActionReader(store)
    for stay in STAYS.values():
        hours_N, z_ND = reader.stay(stay.stay_id)
        assert hours_N.tolist() == stay.hours_N.tolist()
        if len(hours_N):
            np.testing.assert_array_equal(z_ND, stay.z_ND)
            assert z_ND.dtype == np.float32
    assert reader.origin == ORIGIN


def test_counts_are_those_of_all_parts(store: Folder) -> None:
    assert ChangedActionReader(store).counts == {**counts(4, 4), "num_unread": 2}


def test_latents_of_bfloat16_come_back_rounded(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    write_changed_part(folder, "a", ORIGIN, "bfloat16", [STAYS[7]], counts(1, 3))
    finish_changed_actions(folder)
    np.testing.assert_allclose(ChangedActionReader(folder).stay(7)[1], STAYS[7].z_ND, rtol=2**-8)


def test_a_part_is_finished_for_its_own_encoder_and_factor_alone(store: Folder) -> None:
    assert is_finished(store, "a", ORIGIN) and is_finished(store, "b", ORIGIN)
    assert not is_finished(store, "c", ORIGIN)
    assert not is_finished(store, "b", Origin("another", 4.0)) and not is_finished(store, "b", Origin("encoder", 2.0))


def test_parts_of_different_encoders_make_no_store(store: Folder) -> None:
    write_changed_part(store, "c", Origin("another", 4.0), "float32", [changed(1, 1)], counts(1, 1))
    with pytest.raises(StoreError, match="differ in encoder, factor, width or precision; remove the folder"):
        finish_changed_actions(store)


def test_a_store_without_parts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no part"):
        finish_changed_actions(Folder(tmp_path))


def test_a_store_of_another_encoder_is_refused(store: Folder) -> None:
    reader = ChangedActionReader(store)
    reader.check_encoder("encoder", "latents-folder")
    with pytest.raises(StoreError, match=f"another encoder than the latents in latents-folder: .*remove {store.address}"):
        reader.check_encoder("another", "latents-folder")


def test_a_stay_of_another_split_is_refused_without_naming_it(store: Folder) -> None:
    with pytest.raises(StoreError) as raised:
        ChangedActionReader(store).stay(987654)
    assert "987654" not in str(raised.value)


def test_a_damaged_or_older_file_is_named(store: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write_bytes("actions/a.safetensors", b"not one")
    with pytest.raises(StoreError, match="a.safetensors is not a latent file"):
        finish_changed_actions(store)
    monkeypatch.setattr("clinjepa.trajectory.tokens.changed_actions.SCHEMA_VERSION", 2)
    with pytest.raises(StoreError, match="b.safetensors has schema version 1, this code reads 2"):
        is_finished(store, "b", ORIGIN)
    with pytest.raises(StoreError, match="has schema version 1, this code reads 2"):
        ChangedActionReader(store).stay(7)


def test_a_latent_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    bad = ChangedStay(7, np.array([2]), np.full((1, DIM), np.nan, np.float32))
    with pytest.raises(StoreError, match="1 latents are not finite"):
        write_changed_part(Folder(tmp_path), "a", ORIGIN, "float32", [bad], counts(1, 1))
