"""Streaming a csv of any size: the cuts between blocks change nothing, and the budget decides how much is in memory."""

from __future__ import annotations

import gzip
import io
import time
from collections import Counter
from contextlib import contextmanager

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.errors import SourceError, StorageError
from clinjepa.sources.extraction import ExtractionPlan
from clinjepa.sources.files import csv_stream
from clinjepa.sources.files.csv_rows import MOST_LINES, CsvFile, parse_times
from clinjepa.sources.files.csv_stream import ScanPlan, scan
from clinjepa.storage import Folder

COLUMNS = {"id": "integer", "note": "text"}


def csv_file(folder, content: bytes, packed: bool = True) -> CsvFile:
    name = "notes.csv.gz" if packed else "notes.csv"
    (folder / name).write_bytes(gzip.compress(content, 1) if packed else content)
    return CsvFile(Folder(folder), name, ["id", "note"], COLUMNS)


def everything(file: CsvFile, block_bytes: int) -> pl.DataFrame:
    plan = ScanPlan(block_bytes, in_flight=2, buffer_bytes=1)
    return pl.concat([frame for frame, _ in scan(file, plan, lambda frame, counts: frame, Counter())])


notes = st.lists(st.text(st.sampled_from('ab ,"\n;é'), max_size=12), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None)
@given(texts=notes, block_bytes=st.integers(40, 200), packed=st.booleans())
def test_cuts_between_blocks_change_nothing(tmp_path_factory, texts, block_bytes, packed):
    lines = "".join(f'{place},"{text.replace(chr(34), chr(34) * 2)}"\n' for place, text in enumerate(texts))
    file = csv_file(tmp_path_factory.mktemp("csv"), ("id,note\n" + lines).encode(), packed)
    found = everything(file, block_bytes)
    assert found["note"].to_list() == texts
    assert found["id"].to_list() == found["row"].to_list() == list(range(len(texts)))


def test_a_fault_far_into_the_file_is_named_with_its_row(tmp_path):
    lines = [f"{place},x" for place in range(1000)]
    lines[777] = "many,x"
    file = csv_file(tmp_path, ("id,note\n" + "\n".join(lines) + "\n").encode())
    with pytest.raises(SourceError, match="notes.csv.gz, row 779: the value of column 'id' is not an integer"):
        everything(file, 100)


