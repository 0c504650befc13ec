"""Storage behaves the same on a local disk and on a real S3 server, and its faults are one clear line."""

from __future__ import annotations

import errno
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from clinjepa.errors import StorageError, StoreError
from clinjepa.storage import Folder
from tests.support.machines.cli import ROOT, environment


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path) -> Folder:
    if request.param == "local":
        return Folder(tmp_path / "store")
    return Folder(request.getfixturevalue("s3_address") + "/store")


def test_what_was_written_is_read_back(folder: Folder) -> None:
    folder.write_bytes("a/b.bin", b"0123456789")
    folder.write_json("c.json", {"x": [1, 2.5, None]})
    folder.write_table("t.parquet", pa.table({"x": [1, 2, 3]}))
    assert folder.read_bytes("a/b.bin", start=2, end=5) == b"234"
    assert folder.read_json("c.json") == {"x": [1, 2.5, None]}
    assert folder.read_table("t.parquet").column("x").to_pylist() == [1, 2, 3]
    assert folder.names() == ["a", "c.json", "t.parquet"]
    assert folder.names("nowhere") == []
    assert folder.size("a/b.bin") == 10


def test_a_stream_appears_whole_or_not_at_all(folder: Folder) -> None:
    with folder.writing("a/whole.bin") as stream:
        stream.write(b"one")
        assert not folder.exists("a/whole.bin")
        stream.write(b"two")
    assert folder.read_bytes("a/whole.bin") == b"onetwo"
    with pytest.raises(RuntimeError), folder.writing("a/torn.bin") as stream:
        stream.write(b"one")
        raise RuntimeError("cut")
    assert folder.names("a") == ["whole.bin"]


def test_a_folder_that_travelled_to_another_process_is_the_same(folder: Folder) -> None:
    folder.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).read_bytes("x") == b"1"
    same = pickle.loads(pickle.dumps(folder.fs))  # as Ray Train sends it
    assert type(same) is type(folder.fs) and same.cat_file(folder.path("x")) == b"1"


def test_only_one_of_two_creators_wins(folder: Folder) -> None:
    assert folder.create_bytes("lease/1.json", b"first")
    assert not folder.create_bytes("lease/1.json", b"second")
    assert folder.read_bytes("lease/1.json") == b"first"


def test_files_below_a_folder_are_listed_with_their_sizes(folder: Folder) -> None:
    assert folder.files() == {}
    folder.write_bytes("a/b/c.bin", b"123")
    folder.write_bytes("a/d.bin", b"")
    assert folder.files() == {"a/b/c.bin": 3, "a/d.bin": 0}
    assert folder.files("a/b") == {"c.bin": 3}


def test_strays_beside_files_are_not_listed(folder: Folder) -> None:
    """A copy of a store on a Mac or a USB disk has a `._` file beside every file."""
    for name in ("parts/0.json", "parts/._0.json", "parts/.DS_Store", "parts/.ipynb_checkpoints/0.json", "parts/~$0.json", "Thumbs.db"):
        folder.write_bytes(name, b"1")
    assert (folder.names(), folder.names("parts"), folder.files()) == (["parts"], ["0.json"], {"parts/0.json": 1})


def test_a_missing_file_is_named(folder: Folder) -> None:
    with pytest.raises(StoreError, match="nowhere.json is missing"):
        folder.read_json("nowhere.json")


def test_cut_json_and_parquet_are_refused_by_name(folder: Folder) -> None:
    folder.write_bytes("x.json", b'{"a": ')
    folder.write_bytes("x.parquet", b"PAR1....")
    with pytest.raises(StoreError, match=r"x\.json is not valid JSON"):
        folder.read_json("x.json")
    with pytest.raises(StoreError, match=r"x\.parquet is not a readable Parquet"):
        folder.read_table("x.parquet")


def test_folders_are_copied_to_and_from_local_disk(folder: Folder, tmp_path) -> None:
    local = tmp_path / "here"
    (local / "sub").mkdir(parents=True)
    (local / "sub" / "f").write_bytes(b"42")
    folder.upload(local, "there")
    with folder.local_copy("there") as path:
        assert (path / "sub" / "f").read_bytes() == b"42"
    folder.remove("there")
    assert not folder.exists("there/sub/f")


def test_a_full_disk_is_told_in_one_line_and_leaves_no_torn_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path)

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("clinjepa.storage.local.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        folder.write_bytes("x.bin", b"1")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["a file in its way", "read-only", "inside a file system of the kernel"])
def test_a_folder_that_cannot_be_written_says_why(fault: str, tmp_path) -> None:
    place, words = tmp_path / "store", "is a file, not a folder"
    if fault == "a file in its way":
        place.write_text("")
    elif fault == "read-only":
        place.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=64k", "tmpfs", str(place)], capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("a read-only disk can only be made by root with the right to mount")
        words = "mounted read-only"
    else:
        place, words = Path("/proc/clinjepa"), "no folder can be made there"
    folder = Folder(place)
    try:
        for write in (folder.check_writable, lambda: folder.create_bytes("a/x", b"1"), lambda: folder.write_json("a/x", {})):
            with pytest.raises(StorageError, match=words) as caught:
                write()
            assert folder.address in str(caught.value) and "storage=" in str(caught.value) and "is missing" not in str(caught.value)
    finally:
        if fault == "read-only":
            subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_folder_without_permission_says_so_to_a_user_who_is_not_root(tmp_path) -> None:
    tmp_path.chmod(0o755)
    code = "import os, sys\nfrom clinjepa.errors import StorageError\nfrom clinjepa.storage import Folder\n"
    code += f"folder = Folder({str(tmp_path / 'store')!r})\nassert folder.is_local\n"  # what it imports, it imports as root
    code += "if os.getuid() == 0: os.setuid(65534)\n"
    code += "try: folder.check_writable()\nexcept StorageError as error: print(error)"
    (tmp_path / "store").mkdir(mode=0o555)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(PYTHONPATH=str(ROOT)))
    assert "has no permission to write here" in told.stdout, told.stderr[-1000:]
