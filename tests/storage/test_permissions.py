"""What holds or derives from patients can be read by its owner only, whatever the umask; what is made to be shared follows the umask."""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from clinjepa.storage import Folder
from clinjepa.storage.parts import write_part_table, write_record
from tests.support.machines.permissions import open_to_others


@pytest.fixture(params=[0o000, 0o022, 0o077, 0o277], ids=lambda mask: f"umask {mask:03o}")
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def every_kind_of_write(folder: Folder, local: Path) -> None:
    folder.write_bytes("a/b/c.bin", b"1")
    folder.write_json("a/x.json", {})
    folder.create_json("lease/00000001.json", {"owner": "a"})
    folder.write_table("t/x.parquet", pa.table({"x": [1]}))
    with folder.writing("deep/er/stream.bin") as stream:
        stream.write(b"1")
    folder.upload(local, "copied")
    (folder / "base").write_bytes("model.safetensors", b"1")
    write_record(folder / "parts", "p", {"schema_version": 1, "files": [write_part_table(folder, "part.parquet", pa.table({"x": [1]}))]})
    (folder / "for_a_library").make()


def test_every_way_to_write_makes_files_of_600_in_folders_of_700(umask: int, tmp_path: Path) -> None:
    local = tmp_path / "local"
    local.mkdir(mode=0o755)
    (local / "f").touch(0o644)
    every_kind_of_write(pickle.loads(pickle.dumps(Folder(tmp_path / "new" / "store"))), local)
    store = tmp_path / "new" / "store"
    assert open_to_others(store) == [] and len(list(store.rglob("*"))) > 15
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700


def test_what_is_made_to_be_shared_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        (tmp_path / "local").mkdir()
        every_kind_of_write(pickle.loads(pickle.dumps(Folder(tmp_path / "export", private=False))), tmp_path / "local")
    finally:
        os.umask(before)
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "export").rglob("*")}
    assert modes == {True: 0o755, False: 0o644}


def test_a_folder_that_exists_keeps_its_mode_and_what_is_new_in_it_is_private(tmp_path: Path) -> None:
    (tmp_path / "team").mkdir(mode=0o755)
    (tmp_path / "team").chmod(0o2775)
    Folder(tmp_path / "team").write_bytes("artifacts/x/y", b"1")
    assert stat.S_IMODE((tmp_path / "team").stat().st_mode) == 0o2775
    assert stat.S_IMODE((tmp_path / "team" / "artifacts").stat().st_mode) & 0o777 == 0o700


def test_a_file_that_others_could_read_is_replaced_by_one_that_they_cannot(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"0")
    (tmp_path / "x").chmod(0o644)
    Folder(tmp_path).write_bytes("x", b"1")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600


def test_the_stores_of_an_earlier_version_are_closed_when_a_run_begins(tmp_path: Path) -> None:
    for name in ("artifacts/ingest", "runs/demo", "ray_train", "other"):
        (tmp_path / name).mkdir(parents=True)
        for folder in (tmp_path / name, (tmp_path / name).parent):
            folder.chmod(0o755)
    Folder(tmp_path).check_writable()
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("artifacts", "runs", "ray_train", "other")}
    assert modes == {"artifacts": 0o700, "runs": 0o700, "ray_train": 0o700, "other": 0o755}


def test_a_stream_to_an_object_store_passes_a_private_folder_that_is_gone_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    folder = Folder("memory://store-of-this-test")
    before = os.umask(0)
    try:
        with folder.writing("x.bin") as stream:
            stream.write(b"1")
            assert [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "scratch").iterdir()] == [0o700]
            assert open_to_others(tmp_path / "scratch")[1:] == []
    finally:
        os.umask(before)
    assert folder.read_bytes("x.bin") == b"1" and list((tmp_path / "scratch").iterdir()) == []
