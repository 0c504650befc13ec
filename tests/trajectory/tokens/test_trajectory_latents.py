"""The latent store gives back what was written, by range, in either precision."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens import latent_store as latents
from clinjepa.trajectory.tokens.latent_store import LatentReader, LatentWriter, finish_latents, part_index

DIM = 8


def stay_latents(stay_id: int, num_hours: int, dim: int = DIM):
    rng = np.random.default_rng(stay_id)
    return stay_id, *(rng.normal(size=shape).astype(np.float32) for shape in ((dim,), (num_hours, dim), (num_hours, dim)))


@pytest.fixture
def store(tmp_path):
    folder = Folder(tmp_path)
    LatentWriter("encoder").write_part(folder, "b", [stay_latents(7, 5), stay_latents(3, 9)])
    LatentWriter("encoder").write_part(folder, "a", [stay_latents(11, 4)])
    finish_latents(folder)
    return folder


@pytest.mark.parametrize("whole_stay_bytes", [1 << 20, 1], ids=["whole stays cached", "exact ranges"])
def test_every_window_of_every_stay_is_what_was_written(store, monkeypatch, whole_stay_bytes):
    monkeypatch.setattr(latents, "WHOLE_STAY_BYTES", whole_stay_bytes)
    reader = LatentReader(store)
    for stay_id, num_hours in ((7, 5), (3, 9), (11, 4)):
        _, z_static, z_state, z_action = stay_latents(stay_id, num_hours)
        for start in range(num_hours):
            for count in (None, 0, 1, num_hours - start):
                stop = num_hours if count is None else start + count
                got = reader.stay(stay_id, start, count)
                for part, expected in zip(got, (z_static, z_state[start:stop], z_action[start:stop]), strict=True):
                    np.testing.assert_array_equal(part, expected)
                    assert part.dtype == np.float32


def test_a_long_stay_is_read_by_the_bytes_of_its_window(store, monkeypatch):
    monkeypatch.setattr(latents, "WHOLE_STAY_BYTES", 1)
    asked = []
    read_bytes = Folder.read_bytes
    monkeypatch.setattr(
        Folder, "read_bytes", lambda self, name, start=None, end=None: asked.append((start, end)) or read_bytes(self, name, start, end)
    )
    reader = LatentReader(store)
    assert reader.num_hours(3) == 9 and reader.dim == DIM
    asked.clear()
    reader.stay(3, 2, 4)
    row_bytes = DIM * 4
    assert sorted(end - start for start, end in asked if end is not None and end - start != 8)[-3:] == [
        row_bytes,
        4 * row_bytes,
        4 * row_bytes,
    ]


def test_a_range_that_was_read_is_not_read_again(store, monkeypatch):
    reader = LatentReader(store)
    first = reader.stay(7)
    monkeypatch.setattr(Folder, "read_bytes", lambda *args: pytest.fail("read again"))
    for once, again in zip(first, reader.stay(7), strict=True):
        np.testing.assert_array_equal(once, again)


def test_what_a_reader_hands_out_can_be_changed_without_harm(store):
    reader = LatentReader(store)
    reader.stay(7)[1][:] = 0
    np.testing.assert_array_equal(reader.stay(7)[1], stay_latents(7, 5)[2])


def test_the_cache_stays_within_its_bytes(store):
    reader = LatentReader(store, cache_bytes=12 * DIM * 4)
    for stay_id in (7, 3, 11, 7):
        np.testing.assert_array_equal(reader.stay(stay_id)[1], stay_latents(stay_id, reader.num_hours(stay_id))[2])
    assert sum(rows.nbytes for rows in reader._cache.values()) == reader._cached_bytes <= 12 * DIM * 4


def test_bfloat16_on_disk_comes_back_as_torch_rounds_it(tmp_path):
    torch = pytest.importorskip("torch")
    folder = Folder(tmp_path)
    _, z_static, z_state, z_action = stay_latents(7, 50)
    z_state[0] = 1 + np.arange(DIM) / 256  # every other one lies halfway between two bfloat16
    LatentWriter("encoder", "bfloat16").write_part(folder, "a", [(7, z_static, z_state, z_action)])
    assert finish_latents(folder)["dtype"] == "bfloat16"
    np.testing.assert_array_equal(LatentReader(folder).stay(7)[1], torch.from_numpy(z_state).bfloat16().float().numpy())


def test_a_part_is_an_ordinary_safetensors_file(store):
    from safetensors.numpy import load

    rows = load(store.read_bytes("latents/a.safetensors"))["latents"]
    np.testing.assert_array_equal(rows[0], stay_latents(11, 4)[1])
    assert rows.shape == (9, DIM)


def test_a_written_part_knows_its_index_rows(store):
    rows = LatentWriter("encoder").write_part(store, "b", [stay_latents(7, 5), stay_latents(3, 9)])
    assert part_index(store, "b", "encoder") == rows
    assert part_index(store, "c", "encoder") is None


def test_a_part_of_another_encoder_is_not_the_part_asked_for(store):
    assert part_index(store, "b", "another encoder") is None


def test_parts_of_different_encoders_make_no_store(store):
    LatentWriter("another encoder").write_part(store, "c", [stay_latents(5, 4)])
    with pytest.raises(StoreError, match="made by 2 different encoders; remove the folder"):
        finish_latents(store)


def test_a_store_knows_its_encoder_and_refuses_to_pass_for_another_ones(store):
    reader = pickle.loads(pickle.dumps(LatentReader(store)))
    assert reader.encoder_digest == "encoder"
    reader.check_encoder("encoder", "encoder-folder")
    with pytest.raises(StoreError, match=f"than encoder-folder: .*; remove {store.address} and run again"):
        reader.check_encoder("another encoder", "encoder-folder")


def test_a_part_of_another_schema_version_is_named_as_such(store, monkeypatch):
    monkeypatch.setattr(latents, "SCHEMA_VERSION", 1)
    LatentWriter("encoder").write_part(store, "old", [stay_latents(9, 4)])
    monkeypatch.undo()
    with pytest.raises(StoreError, match="old.safetensors has schema version 1, this code reads 2"):
        finish_latents(store)


def test_a_reader_travels_between_processes(store):
    reader = pickle.loads(pickle.dumps(LatentReader(store)))
    assert reader.stay_ids == [3, 7, 11]


def test_a_stay_of_another_store_is_refused_without_naming_it(store):
    with pytest.raises(StoreError) as raised:
        LatentReader(store).stay(987654)
    assert "987654" not in str(raised.value)


def test_hours_beyond_the_stay_are_refused(store):
    with pytest.raises(StoreError, match="of a stay of 5 h"):
        LatentReader(store).stay(7, 2, 4)


def test_an_object_store_gives_the_same_latents(store, tmp_path):
    remote = Folder(f"memory://latents-{tmp_path.name}")
    remote.upload(tmp_path)
    for there, here in zip(LatentReader(remote).stay(3, 2, 4), LatentReader(store).stay(3, 2, 4), strict=True):
        np.testing.assert_array_equal(there, here)


def test_a_cut_file_is_refused(store):
    data = store.read_bytes("latents/a.safetensors")
    store.write_bytes("latents/a.safetensors", data[:-4])
    with pytest.raises(StoreError, match="it was cut"):
        LatentReader(store).stay(11)


def test_a_latent_that_is_not_finite_is_not_written(tmp_path):
    bad = stay_latents(7, 5)
    bad[2][3, 1] = np.nan
    with pytest.raises(StoreError, match="1 latents are not finite"):
        LatentWriter("encoder").write_part(Folder(tmp_path), "a", [bad])


def test_a_stay_in_two_parts_is_refused(tmp_path):
    for name in ("a", "b"):
        LatentWriter("encoder").write_part(Folder(tmp_path), name, [stay_latents(7, 5)])
    with pytest.raises(StoreError, match="more than one part"):
        finish_latents(Folder(tmp_path))
