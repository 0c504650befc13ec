"""The simulator's patients written as a MIMIC-IV folder (`hosp/`, `icu/`, csv.gz), of any size, in bounded memory.

Blocks of patients are simulated and compressed in parallel and appended in order, so each table is one gzip stream like PhysioNet's
files. The same seed gives the same rows for any number of workers and any block size.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from typing import IO, TypedDict

from clinjepa.config.schema import SimulatorConfig, SourceConfig
from clinjepa.config.section import result_fields
from clinjepa.sources.simulated.gzip_stream import Deflated, GzipStream, deflated
from clinjepa.sources.simulated.mimic_filler import table_definitions
from clinjepa.sources.simulated.mimic_rows import block_tables, dictionary_tables
from clinjepa.sources.simulated.source import MODEL_VERSION, SimulatorSource
from clinjepa.storage import Folder

RECORD = "simulated.json"
"""Name of the record, which is written last."""

MIMIC_DENSITY = 1.7
"""`measurement_density` at which the rows of the dictionary's items per stay-day are close to those of the MIMIC-IV demo."""

MIMIC_STAY_HOURS = 75.0
"""`mean_stay_hours` at which the mean stay is as long as in MIMIC-IV (3.6 days; sick patients stay longer than planned)."""

PATIENTS_PER_BLOCK = 32


class WrittenTables(TypedDict):
    """Record of a finished folder: the simulator's version and settings, number of stays, rows of every table."""

    model_version: int
    settings: dict[str, object]
    num_stays: int
    rows: dict[str, int]


def write_simulated_mimic(
    out: Folder,
    settings: SimulatorConfig,
    workers: int = 1,
    patients_per_block: int = PATIENTS_PER_BLOCK,
    on_progress: Callable[[int], None] = lambda patients: None,
) -> WrittenTables:
    """Write the tables of `settings.num_patients` patients under `out`. At most two blocks per worker are in memory.

    Args:
        out: Target folder. Without `simulated.json` it is not finished.
        settings: Settings of the simulator.
        workers: Number of processes; 1 runs in this process.
        patients_per_block: Patients that are simulated together.
        on_progress: Called with the number of finished patients.

    Returns:
        The record, as it is written to `simulated.json`.
    """
    out.remove(RECORD)
    rows: Counter[str] = Counter()
    names = list(table_definitions()["tables"])
    with ExitStack() as stack:
        streams = {name: GzipStream(stack.enter_context(_opened(out, f"{name}.csv.gz"))) for name in names}
        for name, table in dictionary_tables().items():
            streams[name].append(deflated(table.write_csv().encode()))
        done = 0
        for block in _blocks(settings, workers, patients_per_block):
            for name, piece in block.items():
                streams[name].append(piece)
                rows[name] += piece.lines - (done == 0)
            done = min(settings.num_patients, done + patients_per_block)
            on_progress(done)
        for stream in streams.values():
            stream.close()
    record: WrittenTables = {
        "model_version": MODEL_VERSION,
        "settings": result_fields(settings),
        "num_stays": rows["icu/icustays"],
        "rows": {name: rows[name] for name in names if rows[name]},
    }
    out.write_json(RECORD, record)
    return record


def make_block(settings: SimulatorConfig, first_patient: int, num_patients: int) -> dict[str, Deflated]:
    """The compressed rows of a block of patients, by table; the first block starts with the header line."""
    source = SimulatorSource(SourceConfig(kind="simulator", simulator=settings))
    stays = list(source.simulate({"first_patient": first_patient, "num_patients": num_patients, "max_stay_id": None}))
    pieces = {}
    for name, table in block_tables(stays, settings.seed, settings.measurement_density).items():
        text = table.write_csv(include_header=first_patient == 0, datetime_format="%Y-%m-%d %H:%M:%S")
        pieces[name] = deflated(text.encode())
    return pieces


def _blocks(settings: SimulatorConfig, workers: int, size: int) -> Iterator[dict[str, Deflated]]:
    """All blocks in order, made by `workers` processes (in this process when `workers` is 1)."""
    total = settings.num_patients
    spans = [(first, min(size, total - first)) for first in range(0, total, size)]
    if workers <= 1:
        yield from (make_block(settings, first, number) for first, number in spans)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_ignore_interrupts) as pool:
        waiting: list[Future[dict[str, Deflated]]] = []
        try:
            for first, number in spans:
                waiting.append(pool.submit(make_block, settings, first, number))
                if len(waiting) >= 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        except BaseException:
            # The pool would wait until its workers have finished what they began. `terminate_workers` exists from Python 3.14 on.
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of a terminal; a worker leaves it to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _opened(out: Folder, name: str) -> AbstractContextManager[IO[bytes]]:
    out.fs.makedirs(out.path(name).rsplit("/", 1)[0], exist_ok=True)
    stream: AbstractContextManager[IO[bytes]] = out.fs.open(out.path(name), "wb")
    return stream
