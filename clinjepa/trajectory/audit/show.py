"""One window of a trajectory store for a reader: its texts, decoded from the tokens, and its hours of the grid.

Windows are addressed by number; identifiers and calendar times are not shown. `check_access` decides from the store's data card whether
single patients may be viewed. Used by `clinjepa data show`.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from clinjepa.clinical import load_variables
from clinjepa.errors import AccessError, StoreError
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.trajectory_store import TrajectoryReader

_BARS = "▁▂▃▄▅▆▇█"
NOTHING, SOMETHING = "·", "●"
_LOWEST = 0.2
"""Shade of a window's lowest value, so that it differs from an hour without a value."""


@dataclass(frozen=True)
class GridRow:
    """One variable over the window's hours: numbers in `unit`, or words; None where it was not observed."""

    name: str
    section: str
    unit: str
    kind: str
    values: tuple[float | str | None, ...]

    def shades(self) -> list[float | None]:
        """Each hour's value scaled from the window's lowest (0.2) to its highest (1); words and constant values are 1."""
        numbers = [value for value in self.values if isinstance(value, float)]
        low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
        if high == low:
            low = high - 1  # a constant: every value is the highest
        return [
            None if v is None else 1.0 if isinstance(v, str) else _LOWEST + (1 - _LOWEST) * (v - low) / (high - low) for v in self.values
        ]

    def bars(self) -> str:
        """One character per hour: a bar for a number, a dot for a word."""
        shades = self.shades()
        words = [isinstance(value, str) for value in self.values]
        return "".join(
            NOTHING if shade is None else SOMETHING if word else _BARS[round((shade - _LOWEST) / (1 - _LOWEST) * (len(_BARS) - 1))]
            for shade, word in zip(shades, words, strict=True)
        )

    def span(self) -> str:
        """`60 to 112 bpm`, or the words that occur."""
        present = [value for value in self.values if value is not None]
        words = list(dict.fromkeys(value for value in present if isinstance(value, str)))
        if words:
            return ", ".join(words)
        numbers = [value for value in present if isinstance(value, float)]
        low, high = f"{min(numbers):.4g}", f"{max(numbers):.4g}"
        unit = "" if self.unit in ("score", "ratio", "unit", "category", "indicator") else f" {self.unit}"
        return f"{low}{unit}" if low == high else f"{low} to {high}{unit}"


@dataclass(frozen=True)
class WindowView:
    """A window: hours start_hour to start_hour + len(states) - 1 of its stay. `grid` is None without the ingest artifact."""

    window: int
    split: str
    start_hour: int
    static: str
    states: tuple[str, ...]
    actions: tuple[str, ...]
    grid: tuple[GridRow, ...] | None


def may_show_patients(store: Folder) -> bool:
    """Whether patients of a trajectory store may stand on a page for any reader: they are simulated, or published without conditions."""
    return store.read_json("data_card.json").get("access", "credentialed") in ("open", "synthetic")


def check_access(store: Folder, credentialed: bool) -> None:
    """Raise AccessError if the store's patients are real and not published, unless the reader is `credentialed`."""
    if not may_show_patients(store) and not credentialed:
        raise AccessError(
            f"{store.address} was made from credentialed data: single patients may be looked at by people with the data use agreement "
            "only, and on no screen or file that others see. If you are one of them, add --i-am-credentialed; if the data are "
            "published or simulated, set source.access=open or synthetic and ingest them into another storage"
        )


def load_window(store: Folder, ingest: Folder | None, window: int) -> WindowView:
    """Load one window of a finished trajectory store.

    Args:
        store: the trajectory store.
        ingest: the ingest artifact that it was made from, for the grid; None for no grid.
        window: number of the window.

    Raises:
        StoreError: there is no such window, or the ingest artifact lacks its stay.
    """
    reader = TrajectoryReader(store)
    if not 0 <= window < reader.windows.num_rows:
        raise StoreError(f"{store.address} has the windows 0 to {reader.windows.num_rows - 1}, not {window}")
    row = reader.windows.slice(window, 1).to_pylist()[0]
    start, end = row["start_hour"], row["start_hour"] + row["num_hours"]
    tokens = reader.stay(row["stay_id"])
    states, actions = (
        tuple(reader.tokenizer.decode(ids.tolist()) for ids in texts[start:end]) for texts in (tokens.states, tokens.actions)
    )
    grid = None if ingest is None else _grid(ingest, row["stay_id"], start, end)
    return WindowView(window, row["split"], start, reader.tokenizer.decode(tokens.static.tolist()), states, actions, grid)


def _grid(ingest: Folder, stay_id: int, start: int, end: int) -> tuple[GridRow, ...]:
    stays = pl.DataFrame(ingest.read_table("stays.parquet", columns=["stay_id", "part"]))
    part = stays.filter(pl.col("stay_id") == stay_id)["part"].to_list()
    if not part:
        raise StoreError(f"{ingest.address} does not hold the stay of this window; it is not the ingest that the store was made of")
    hours = pl.DataFrame(ingest.read_table(f"grid/{part[0]}.parquet")).filter(
        (pl.col("stay_id") == stay_id) & pl.col("hour").is_between(start, end - 1)
    )
    hours = hours.sort("hour")
    return tuple(
        GridRow(variable.text_name, variable.section_name, variable.unit, variable.kind, tuple(hours[name].to_list()))
        for name, variable in load_variables().items()
        if name in hours.columns and hours[name].count()
    )
