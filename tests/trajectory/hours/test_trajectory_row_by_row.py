"""Placed events, texts and grid are what a plain loop over single events gives: the tables of `grid`, `aggregates` and `text`
are worked on as whole columns, this file goes through one event and one hour at a time."""

from __future__ import annotations

import math
import statistics
from datetime import timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import load_variables
from clinjepa.trajectory.hours.aggregates import aggregate_hours
from clinjepa.trajectory.hours.grid import coverage, place_events
from clinjepa.trajectory.hours.text import hour_texts
from tests.support.data.handmade_stays import INTIME, at, event, events_table, stays_table

VARIABLES = load_variables()
MEDIAN, SCORE, AMOUNT, OUTPUT = "heart_rate", "gcs_eye", "crystalloid", "urine_output"
RATE, FLAG, NAMED_FLAG, CATEGORY = "norepinephrine", "crrt", "antibiotics_iv", "o2_device"
HOURS = {1: 6, 2: 9, 3: 3}
"""Hours that are kept; the stays themselves last 7, 9 and 2.5 hours."""
STAYS = stays_table({"stay_id": 1, "outtime": at(7)}, {"stay_id": 2, "outtime": at(9)}, {"stay_id": 3, "outtime": at(2.5)})


def a_point(names: list[str]):
    return st.builds(
        lambda stay, quarter, name, value, text: event(stay, quarter / 4, name, value, text=text),
        st.sampled_from([1, 1, 1, 2, 3]),
        st.integers(4, 7) | st.integers(-4, 40),
        st.sampled_from(names[:2]) | st.sampled_from(names),
        st.sampled_from([None, 0.0, 0.125, 2.0, 2.0, 7.006, -0.001, 1234567.5, math.inf]),
        st.sampled_from([None, "Nasal cannula", " two \n words. ", "CRRT", "."]),
    )


POINTS = a_point([MEDIAN, CATEGORY, SCORE, OUTPUT, RATE, FLAG, NAMED_FLAG])
MEDICATIONS = a_point(["medication"]).flatmap(
    lambda one: st.sampled_from([None, "mg", "  ", " mL "]).map(lambda unit: one | {"unit": unit})
)
INTERVALS = st.builds(
    lambda stay, start, length, name, value: event(stay, start / 4, name, value, until=(start + length) / 4),
    st.sampled_from([1, 2, 3]),
    st.integers(-12, 40),
    st.integers(-1, 30),
    st.sampled_from([RATE, AMOUNT, FLAG, NAMED_FLAG]),
    st.sampled_from([0.0, 0.1, 3.0, 100.0]),
)


def is_left_out(one: dict, value: float | None) -> bool:
    name, text = one["variable"], one.get("text")
    kind = "category" if name == "medication" else VARIABLES[name].kind
    start, end = one["time"] - INTIME, one["end_time"] and one["end_time"] - INTIME
    return (
        (value is None and (kind in ("numeric", "rate", "indicator") or (kind == "category" and text is None)))
        or (end is not None and end < start)
        or (start < timedelta(0) and (end is None or end <= timedelta(0)))
        or start >= timedelta(hours=HOURS[one["stay_id"]])
    )


def rows_of_hours(events: list[dict]) -> dict[tuple[int, int], list[dict]]:
    """(stay, hour) -> its rows in order, each with the value, overlap and start that count there."""
    lasts = {1: 7.0, 2: 9.0, 3: 2.5}
    found: dict[tuple[int, int], list[dict]] = {}
    for row, one in enumerate(events):
        value = one["value"] if one["value"] is not None and math.isfinite(one["value"]) else None
        if is_left_out(one, value):
            continue
        stay, start = one["stay_id"], (one["time"] - INTIME) / timedelta(hours=1)
        until = None if one["end_time"] is None else (one["end_time"] - INTIME) / timedelta(hours=1)
        if until is None or until == start:
            parts = [(int(start), None)]
        else:
            cut = min(until, lasts[stay], HOURS[stay])
            parts = [(hour, min(cut, hour + 1) - max(start, hour)) for hour in range(HOURS[stay])]
            parts = [(hour, overlap) for hour, overlap in parts if overlap > 0]
        for hour, overlap in parts:
            amount = value * (overlap / (until - start)) if one["variable"] == AMOUNT and overlap is not None else value
            found.setdefault((stay, hour), []).append(one | {"value": amount, "overlap": overlap, "start": start, "row": row})
    for rows in found.values():
        rows.sort(key=lambda one: (one["start"], one["row"]))
    return found


def number_by_hand(value: float) -> str:
    """Two decimals, or three significant digits where these are more."""
    exact = Decimal(value)
    rounded = exact.quantize(Decimal("0.01"), ROUND_HALF_EVEN) if abs(exact) >= 1 else Context(prec=3).create_decimal(exact)
    text = f"{rounded:f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) if value else "0"


def in_words(one: dict) -> str | None:
    name, value = one["variable"], one["value"]
    text = None if one.get("text") is None else " ".join(one["text"].split()).strip(" .") or "unknown"
    number = None if value is None else number_by_hand(value)
    if name == "medication":
        unit = (one["unit"] or "").strip()
        return None if text is None else f"{text}." if number is None else f"{text}: {number}{' ' if unit else ''}{unit}."
    variable = VARIABLES[name]
    if variable.kind in ("indicator", "rate") and value == 0:
        return None
    if variable.kind == "indicator":
        return f"{variable.text_name}." if text is None or text.lower() == variable.text_name.lower() else f"{variable.text_name}: {text}."
    if variable.kind == "category":
        return f"{variable.text_name}: {number if text is None else text}."
    return f"{variable.text_name}: {number}{'' if variable.unit == 'score' else ' ' + variable.unit}."


