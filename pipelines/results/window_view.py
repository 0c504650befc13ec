"""One window of a trajectory store: its texts and its hour grid, on the terminal or as a page."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from clinjepa.addresses import plain_address
from clinjepa.errors import StoreError
from clinjepa.report.window_page import render_window
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.show import WindowView, check_access, load_window
from pipelines.graph.artifacts import MANIFEST

_console = Console(soft_wrap=True, highlight=False)


def show_window(store: str, window: int, html: str | None, credentialed: bool) -> None:
    """Print a window, and write it as a page where `html` names a file.

    Args:
        store: Address of a run's folder (`<storage>/runs/<name>`) or of a trajectory store (`<storage>/artifacts/trajectories/<key>`).
        window: Number of the window, from 0.
        html: File of the page; only its owner may read it.
        credentialed: The user confirms that they may see single patients.

    Raises:
        AccessError: The data are credentialed and `credentialed` is False.
        StoreError: There is no such store or window.
    """
    trajectories = _store(store)
    check_access(trajectories, credentialed)
    view = load_window(trajectories, _ingest(trajectories), window)
    name = trajectories.read_json("data_card.json")["name"]
    _print(view, name)
    if html:
        page = plain_address(html)
        with open(os.open(page, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # also where an earlier file of this name could be read by others
            file.write(render_window(view, name))
        _console.print(f"page: {os.path.abspath(page)} (it shows one patient: keep it where the data may lie)")


def _store(address: str) -> Folder:
    """The trajectory store that the address means."""
    folder = Folder(address)
    if folder.exists("windows.parquet"):
        return folder
    if folder.exists("data_card.json"):
        artifacts = folder.read_json("data_card.json").get("artifacts", {})
        storage = folder.address.rsplit("/runs/", 1)[0]
        if "trajectories" in artifacts:
            return Folder(f"{storage}/artifacts/trajectories/{artifacts['trajectories']}")
    raise StoreError(
        f"{folder.address} is neither a run's folder (<storage>/runs/<name>, with data_card.json) nor a trajectory store "
        "(<storage>/artifacts/trajectories/<key>); `clinjepa ingest` prints both"
    )


def _ingest(store: Folder) -> Folder | None:
    """The ingest artifact that the store was made of, if it lies where the pipelines put it."""
    if not store.exists(MANIFEST):
        return None
    key = store.read_json(MANIFEST)["inputs"].get("ingest")
    ingest = Folder(f"{store.address.rsplit('/', 2)[0]}/ingest/{key}")
    return ingest if key and ingest.exists("stays.parquet") else None


def _print(view: WindowView, name: str) -> None:
    hours = len(view.states)
    _console.print(Text(f"{name}, window {view.window} ({view.split}): {hours} hours from hour {view.start_hour}", style="bold"))
    _console.print(Text(view.static))
    for state, action in zip(view.states, view.actions, strict=True):
        _console.print(Text(state))
        _console.print(Text(f"  {action.partition(' | ')[2] or action}", style="cyan"))
    if view.grid is None:
        _console.print(Text("(no hour grid: the ingest artifact does not lie beside this store)", style="dim"))
        return
    width = max((len(row.name) for row in view.grid), default=0)
    ruler = "".join(f"{hour:<12}" for hour in range(view.start_hour, view.start_hour + hours, 12))[:hours]
    _console.print(Text(f"\n{'hour':>{width}}  {ruler}", style="dim"))
    section = ""
    for row in view.grid:
        if row.section != section:
            section = row.section
            _console.print(Text(f"{section.replace('_', ' '):>{width}}", style="bold"))
        _console.print(Text.assemble(f"{row.name:>{width}}  ", (row.bars(), "green"), f"  {row.span()}"))
