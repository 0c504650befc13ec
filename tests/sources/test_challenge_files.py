"""Record files of both challenges as editors, notebooks and file managers leave them: byte-order marks, strays, files of any size."""

from __future__ import annotations

import codecs
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.errors import ClinJepaError, SourceError
from clinjepa.sources import open_source
from clinjepa.sources.challenges import record_files
from clinjepa.sources.challenges.cinc2019 import COLUMNS
from clinjepa.storage import Folder
from tests.support.machines.pipes import put_pipe

CINC2012 = b"Time,Parameter,Value\n00:00,RecordID,5\n00:00,Age,54\n02:00,HR,80\n"
OUTCOMES = b"RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n5,6,1,5,-1,0\n"
CINC2019 = "|".join(COLUMNS).encode() + b"\n" + b"80|" + b"NaN|" * 33 + b"61.5|1|0|1|-2.5|1|0\n"


class Case(NamedTuple):
    """A challenge: its kind of source, the set's name, and its files as they are published."""

    kind: str
    name: str
    record: str
    files: dict[str, bytes]


CASES = {
    "cinc2012": Case("cinc2012", "set-a", "set-a/5.txt", {"set-a/5.txt": CINC2012, "Outcomes-a.txt": OUTCOMES}),
    "cinc2019": Case("cinc2019", "training_setA", "training_setA/p000005.psv", {"training_setA/p000005.psv": CINC2019}),
}
WAYS = pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
BOTH = pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))


