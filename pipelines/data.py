"""`clinjepa data list|get|simulate`: the open ICU data sets, and simulated MIMIC-IV tables of any size.

`data audit` is in audit.py, `data show` in show.py.
"""

from __future__ import annotations

import os

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from clinjepa.config.schema import SimulatorConfig
from clinjepa.sources.open_data import get_open_data, list_open_data
from clinjepa.sources.simulated.mimic_writer import MIMIC_DENSITY, MIMIC_STAY_HOURS, PATIENTS_PER_BLOCK, write_simulated_mimic
from clinjepa.storage import Folder

_console = Console()


def list_data() -> None:
    table = Table("name", "what", "licence", "size", "address")
    for entry in list_open_data():
        table.add_row(entry.name, entry.title, entry.licence, entry.size_text, entry.address)
    _console.print(table)


def get_data(name: str, folder: str) -> None:
    get_open_data(name, folder)


def simulate_data(folder: str, patients: int, seed: int, workers: int | None) -> None:
    """Write simulated MIMIC-IV tables; workers: processes, default one per CPU that this process may use."""
    settings = SimulatorConfig(num_patients=patients, seed=seed, mean_stay_hours=MIMIC_STAY_HOURS, measurement_density=MIMIC_DENSITY)
    number = workers or min(len(os.sched_getaffinity(0)), -(-patients // PATIENTS_PER_BLOCK))
    with Progress(console=_console) as progress:
        task = progress.add_task(f"{patients} patients", total=patients)
        record = write_simulated_mimic(Folder(folder), settings, number, on_progress=lambda done: progress.update(task, completed=done))
    rows = sum(record["rows"].values())
    _console.print(f"{record['num_stays']} stays, {rows} rows in {folder}; read them with source.kind=mimic_iv source.path={folder}")


if __name__ == "__main__":
    from pipelines.cli import main

    main("data")
