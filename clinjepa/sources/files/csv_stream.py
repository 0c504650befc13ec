"""A csv or csv.gz of any size as polars frames, block by block, in bounded memory.

One thread unpacks and cuts the text at the end of a row (a line break inside quotes does not end one), other threads parse the blocks
(`csv_rows.parse_block`). At most `ScanPlan.in_flight` blocks exist at a time. Frames come in the file's order. A fault is reported with
file, row, column and remedy; messages never quote a value.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, cast

import polars as pl
from isal import igzip, isal_zlib

from clinjepa.errors import SourceError, StorageError
from clinjepa.sources.files.csv_rows import BadRow, CsvFile, Keep, parse_block
from clinjepa.storage import Folder

_MB = 1024 * 1024
_PROCESS_MB = 300
"""Memory of a Python process with polars and Arrow before it reads anything."""

LONGEST_HEADER = 2**20
"""Maximal size of a header line in bytes."""

MOST_UNPACKED = 200
"""Limit of the bytes of text per byte of csv.gz. MIMIC-IV's tables have up to 12; gzip reaches 1,032."""

UNPACKED_ALLOWANCE = 2**30
"""Bytes of text that a csv.gz of any size may have."""

# isal's stub declares the exception class as an instance.
_BROKEN = (EOFError, gzip.BadGzipFile, zlib.error, cast(type[Exception], isal_zlib.error))