def write(folder: Path, case: Case, zipped: bool, changed: dict[str, bytes] | None = None) -> Path:
    for name, content in (case.files | (changed or {})).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if zipped:
        with zipfile.ZipFile(folder / f"{case.name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted((folder / case.name).rglob("*")):
                archive.write(path, path.relative_to(folder).as_posix())
        shutil.rmtree(folder / case.name)
    return folder


def read(folder: Path | str, case: Case):
    source = open_source(SourceConfig(kind=case.kind, path=str(folder), num_partitions=1))
    (partition,) = source.partitions()
    return source.read(partition)


def refusal(folder: Path, case: Case) -> str:
    with pytest.raises(SourceError) as error:
        read(folder, case)
    assert "\n" not in str(error.value)
    return str(error.value)


ENCODINGS: dict[str, Callable[[str], bytes]] = {
    "utf-8 mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "two utf-8 marks": lambda text: 2 * codecs.BOM_UTF8 + text.encode(),
    "utf-16 little": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "utf-16 big": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "utf-16 without mark": lambda text: text.encode("utf-16-le"),
    "utf-16 big without mark": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "CRLF": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "CR": lambda text: text.replace("\n", "\r").encode(),
    "blank lines behind": lambda text: text.encode() + b"\n\r\n \t\n",
}


@pytest.mark.parametrize("encode", ENCODINGS.values(), ids=list(ENCODINGS))
@WAYS
@BOTH
def test_every_text_file_is_read_in_the_encoding_of_its_mark(tmp_path, case, zipped, encode):
    wanted = read(write(tmp_path / "plain", case, zipped), case)
    marked = {name: encode(content.decode()) for name, content in case.files.items()}
    found = read(write(tmp_path / "marked", case, zipped, marked), case)
    assert found.events.num_rows and found.events.equals(wanted.events) and found.stays.equals(wanted.stays)


@BOTH
def test_a_mark_at_the_start_of_a_later_line_is_no_part_of_a_value(tmp_path, case):
    head, _, rest = case.files[case.record].partition(b"\n")
    found = read(write(tmp_path / "a", case, False, {case.record: head + b"\n" + codecs.BOM_UTF8 + rest}), case)
    assert found.events.equals(read(write(tmp_path / "b", case, False), case).events)


@WAYS
def test_utf_16_that_is_cut_is_refused_with_the_byte(tmp_path, zipped):
    case = CASES["cinc2012"]
    cut = codecs.BOM_UTF16_LE + CINC2012.decode().encode("utf-16-le")[:-1]
    assert "5.txt: byte" in refusal(write(tmp_path, case, zipped, {case.record: cut}), case)


STRAYS = ["._{name}", ".ipynb_checkpoints/{name}", "~${name}", ".~lock.{name}", "__MACOSX/{name}", "Thumbs.db", ".DS_Store", "desktop.ini"]


@pytest.mark.parametrize("stray", STRAYS)
@WAYS
@BOTH
def test_strays_beside_the_records_are_not_read(tmp_path, case, zipped, stray):
    name = case.record.rsplit("/", 1)[-1]
    folder = write(tmp_path, case, zipped, {f"{case.name}/{stray.format(name=name)}": b"\0\5\26\7not a record"})
    assert read(folder, case).stays["stay_id"].to_pylist() == [5]


@WAYS
@BOTH
def test_a_pipe_in_the_place_of_a_file_is_named_and_not_waited_for(tmp_path, case, zipped):
    write(tmp_path, case, zipped)
    put_pipe(tmp_path / (f"{case.name}.zip" if zipped else case.record))
    with pytest.raises(ClinJepaError, match="is no regular file"):
        read(tmp_path, case)
    with pytest.raises(ClinJepaError, match="is no regular file"):
        open_source(SourceConfig(kind=case.kind, path=str(tmp_path))).content_digest()


def test_a_pipe_in_the_place_of_an_outcome_file_is_named(tmp_path):
    put_pipe(write(tmp_path, CASES["cinc2012"], False) / "Outcomes-a.txt")
    with pytest.raises(ClinJepaError, match="Outcomes-a.txt is no regular file"):
        open_source(SourceConfig(kind="cinc2012", path=str(tmp_path))).content_digest()


@BOTH
def test_a_folder_with_the_name_of_a_zip_is_named(tmp_path, case):
    (write(tmp_path, case, False) / case.name).rename(tmp_path / f"{case.name}.zip")
    with pytest.raises(ClinJepaError, match=f"{case.name}.zip is a folder, a file is needed there; move it away"):
        read(tmp_path, case)


def test_strays_alone_are_no_records(tmp_path):
    (tmp_path / "._p000005.psv").write_bytes(b"\0\5\26\7")
    assert "training_setA.zip is missing" in refusal(tmp_path, CASES["cinc2019"])


def test_blanks_around_numbers_are_no_part_of_them(tmp_path):
    case = CASES["cinc2012"]
    spaced = {case.record: CINC2012.replace(b",", b" , "), "Outcomes-a.txt": OUTCOMES.replace(b",", b" , ").replace(b"5 ", b"\t5.0 ")}
    found = read(write(tmp_path / "a", case, False, spaced), case)
    wanted = read(write(tmp_path / "b", case, False), case)
    assert found.events.equals(wanted.events) and found.stays.equals(wanted.stays)
    case = CASES["cinc2019"]
    found = read(write(tmp_path / "c", case, False, {case.record: CINC2019.replace(b"|", b" | ")}), case)
    assert found.events.equals(read(write(tmp_path / "d", case, False), case).events)


@WAYS
@BOTH
def test_a_record_above_the_limit_is_refused_unread(tmp_path, case, zipped):
    """2 GB of one repeated line would take minutes and all memory; refused by the size that the zip or the disk states."""
    large = case.files[case.record] + b"02:00,HR,80\n" * (record_files.MOST_RECORD_BYTES // 12 + 1)
    message = refusal(write(tmp_path, case, zipped, {case.record: large}), case)
    assert f"{case.record}: larger than 4 MB" in message


def test_a_member_that_declares_less_than_it_holds_is_refused(tmp_path):
    case = CASES["cinc2012"]
    large = CINC2012 + b"02:00,HR,80\n" * (record_files.MOST_RECORD_BYTES // 12 + 1)
    path = write(tmp_path, case, True, {case.record: large}) / "set-a.zip"
    content = path.read_bytes().replace(struct.pack("<L", len(large)), struct.pack("<L", 100))
    path.write_bytes(content)
    assert "set-a.zip: not a whole zip" in refusal(tmp_path, case)


def test_the_records_of_a_part_are_bounded_together(tmp_path, monkeypatch):
    monkeypatch.setattr(record_files, "MOST_PART_BYTES", len(CINC2012) - 1)
    case = CASES["cinc2012"]
    assert "the 1 records of one partition unpack to over" in refusal(write(tmp_path, case, True), case)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_whose_output_cannot_be_bounded_is_refused(tmp_path, method):
    case = CASES["cinc2012"]
    write(tmp_path, case, True)
    with zipfile.ZipFile(tmp_path / "set-a.zip", "w", method) as archive:
        archive.writestr(case.record, CINC2012)
    assert "5.txt: packed in another way than with deflate" in refusal(tmp_path, case)


def test_an_encrypted_member_is_named(tmp_path):
    case = CASES["cinc2012"]
    path = write(tmp_path, case, True) / "set-a.zip"
    content = bytearray(path.read_bytes())
    central = content.rindex(b"PK\x01\x02", 0, content.rindex(b"PK\x05\x06"))
    content[central + 8] |= 1
    path.write_bytes(bytes(content))
    assert "5.txt: encrypted; unpack it into the folder set-a/" in refusal(tmp_path, case)


def test_an_outcome_file_above_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("clinjepa.sources.challenges.cinc2012._MOST_OUTCOME_BYTES", 2**20)
    case = CASES["cinc2012"]
    assert "Outcomes-a.txt: larger than 1 MB" in refusal(write(tmp_path, case, False, {"Outcomes-a.txt": OUTCOMES + b" " * 2**20}), case)


def test_strays_in_an_object_store_are_not_read(tmp_path):
    case = CASES["cinc2012"]
    Folder("memory://strays").upload(write(tmp_path, case, False, {"set-a/._5.txt": b"\0", "set-a/.ipynb_checkpoints/5.txt": CINC2012}))
    assert read("memory://strays", case).stays["stay_id"].to_pylist() == [5]


@WAYS
@BOTH
def test_a_suffix_in_capitals_is_a_suffix(tmp_path, case, zipped):
    capital = case.record.rsplit("/", 1)[0] + "/" + case.record.rsplit("/", 1)[1].upper()
    files = {capital if name == case.record else name: content for name, content in case.files.items()}
    found = read(write(tmp_path, case._replace(files=files), zipped), case)
    assert found.stays["stay_id"].to_pylist() == [5]


@BOTH
def test_a_folder_with_other_records_beside_the_zip_is_told(tmp_path, case, recwarn):
    write(write(tmp_path, case, True), case, False)
    assert read(tmp_path, case).stays["stay_id"].to_pylist() == [5] and not recwarn.list
    other = tmp_path / case.record.replace("5.", "6.")
    other.write_bytes(case.files[case.record])
    with pytest.warns(UserWarning, match=f"{case.name}.zip is read, and not the folder {case.name}/ beside it, which has 1 records"):
        assert read(tmp_path, case).stays["stay_id"].to_pylist() == [5]
