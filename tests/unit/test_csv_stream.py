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
from clinjepa.sources import csv_stream
from clinjepa.sources.csv_stream import CsvFile, ScanPlan, scan
from clinjepa.sources.extraction import ExtractionPlan
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
    with pytest.raises(SourceError, match="notes.csv.gz, row 779: column 'id' holds no integer"):
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
