"""Open data sets: what is there is verified and not fetched again, what is damaged or out of reach is told in one line."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from clinjepa.errors import SourceError
from clinjepa.sources import open_data
from clinjepa.sources.open_data import DataFile, OpenDataset, get_open_data, list_open_data, verifies

CONTENT = bytes(range(256)) * 400


class _RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files with byte ranges and notes the first byte asked for."""

    asked: list[int] = []

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        self.asked.append(start)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, *args: object) -> None:
        """Quiet."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_RangeHandler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> Iterator[OpenDataset]:
    """A data set of one file on a local web server, in place of the registry."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "records.bin").write_bytes(CONTENT)
    _RangeHandler.asked = []
    with served(tmp_path / "web") as address:
        file = DataFile("records.bin", "file", hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
        entry = OpenDataset("tiny", "Tiny", "CC0", address, "https://example.org/tiny", None, {}, (file,), None)
        monkeypatch.setattr(open_data, "_registry", lambda: {"tiny": entry})
        yield entry


def get(folder: Path) -> list[str]:
    said: list[str] = []
    get_open_data("tiny", str(folder), said.append)
    return said


def test_every_known_data_set_has_licence_address_and_checksums():
    entries = list_open_data()
    assert [entry.name for entry in entries] == ["mimic-iv-demo-meds", "mimic-iv-demo", "cinc2012", "cinc2019"]
    assert all(
        entry.licence and entry.address.startswith("https://") and all(len(file.sha256) == 64 for file in entry.files) for entry in entries
    )


def test_a_data_set_is_fetched_and_verified(tmp_path, dataset):
    said = get(tmp_path / "data")
    assert (tmp_path / "data" / "records.bin").read_bytes() == CONTENT
    assert "complete" in said[-1]


def test_what_is_there_already_is_not_fetched_again(tmp_path, dataset):
    get(tmp_path / "data")
    _RangeHandler.asked.clear()
    assert "already complete" in get(tmp_path / "data")[0]
    assert _RangeHandler.asked == []


def test_a_download_that_was_cut_goes_on_where_it_stopped(tmp_path, dataset):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.bin.part").write_bytes(CONTENT[:1000])
    get(tmp_path / "data")
    assert _RangeHandler.asked == [1000]
    assert (tmp_path / "data" / "records.bin").read_bytes() == CONTENT


def test_an_altered_file_is_fetched_again(tmp_path, dataset):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "records.bin").write_bytes(b"altered")
    get(tmp_path / "data")
    assert (tmp_path / "data" / "records.bin").read_bytes() == CONTENT


def test_a_file_with_another_checksum_is_never_kept(tmp_path, dataset):
    (tmp_path / "web" / "records.bin").write_bytes(b"something else")
    with pytest.raises(SourceError, match="another SHA-256"):
        get(tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_download_that_does_not_end_is_stopped_at_the_published_size(tmp_path, dataset):
    (tmp_path / "web" / "records.bin").write_bytes(CONTENT * 100)
    with pytest.raises(SourceError, match="records.bin is larger than its published 0.1 MB"):
        get(tmp_path / "data")


def test_a_zip_whose_members_are_too_large_does_not_verify_and_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(open_data, "MOST_UNPACKED_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("1.txt", "o" * 1001)
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: pytest.fail("was unpacked"))
    assert not verifies(tmp_path / "a.zip", DataFile("a.zip", "members", "0" * 64, None))


def test_out_of_reach_says_what_to_get_from_where_and_where_to_put_it(tmp_path, dataset, monkeypatch):
    unreachable = replace(dataset, address="http://127.0.0.1:9/")
    monkeypatch.setattr(open_data, "_registry", lambda: {"tiny": unreachable})
    with pytest.raises(SourceError, match=f"Get by hand from https://example.org/tiny and put into {tmp_path / 'data'}: records.bin"):
        get(tmp_path / "data")


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(SourceError, match="'eicu' is not known; known are mimic-iv-demo-meds"):
        get_open_data("eicu", str(tmp_path))


def test_an_object_store_is_no_folder_to_put_data_into(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="a folder of this machine"):
        get_open_data("cinc2012", "s3://bucket/data")
    assert not list(tmp_path.iterdir())


def test_a_zip_is_recognised_by_its_members_whatever_its_dates(tmp_path):
    for name, year in (("a", 2001), ("b", 2020)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("set/1.txt", (year, 1, 1, 0, 0, 0)), "one")
    digest = hashlib.sha256(b"1.txt:3:7a6c86f1;").hexdigest()
    file = DataFile("x.zip", "members", digest, None)
    assert verifies(tmp_path / "a.zip", file) and verifies(tmp_path / "b.zip", file)


def test_a_zip_cut_short_does_not_verify(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("1.txt", "one" * 1000)
    shutil.copy(tmp_path / "a.zip", tmp_path / "b.zip")
    (tmp_path / "b.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    assert not verifies(tmp_path / "b.zip", DataFile("b.zip", "members", "0" * 64, None))


def test_no_line_of_progress_holds_a_credential(dataset, tmp_path, monkeypatch):
    closed = replace(dataset, address="http://ann:pl4nted@127.0.0.1:9/")
    monkeypatch.setattr(open_data, "_registry", lambda: {"tiny": closed})
    said: list[str] = []
    with pytest.raises(SourceError):
        get_open_data("tiny", str(tmp_path / "out"), said.append)
    assert any("does not work here" in line and "***" in line for line in said) and "pl4nted" not in str(said)