@dataclass(frozen=True)
class ScanPlan:
    """How a memory budget is used: bytes of one block of text, blocks at a time, bytes of rows collected before they are written."""

    block_bytes: int
    in_flight: int
    buffer_bytes: int

    @classmethod
    def within(cls, memory_mb: int, threads: int | None = None) -> ScanPlan:
        """The largest plan whose peak stays within the budget; SourceError when the budget is too small."""
        in_flight = min(8, pl.thread_pool_size() if threads is None else threads) + 1
        free = (memory_mb - _PROCESS_MB) * _MB
        block = min(16 * _MB, int(free * 0.4) // (4 * (in_flight + 2)))
        if block < _MB // 4:
            raise SourceError(
                f"{memory_mb} MB are too little to read a table (a process needs {_PROCESS_MB} MB before it begins); "
                "raise execution.memory_mb, or extract fewer tables at a time with execution.local_num_cpus"
            )
        return cls(block, in_flight, min(128 * _MB, int(free * 0.6) // 2))

    @property
    def peak_mb(self) -> int:
        """Estimate of the peak: a block counts four times (text, strings, frame, kept rows), a buffer twice (rows, packed file)."""
        return _PROCESS_MB + (4 * self.block_bytes * (self.in_flight + 2) + 2 * self.buffer_bytes) // _MB


def process_mb() -> int:
    """Memory of a process before it reads anything, in MB."""
    return _PROCESS_MB


def least_memory_mb() -> int:
    """Memory in MB with which any table can be read at a reasonable speed."""
    return _PROCESS_MB + 400


def scan(file: CsvFile, plan: ScanPlan, keep: Keep, counts: Counter[str]) -> Iterator[tuple[pl.DataFrame, int]]:
    """The blocks of a file in order, as pairs (frame of the kept rows, number of rows of the block).

    Frames have the columns of `file.columns`, with times as strings (see `csv_rows.parse_times`), and `row` int64, the row's place in
    the file from 0.

    Args:
        file: The file and its columns.
        plan: Block size and number of blocks in memory.
        keep: Selects the rows to keep.
        counts: Receives the counts of `keep`, and `invalid_utf8:<file>`: rows with bytes that are not UTF-8, which are replaced.

    Raises:
        SourceError: A row cannot be read, or the file was truncated or altered.
        StorageError: Reading stopped.
    """
    with ThreadPoolExecutor(1) as unpacker, ThreadPoolExecutor(plan.in_flight) as parsers, open_stream(file.folder, file.name) as stream:
        blocks = _blocks(file, stream, plan.block_bytes)
        pending: deque[Future[tuple[pl.DataFrame, int, Counter[str]]]] = deque()
        first_row = 0
        coming: Future[bytes] | None = unpacker.submit(next, blocks, b"")
        try:
            while coming is not None or pending:
                if coming is not None and len(pending) < plan.in_flight:
                    block = _unpacked(coming, file, first_row)
                    coming = unpacker.submit(next, blocks, b"") if block else None
                    if block:
                        pending.append(parsers.submit(parse_block, file, block, keep))
                    continue
                try:
                    frame, num_rows, found = pending.popleft().result()
                except BadRow as fault:
                    raise SourceError(f"{file.where}, row {first_row + fault.row + 2}: {fault.what}") from None
                counts.update(found)
                yield frame.with_columns(pl.col("row") + first_row), num_rows
                first_row += num_rows
        finally:
            for parsing in pending:
                parsing.cancel()
            if coming is not None:
                coming.cancel()


@contextmanager
def open_stream(folder: Folder, name: str) -> Iterator[IO[bytes]]:
    """The unpacked bytes of a csv or csv.gz."""
    with folder.reading(name) as raw:
        if not name.endswith(".gz"):
            yield raw
            return
        try:
            with igzip.IGzipFile(fileobj=raw, mode="rb") as unpacked:  # type: ignore[no-untyped-call]  # isal's constructor has no types
                yield cast(IO[bytes], unpacked)
        except _BROKEN as error:
            raise _broken(f"{folder.address}/{name}", error, None) from None


def read_line(stream: IO[bytes], where: str) -> bytes:
    """The first line, at most LONGEST_HEADER bytes; StorageError or SourceError when it cannot be read."""
    try:
        return stream.readline(LONGEST_HEADER)
    except _BROKEN as error:
        raise _broken(where, error, None) from None
    except OSError as error:
        raise StorageError(f"{where}: cannot be read ({type(error).__name__}); check the disk or the network") from None


def _blocks(file: CsvFile, stream: IO[bytes], block_bytes: int) -> Iterator[bytes]:
    """Pieces of about `block_bytes` that end at the end of a row."""
    stream.readline(LONGEST_HEADER)  # the header
    most = max(UNPACKED_ALLOWANCE, MOST_UNPACKED * file.folder.size(file.name)) if file.name.endswith(".gz") else None
    rest, num_bytes = b"", 0
    while chunk := stream.read(block_bytes):
        num_bytes += len(chunk)
        if most is not None and num_bytes > most:
            raise SourceError(f"{file.where}: unpacks to more than {MOST_UNPACKED} times its size, which no table does; get the file again")
        block = rest + chunk
        cut = _last_row_end(block)
        if cut == 0 and len(block) > 8 * block_bytes:
            raise SourceError(
                f"{file.where}: a quotation mark is never closed, or a row is longer than {8 * block_bytes // _MB} MB; get the file again"
            )
        rest = block[cut:]
        if cut:
            yield block[:cut]
    if rest.strip():
        yield _whole_last_row(file, rest)


def _last_row_end(block: bytes) -> int:
    """Number of bytes up to and including the last line break outside quotes; 0 when there is none."""
    end = block.rfind(b"\n") + 1
    quotes = block.count(b'"', 0, end)
    while end and quotes % 2:
        before = block.rfind(b"\n", 0, end - 1) + 1
        quotes -= block.count(b'"', before, end)
        end = before
    return end


def _whole_last_row(file: CsvFile, rest: bytes) -> bytes:
    fault = SourceError(f"{file.where}: the last row ends in the middle; the file was cut short, get it again")
    if rest.count(b'"') % 2:
        raise SourceError(f"{file.where}: a quotation mark is never closed, or the file was cut short; get it again")
    try:
        fields = list(csv.reader(io.StringIO(rest.decode("utf-8", errors="replace"), newline="")))
    except csv.Error:
        raise fault from None
    if len(fields[-1]) < len(file.header):
        raise fault
    return rest


def _unpacked(coming: Future[bytes], file: CsvFile, first_row: int) -> bytes:
    try:
        return coming.result()
    except _BROKEN as error:
        raise _broken(file.where, error, first_row) from None
    except OSError as error:
        raise StorageError(
            f"{file.where}: reading stopped after row {first_row + 1} ({type(error).__name__}); check the disk or the network "
            "and run again, finished tables are kept"
        ) from None


def _broken(where: str, error: BaseException, row: int | None) -> SourceError:
    after = "" if row is None else f" after row {row + 1}"
    return SourceError(f"{where}: not a complete gzip file{after} ({type(error).__name__}); it was cut short or altered, get it again")