def test_a_connection_that_breaks_is_no_broken_file(tmp_path, monkeypatch):
    class Broken(io.BytesIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 100:
                raise ConnectionResetError("reset")
            return super().read(size)

    @contextmanager
    def opened(folder: Folder, name: str):
        yield Broken(b"id,note\n" + b"1,x\n" * 100)

    monkeypatch.setattr(csv_stream, "open_stream", opened)
    with pytest.raises(StorageError, match=r"notes.csv.gz: reading stopped after row \d+ \(ConnectionResetError\); check the disk"):
        everything(csv_file(tmp_path, b"id,note\n"), 60)


def test_only_the_blocks_of_the_plan_are_unpacked_ahead(tmp_path):
    file = csv_file(tmp_path, b"id,note\n" + b"1,x\n" * 10_000, packed=False)
    seen = 0

    def keep(frame: pl.DataFrame, counts: Counter[str]) -> pl.DataFrame:
        nonlocal seen
        seen += 1
        return frame

    blocks = scan(file, ScanPlan(400, in_flight=3, buffer_bytes=1), keep, Counter())
    next(blocks)
    time.sleep(0.3)  # what was unpacked has been parsed by now
    assert seen <= 4
    blocks.close()


@pytest.mark.parametrize("threads", [1, 2, 16, 128])
@pytest.mark.parametrize("memory_mb", [700, 1024, 4096, 65536])
def test_the_plan_stays_inside_its_budget(memory_mb, threads):
    assert ScanPlan.within(memory_mb, threads).peak_mb <= memory_mb


@pytest.mark.parametrize(("memory_mb", "cpus", "at_a_time"), [(512, 8, 1), (1400, 8, 2), (4096, 2, 2), (16384, 64, 3)])
def test_as_many_tables_at_a_time_as_cpus_and_memory_allow(memory_mb, cpus, at_a_time):
    pieces = [{"table": name, "bytes": 10**9} for name in ("a", "b", "c")]
    plan = ExtractionPlan.of(pieces, memory_mb, cpus)
    assert plan.at_a_time == at_a_time
    assert plan.estimate_mb <= memory_mb


WIDE = ["id", "other", "note", "last"]


def wide_file(folder, lines: list[str], header: list[str] = WIDE) -> CsvFile:
    """Of four columns, of which two are read."""
    (folder / "wide.csv").write_text("\n".join([",".join(header), *lines]) + "\n")
    return CsvFile(Folder(folder), "wide.csv", header, COLUMNS)


@pytest.mark.parametrize("place", [0, 1, 5, 127, 128, 300, 999])
@pytest.mark.parametrize(("line", "fields"), [("7,x,6,2,y", 5), ("7,x,y", 3)])
def test_a_row_of_too_many_or_too_few_fields_is_refused_wherever_it_stands(tmp_path, place, line, fields):
    lines = [f"{number},x,y,z" for number in range(1000)]
    lines[place] = line
    file = wide_file(tmp_path, lines)
    with pytest.raises(SourceError, match=f"wide.csv, row {place + 2}: {fields} fields, the header has 4"):
        everything(file, 3000)


@pytest.mark.parametrize("quoted", ["", '"a, b"'])
def test_a_long_row_is_not_made_up_for_by_a_short_one(tmp_path, quoted):
    file = wide_file(tmp_path, [f"1,x,y,{quoted}", "2,x,y,z,w", "3,x,y", "4,x,y,z"])
    with pytest.raises(SourceError, match="wide.csv, row 3: 5 fields"):
        everything(file, 3000)


def test_rows_of_one_column_and_blank_lines_are_no_rows_with_other_fields(tmp_path):
    (tmp_path / "one.csv").write_text("id\n\n\n1\n2\n")
    file = CsvFile(Folder(tmp_path), "one.csv", ["id"], {"id": "integer"})
    assert everything(file, 100)["id"].to_list() == [1, 2]
    assert everything(wide_file(tmp_path, ["", "1,x,y,z", "2,x,y,z", ""]), 3000)["id"].drop_nulls().to_list() == [1, 2]


def test_a_field_that_goes_over_many_lines_is_taken_for_two_stray_marks(tmp_path):
    lines = [f"{number},x,y,z" for number in range(500)]
    lines[50], lines[50 + MOST_LINES] = '50,x,"y,z', '150,x,y",z'
    assert everything(wide_file(tmp_path, lines), 10**6).height == 500 - MOST_LINES
    lines[50 + MOST_LINES], lines[300] = "150,x,y,z", '300,x,y",z'
    with pytest.raises(SourceError, match="wide.csv, row 52: a field in quotation marks spans 250 lines"):
        everything(wide_file(tmp_path, lines), 10**6)


@pytest.mark.parametrize("number", ["1_000", "12345678901234567890"])
def test_what_python_takes_for_an_integer_is_named_where_polars_does_not(tmp_path, number):
    lines = [f"{place},x" for place in range(9)]
    lines[4] = f"{number},x"
    with pytest.raises(SourceError, match="notes.csv.gz, row 6: the value of column 'id' is not an integer"):
        everything(csv_file(tmp_path, ("id,note\n" + "\n".join(lines) + "\n").encode()), 1000)


def test_columns_that_are_passed_over_may_have_one_name_or_none(tmp_path):
    file = wide_file(tmp_path, ["1,,y,"], ["id", "", "note", ""])
    assert everything(file, 100).select("id", "note").rows() == [(1, "y")]


def test_an_empty_time_in_quotes_is_none(tmp_path):
    (tmp_path / "times.csv").write_text('id,at\n1,""\n2,"2150-01-01 10:00:00"\n3,2150-01-01\n')
    file = CsvFile(Folder(tmp_path), "times.csv", ["id", "at"], {"id": "integer", "at": "time"})
    plan = ScanPlan(1000, in_flight=1, buffer_bytes=1)
    ((frame, _),) = scan(file, plan, lambda frame, counts: parse_times(frame, file), Counter())
    assert [at and at.hour for at in frame["at"].to_list()] == [None, 10, 0]
