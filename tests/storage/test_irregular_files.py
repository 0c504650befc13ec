"""A pipe or a device in the place of a stored file is named, by every way to read a file, and never waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from tests.support.machines.pipes import put_pipe


def put_zeros(path: Path) -> None:
    """A link to a device that never ends."""
    path.symlink_to("/dev/zero")


def first_byte(folder: Folder, name: str) -> bytes:
    with folder.reading(name) as stream:
        return stream.read(1)


def local_copy(folder: Folder, name: str) -> bytes:
    with folder.local_copy(name) as path:
        return path.read_bytes()


READS: dict[str, Callable[[Folder, str], object]] = {
    "read_bytes": Folder.read_bytes,
    "reading": first_byte,
    "read_json": Folder.read_json,
    "parquet": Folder.parquet,
    "read_table": Folder.read_table,
    "read_row_group": lambda folder, name: folder.read_row_group(name, 0),
    "digest": Folder.digest,
    "local_copy": local_copy,
    "create_bytes": lambda folder, name: folder.create_bytes(name, b"mine"),
}


@pytest.mark.parametrize("put", [put_pipe, put_zeros])
@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_what_is_no_regular_file_is_named_and_not_waited_for(
    tmp_path: Path, read: Callable[[Folder, str], object], put: Callable[[Path], None]
) -> None:
    put(tmp_path / "there")
    with pytest.raises(StoreError, match="/there is no regular file .a pipe, a socket or a device.; put a file there"):
        read(Folder(tmp_path), "there")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may enter every folder")
def test_a_folder_that_cannot_be_entered_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with pytest.raises(Exception, match="no permission to read here"):
        Folder(tmp_path).read_bytes("closed/there")


def test_a_folder_in_the_place_of_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name in ("reading", "digest", "read_row_group"):
        with pytest.raises(Exception, match="/there is a folder, a file is needed there"):
            READS[name](Folder(tmp_path), "there")
