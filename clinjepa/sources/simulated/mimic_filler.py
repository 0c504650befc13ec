"""Filler rows of simulated MIMIC-IV tables: items that this project does not read, such as care plans, alarms and other drugs.

Filtering such rows is most of a reader's work, so the simulated tables contain them at the frequency of the real ones. Items, rates
per stay-day and usual values were measured on the MIMIC-IV demo (`mimic_items.yaml`). Each stay has a separate random generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any, NotRequired, TypedDict

import numpy as np
import polars as pl

from clinjepa.clinical.definitions import parse_definitions

_OUTPATIENT_DAYS = (10, 400)
"""Range of days before the first stay for labs outside the ICU: before any look-back."""


class FillerDefinitions(TypedDict):
    """`mimic_items.yaml`; its header explains the keys.

    items: table -> [item id, label, category, unit, rows per day (or stay), usual values]. The usual values are [low, high, decimals]
    of numbers, [[text, share], …] of texts, or empty. drugs: [name, route, kind of order, share].
    """

    items: dict[str, list[tuple[int, str, str, str | None, float, list[float] | list[tuple[str, float]]]]]
    rows_per_admission: dict[str, float]
    drugs: list[tuple[str, str, str, float]]


class ChartedItem(TypedDict):
    """Where a charted variable is written. write: `fahrenheit` or `text`, if not the value itself."""

    table: str
    item: int
    unit: str | None
    write: NotRequired[str]


class GivenItem(TypedDict):
    """Where a treatment is written. unit: of the rate; per_hour, per_kg: from rate × hours (and weight) to the amount."""

    table: str
    item: int | None
    unit: str | None
    amount_unit: NotRequired[str]
    per_hour: NotRequired[float]
    per_kg: NotRequired[bool]
    category: str
    order: str


class Words(TypedDict):
    """How categories and scores are written in the tables."""

    gcs_eye: list[str]
    gcs_verbal: list[str]
    gcs_motor: list[str]
    race: dict[str, str]
    care_unit: dict[str, str]


class TableDefinitions(TypedDict):
    """`mimic_writer.yaml`; its header explains the keys."""

    tables: dict[str, list[str]]
    charted: dict[str, ChartedItem]
    arterial: dict[str, int]
    admission_items: dict[str, tuple[int, str]]
    given: dict[str, GivenItem]
    words: Words
    diagnoses: dict[str, str]
    other_diagnoses: list[str]


@dataclass(frozen=True)
class _Items:
    """Items of one table. rate_I: rows per day (or stay). Numbers are uniform in low_I … high_I; texts are drawn with share_IC."""

    ids_I: np.ndarray
    rate_I: np.ndarray
    low_I: np.ndarray
    high_I: np.ndarray
    decimals_I: np.ndarray
    share_IC: np.ndarray
    texts: pl.DataFrame
    units: pl.DataFrame


@dataclass(frozen=True)
class Drawn:
    """Drawn rows without values: item index, minute after ICU admission, and a uniform number from which the value is computed."""

    item_N: np.ndarray
    minute_N: np.ndarray
    draw_N: np.ndarray


def draw_rows(table: str, expected: float, minutes: tuple[int, int], rng: np.random.Generator) -> Drawn:
    """Draw rows of a table's items over `expected` days (or stays), at whole minutes of [minutes[0], minutes[1])."""
    items = _items(table)
    item_N = np.repeat(np.arange(len(items.ids_I)), rng.poisson(items.rate_I * expected))
    size = len(item_N)
    return Drawn(item_N, rng.integers(minutes[0], max(minutes[1], minutes[0] + 1), size=size), rng.random(size))


def outpatient_minutes() -> tuple[int, int]:
    """Range of minutes after the first admission for labs outside the ICU (negative: before it)."""
    return -_OUTPATIENT_DAYS[1] * 1440, -_OUTPATIENT_DAYS[0] * 1440


def filler_values(table: str, item_N: np.ndarray, draw_N: np.ndarray) -> pl.DataFrame:
    """itemid int64, value string?, valuenum string?, unit string? of drawn rows."""
    items = _items(table)
    low_N, high_N, decimals_N = items.low_I[item_N], items.high_I[item_N], items.decimals_I[item_N]
    number_N = low_N + (high_N - low_N) * draw_N
    number_N = np.where(decimals_N == 0, np.round(number_N), np.round(number_N, 1))
    choice_N = (draw_N[:, None] > items.share_IC[item_N]).sum(axis=1)
    rows = pl.DataFrame({"item": item_N, "choice": choice_N.clip(max=items.share_IC.shape[1] - 1), "number": number_N})
    numeric = number_text(pl.col("number").fill_nan(None))
    rows = rows.join(items.texts, on=["item", "choice"], how="left", maintain_order="left")
    rows = rows.join(items.units, on="item", how="left", maintain_order="left")
    return rows.select("itemid", pl.coalesce("text", numeric).alias("value"), numeric.alias("valuenum"), "unit")


def number_text(value: pl.Expr) -> pl.Expr:
    """A number as text; whole numbers have no decimal point, as in MIMIC-IV's tables."""
    return pl.when(value == value.floor()).then(value.cast(pl.Int64, strict=False).cast(pl.String)).otherwise(value.cast(pl.String))


@lru_cache(maxsize=1)
def filler_definitions() -> FillerDefinitions:
    """The content of `mimic_items.yaml`."""
    content: FillerDefinitions = _read("mimic_items.yaml")
    return content


@lru_cache(maxsize=1)
def table_definitions() -> TableDefinitions:
    """The content of `mimic_writer.yaml`."""
    content: TableDefinitions = _read("mimic_writer.yaml")
    return content


def _read(name: str) -> Any:
    text = resources.files("clinjepa.sources.simulated").joinpath(name).read_text(encoding="utf-8")
    return parse_definitions(text, f"clinjepa/sources/simulated/{name}")


@lru_cache(maxsize=16)
def _items(table: str) -> _Items:
    entries = filler_definitions()["items"][table]
    most = max([len(usual) for *_, usual in entries if usual and isinstance(usual[0], list)], default=1)
    share_IC = np.ones((len(entries), most))
    numbers = np.full((3, len(entries)), np.nan)
    texts: list[tuple[int, int, str]] = []
    for index, (*_, usual) in enumerate(entries):
        if usual and isinstance(usual[0], list):
            shares = np.cumsum([share for _, share in usual])
            share_IC[index, : len(usual)] = shares / shares[-1]
            texts += [(index, choice, text) for choice, (text, _) in enumerate(usual)]
        elif usual:
            numbers[:, index] = usual
    return _Items(
        ids_I=np.array([entry[0] for entry in entries]),
        rate_I=np.array([entry[4] for entry in entries]),
        low_I=numbers[0],
        high_I=numbers[1],
        decimals_I=numbers[2],
        share_IC=share_IC,
        texts=pl.DataFrame(texts, schema={"item": pl.Int64, "choice": pl.Int64, "text": pl.String}, orient="row"),
        units=pl.DataFrame(
            [(index, entry[0], entry[3]) for index, entry in enumerate(entries)],
            schema={"item": pl.Int64, "itemid": pl.Int64, "unit": pl.String},
            orient="row",
        ),
    )
