"""Checkpoints are whole or not used, and the one before is then taken."""

from __future__ import annotations

import json
import resource

import pytest
import torch

from clinjepa.curriculum.checkpoints.checkpoint import CheckpointWriter, checkpoint_folder, find_checkpoint, save_checkpoint
from clinjepa.errors import CheckpointError, StorageError
from clinjepa.storage import Folder

JOB = {"settings": "digest-of-the-settings", "encoder": "digest-of-the-encoder", "predictor": "digest-of-the-predictor"}


@pytest.fixture
def folder(tmp_path):
    folder = Folder(tmp_path)
    for step in (4, 8):
        save_checkpoint(folder, step, {"predictor": {"w": torch.full((3,), float(step))}}, json.dumps({"at": step}), JOB, keep=3)
    return folder


def test_the_newest_is_found_with_what_was_saved(folder):
    found = find_checkpoint(folder, JOB)
    assert (found.step, found.state(), found.tensors("predictor")["w"].tolist()) == (8, {"at": 8}, [8.0, 8.0, 8.0])


def test_without_a_checkpoint_none_is_found(tmp_path):
    assert find_checkpoint(Folder(tmp_path / "nothing"), JOB) is None


def cut_manifest(place: Folder) -> None:
    place.remove("manifest.json")


def cut_tensors(place: Folder) -> None:
    place.write_bytes("predictor.safetensors", place.read_bytes("predictor.safetensors")[:-1])


def alter_tensors(place: Folder) -> None:
    data = bytearray(place.read_bytes("predictor.safetensors"))
    data[-1] ^= 1
    place.write_bytes("predictor.safetensors", bytes(data))


def remove_state(place: Folder) -> None:
    place.remove("state.json")


def scramble_manifest(place: Folder) -> None:
    place.write_bytes("manifest.json", b"[1, 2")


def mix_with_the_older(place: Folder) -> None:
    older = checkpoint_folder(Folder(place.address.rsplit("/", 1)[0]), 4)
    place.write_bytes("predictor.safetensors", older.read_bytes("predictor.safetensors"))


def alter_the_step(place: Folder) -> None:
    place.write_json("manifest.json", {**place.read_json("manifest.json"), "step": 10})


def strike_a_file_off(place: Folder) -> None:
    manifest = place.read_json("manifest.json")
    del manifest["files"]["predictor.safetensors"]
    place.write_json("manifest.json", manifest)


def take_the_manifest_of_the_older(place: Folder) -> None:
    older = checkpoint_folder(Folder(place.address.rsplit("/", 1)[0]), 4)
    for name in older.names():
        place.write_bytes(name, older.read_bytes(name))


DAMAGES = [
    cut_manifest,
    cut_tensors,
    alter_tensors,
    remove_state,
    scramble_manifest,
    mix_with_the_older,
    alter_the_step,
    strike_a_file_off,
    take_the_manifest_of_the_older,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_with_a_warning_and_the_one_before_is_taken(folder, damage):
    damage(checkpoint_folder(folder, 8))
    with pytest.warns(UserWarning, match="step-00000008.*the checkpoint before it is taken"):
        found = find_checkpoint(folder, JOB)
    assert found.step == 4


def test_a_checkpoint_of_another_job_is_an_error(folder):
    with pytest.raises(CheckpointError, match="job with other settings"):
        find_checkpoint(folder, JOB | {"settings": "others"})


@pytest.mark.parametrize("inputs", [{"encoder": "another"}, {"latents": "new"}, {"predictor": "another", "encoder": "another"}])
def test_a_checkpoint_made_from_other_inputs_is_an_error_that_names_them_and_the_remedy(folder, inputs):
    with pytest.raises(CheckpointError) as raised:
        find_checkpoint(folder, JOB | inputs)
    assert f"({', '.join(sorted(inputs))})" in str(raised.value) and f"or remove {folder.address} to train" in str(raised.value)


def test_a_checkpoint_of_another_schema_is_an_error(folder):
    place = checkpoint_folder(folder, 8)
    place.write_json("manifest.json", {**place.read_json("manifest.json"), "schema_version": 0})
    with pytest.raises(CheckpointError, match="schema 0"):
        find_checkpoint(folder, JOB)


def test_only_the_newest_are_kept(folder):
    save_checkpoint(folder, 12, {}, "{}", JOB, keep=2)
    assert folder.names() == ["step-00000008", "step-00000012"]


def test_what_was_cut_short_does_not_keep_the_place_of_a_whole_one(folder):
    cut_manifest(checkpoint_folder(folder, 8))
    save_checkpoint(folder, 12, {}, "{}", JOB, keep=2)
    assert folder.names() == ["step-00000004", "step-00000012"]


def test_what_was_refused_is_removed_when_the_job_passes_its_step_again(folder):
    cut_manifest(checkpoint_folder(folder, 8))
    save_checkpoint(folder, 6, {}, "{}", JOB, keep=2)
    assert folder.names() == ["step-00000004", "step-00000006"]


def test_what_is_saved_beside_the_training_is_what_it_was_when_it_was_given(tmp_path):
    writer, state = CheckpointWriter(Folder(tmp_path), JOB, keep=2, asynchronous=True), {"steps": [1]}
    writer.save(4, {"predictor": {"w": torch.ones(1 << 20)}}, state)
    state["steps"].append(2)  # the training goes on
    writer.save(8, {"predictor": {"w": torch.zeros(3)}}, state)  # waits for the one before
    assert find_checkpoint(Folder(tmp_path), JOB) is not None
    writer.wait()
    assert writer.is_whole() and writer.num_saves == 2
    found = find_checkpoint(Folder(tmp_path), JOB)
    older = checkpoint_folder(Folder(tmp_path), 4)
    assert (found.step, found.state(), older.read_json("state.json")) == (8, {"steps": [1, 2]}, {"steps": [1]})


def test_a_write_that_failed_beside_the_training_is_raised_and_the_one_before_is_kept(tmp_path):
    writer = CheckpointWriter(Folder(tmp_path), JOB, keep=2, asynchronous=True)
    writer.save(4, {}, {})
    writer.wait()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))  # from now on no file may grow beyond 4 kB
    try:
        writer.save(8, {"predictor": {"w": torch.ones(1 << 16)}}, {})
        with pytest.raises(StorageError):
            writer.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert find_checkpoint(Folder(tmp_path), JOB).step == 4
