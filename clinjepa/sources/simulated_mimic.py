"""The simulator's second writer: its patients as a MIMIC-IV folder (`hosp/`, `icu/`, csv.gz), of any size, in bounded memory.

Blocks of patients are made in parallel and appended in order. Each table is one gzip stream, as PhysioNet's files are: a block is deflated
where it is made, and the checksums are joined here. The same seed gives the same rows for any number of workers and any block size.
"""

from __future__ import annotations

import multiprocessing
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from typing import IO, Any

from clinjepa.config.schema import SimulatorConfig, SourceConfig, result_fields
from clinjepa.sources.simulated_mimic_filler import table_definitions
from clinjepa.sources.simulated_mimic_rows import block_tables, dictionary_tables
from clinjepa.sources.simulator import MODEL_VERSION, SimulatorSource
from clinjepa.storage import Folder

RECORD = "simulated.json"
"""Written last: settings and rows of every table."""

MIMIC_DENSITY = 1.7
"""`measurement_density` at which rows of the dictionary's items per stay-day come near those of the MIMIC-IV demo."""

MIMIC_STAY_HOURS = 75.0
"""`mean_stay_hours` at which a stay is as long as in MIMIC-IV (3.6 days; sick patients stay longer than planned)."""

PATIENTS_PER_BLOCK = 32
_GZIP_LEVEL = 6
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"
_ZEROS = bytes(1 << 20)
_Piece = tuple[bytes, int, int, int]
"""Deflated bytes, CRC-32 and length of what they hold, rows."""


def write_simulated_mimic(
    out: Folder,
    settings: SimulatorConfig,
    workers: int = 1,
    patients_per_block: int = PATIENTS_PER_BLOCK,
    on_progress: Callable[[int], None] = lambda patients: None,
) -> dict[str, Any]:
    """Write the tables of `settings.num_patients` patients under `out`; returns the record (num_stays, rows per table).

    At most two blocks per worker are in memory. A folder without `simulated.json` is not finished. on_progress: patients done.
    """
    out.remove(RECORD)
    rows: Counter[str] = Counter()
    names = list(table_definitions()["tables"])
    with ExitStack() as stack:
        streams = {name: _GzipStream(stack.enter_context(_opened(out, f"{name}.csv.gz"))) for name in names}
        for name, table in dictionary_tables().items():
            streams[name].append(_deflated(table.write_csv(include_header=True).encode(), table.height))
        done = 0
        for block in _blocks(settings, workers, patients_per_block):
            for name, piece in block.items():
                streams[name].append(piece)
                rows[name] += piece[3]
            done = min(settings.num_patients, done + patients_per_block)
            on_progress(done)
        for stream in streams.values():
            stream.close()
    record = {
        "model_version": MODEL_VERSION,
        "settings": result_fields(settings),
        "num_stays": rows["icu/icustays"],
        "rows": {name: rows[name] for name in names if rows[name]},
    }
    out.write_json(RECORD, record)
    return record


def make_block(settings: SimulatorConfig, first_patient: int, num_patients: int) -> dict[str, _Piece]:
    """The deflated rows of a block of patients, by table; the first block begins with the header line."""
    source = SimulatorSource(SourceConfig(kind="simulator", simulator=settings))
    stays = list(source.simulate({"first_patient": first_patient, "num_patients": num_patients, "max_stay_id": None}))
    pieces = {}
    for name, table in block_tables(stays, settings.seed, settings.measurement_density).items():
        text = table.write_csv(include_header=first_patient == 0, datetime_format="%Y-%m-%d %H:%M:%S")
        pieces[name] = _deflated(text.encode(), table.height)
    return pieces


def _blocks(settings: SimulatorConfig, workers: int, size: int) -> Iterator[dict[str, _Piece]]:
    """All blocks in order, made by `workers` processes (in this one when there is one)."""
    total = settings.num_patients
    spans = [(first, min(size, total - first)) for first in range(0, total, size)]
    if workers <= 1:
        yield from (make_block(settings, first, number) for first, number in spans)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: list[Future[dict[str, _Piece]]] = []
        try:
            for first, number in spans:
                waiting.append(pool.submit(make_block, settings, first, number))
                if len(waiting) >= 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


class _GzipStream:
    """One gzip member made of pieces that were deflated apart."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._crc, self._size = file, 0, 0
        file.write(_GZIP_HEADER)

    def append(self, piece: _Piece) -> None:
        data, crc, size, _ = piece
        self._file.write(data)
        # CRC-32 is affine: that of A then B is that of B plus what A's becomes over as many zeros as B is long.
        self._crc = _over_zeros(self._crc, size) ^ _over_zeros(0, size) ^ crc
        self._size += size

    def close(self) -> None:
        self._file.write(zlib.compressobj(wbits=-15).flush())
        self._file.write(self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little"))


def _over_zeros(crc: int, size: int) -> int:
    for start in range(0, size, len(_ZEROS)):
        crc = zlib.crc32(_ZEROS[: min(len(_ZEROS), size - start)], crc)
    return crc


def _deflated(content: bytes, rows: int) -> _Piece:
    """A run of whole deflate blocks that does not end the stream."""
    squeeze = zlib.compressobj(_GZIP_LEVEL, wbits=-15)
    data = squeeze.compress(content) + squeeze.flush(zlib.Z_FULL_FLUSH)
    return data, zlib.crc32(content), len(content), rows


def _opened(out: Folder, name: str) -> Any:
    out.fs.makedirs(out.path(name).rsplit("/", 1)[0], exist_ok=True)
    return out.fs.open(out.path(name), "wb")
