"""Storage behaves the same on a local disk and on a real S3 server, and its faults are one clear line."""

from __future__ import annotations

import errno
import pickle

import pyarrow as pa
import pytest

from clinjepa.errors import StorageError, StoreError
from clinjepa.storage import Folder


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


def test_only_one_of_two_creators_wins(folder: Folder) -> None:
    assert folder.create_bytes("lease/1.json", b"first")
    assert not folder.create_bytes("lease/1.json", b"second")
    assert folder.read_bytes("lease/1.json") == b"first"


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

    monkeypatch.setattr("clinjepa.storage.os.fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        folder.write_bytes("x.bin", b"1")
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_s3_address_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setattr("clinjepa.storage._RETRIES", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="s3://bucket-x/.*cannot be reached|s3://bucket-x/"):
        Folder("s3://bucket-x/p").write_bytes("x", b"1")


def test_a_refused_credential_is_told_in_one_line(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("clinjepa.storage._RETRIES", 1)
    with pytest.raises(StorageError, match="access refused"):
        Folder(s3_address + "/p").write_bytes("x", b"1")