def texts_by_hand(rows: dict[tuple[int, int], list[dict]], role: str, sentinel: str) -> dict[int, list[str]]:
    def place(one: dict) -> int:
        return len(VARIABLES) if one["variable"] == "medication" else VARIABLES[one["variable"]].order

    def role_of(one: dict) -> str:
        return "action" if one["variable"] == "medication" else VARIABLES[one["variable"]].role

    texts: dict[int, list[str]] = {}
    for stay, num_hours in HOURS.items():
        texts[stay] = []
        for hour in range(num_hours):
            own = sorted((one for one in rows.get((stay, hour), []) if role_of(one) == role), key=place)
            said = [words for one in own if (words := in_words(one)) is not None]
            texts[stay].append(f"t={hour}h | {' '.join(said) or sentinel}")
    return texts


def value_by_hand(name: str, rows: list[dict]) -> float | str | None:
    own = [one for one in rows if one["variable"] == (VARIABLES[name].of or name)]
    if not own:
        return None
    if VARIABLES[name].kind == "category":
        return own[-1]["text"] if own[-1].get("text") is not None else str(own[-1]["value"])
    values = [one["value"] for one in own]
    match VARIABLES[name].aggregation:
        case "median":
            return statistics.median(values)
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "sum":
            return sum(values)
        case "any":
            return float(any(value > 0 for value in values))
        case "time_weighted_mean":
            running = [one for one in own if one["overlap"] is not None]
            return sum(one["value"] * one["overlap"] for one in running) if running else statistics.fmean(values)
    raise AssertionError(name)


@settings(max_examples=50, deadline=None)
@given(
    events=st.lists(POINTS | MEDICATIONS | INTERVALS, max_size=4) | st.lists(POINTS | MEDICATIONS | INTERVALS, min_size=25, max_size=40),
    is_sorted=st.booleans(),
)
def test_columns_and_single_events_agree(events, is_sorted):
    events = sorted(events, key=lambda one: (one["stay_id"], one["time"])) if is_sorted else events
    stays = pl.DataFrame(STAYS).with_columns(pl.Series("num_hours", list(HOURS.values()), pl.Int32))
    placed, _ = place_events(events_table(*events), stays, VARIABLES)
    rows = rows_of_hours(events)

    texts = hour_texts(placed, stays, VARIABLES, 2, True)
    for role, sentinel in (("state", "No observations."), ("action", "No active interventions.")):
        assert dict(zip(texts["stay_id"], texts[f"{role}_texts"].to_list(), strict=True)) == texts_by_hand(rows, role, sentinel)

    grid = aggregate_hours(placed, stays, VARIABLES)
    assert grid.select("stay_id", "hour").rows() == [(stay, hour) for stay, number in HOURS.items() for hour in range(number)]
    for name in (MEDIAN, SCORE, AMOUNT, OUTPUT, RATE, f"{RATE}_highest", FLAG, NAMED_FLAG, CATEGORY, "lactate"):
        expected = [value_by_hand(name, rows.get(key, [])) for key in grid.select("stay_id", "hour").iter_rows()]
        numbers = [one if one is None or isinstance(one, str) else pytest.approx(one, rel=1e-6) for one in expected]
        assert grid[name].to_list() == numbers

    names = {one["variable"] for own in rows.values() for one in own}
    counted = {
        name: {
            "num_events": sum(one["variable"] == name for own in rows.values() for one in own),
            "num_hours": sum(any(one["variable"] == name for one in own) for own in rows.values()),
            "num_stays": len({stay for (stay, _), own in rows.items() if any(one["variable"] == name for one in own)}),
        }
        for name in names
    }
    assert coverage(placed) == counted


def test_rows_that_nothing_tells_apart_go_by_their_words():
    events = events_table(*(event(1, 1.5, "heart_rate", value) | {"row": 7} for value in (90.0, 100.0, 80.0)))
    stays = pl.DataFrame(STAYS).with_columns(pl.Series("num_hours", list(HOURS.values()), pl.Int32))
    text = hour_texts(place_events(events, stays, VARIABLES)[0], stays, VARIABLES, 2, True)["state_texts"][0][1]
    assert text == "t=1h | Heart Rate: 100 bpm. Heart Rate: 80 bpm. Heart Rate: 90 bpm."


def test_more_hours_than_sixteen_bits_can_count_are_in_order():
    long = stays_table({"stay_id": 1, "outtime": at(70_000)}, {"stay_id": 2, "outtime": at(10)})
    stays = pl.DataFrame(long).with_columns(pl.Series("num_hours", [70_000, 10], pl.Int32))
    events = [event(stay, hour, "heart_rate", 60.0 + hour % 50) for stay, hour in ((2, 3), (1, 69_999), (1, 4), (1, 65_540), (2, 0))]
    placed, _ = place_events(events_table(*events), stays, VARIABLES)
    assert placed.select("stay_id", "hour").rows() == [(1, 4), (1, 65_540), (1, 69_999), (2, 0), (2, 3)]
    grid = aggregate_hours(placed, stays, VARIABLES)
    assert np.flatnonzero(grid["heart_rate"].is_not_null()).tolist() == [4, 65_540, 69_999, 70_000, 70_003]
