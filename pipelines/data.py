"""`clinjepa data list|get`: the open ICU data sets. (`data audit`: audit.py, `data show`: show.py.)"""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from clinjepa.sources.open_data import get_open_data, list_open_data

_console = Console()


def list_data() -> None:
    table = Table("name", "what", "licence", "size", "address")
    for entry in list_open_data():
        table.add_row(entry.name, entry.title, entry.licence, entry.size_text, entry.address)
    _console.print(table)


def get_data(name: str, folder: str) -> None:
    get_open_data(name, folder)


if __name__ == "__main__":
    from pipelines.cli import main

    main("data")
