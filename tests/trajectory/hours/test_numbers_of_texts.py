"""Numbers of the texts: no running drug reads as stopped, and text -> value -> text is stable."""

from __future__ import annotations

import math
import random
import re

import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clinjepa.clinical import load_variables
from clinjepa.clinical.variables import parse_variables
from clinjepa.errors import ConfigError
from clinjepa.trajectory.audit.truncation import _same_but_rounding
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.numbers import format_number, format_numbers, last_place
from clinjepa.trajectory.hours.text import hour_texts
from tests.support.data.handmade_stays import event, events_table, stays_table

VARIABLES = load_variables()
WRITTEN = [name for name, one in VARIABLES.items() if one.role in ("state", "action") and one.kind in ("numeric", "rate")]


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (88.0, 2, "88"),
        (7.4, 2, "7.4"),
        (12.345, 2, "12.35"),
        (12.3456, 0, "12.3"),
        (0.125, 2, "0.125"),
        (36.599998, 2, "36.6"),
        (-0.001, 2, "-0.001"),
        (-0.0, 2, "0"),
        (0.0041, 2, "0.0041"),
        (0.00012345, 2, "0.000123"),
        (0.0041, 6, "0.0041"),
        (0.99996, 2, "1"),
        (0.0099996, 2, "0.01"),
        (9.9999e-7, 2, "0.000001"),
        (2e-9, 2, "2e-09"),
        (100.0, 0, "100"),
        (1234567.0, 2, "1234567"),
        (-5.5, 2, "-5.5"),
    ],
)
def test_a_number_keeps_three_digits_and_has_no_trailing_zeros(value, decimals, text):
    assert format_number(value, 3, decimals) == text
    assert format_numbers(pl.Series([value, None]), pl.Series([3, 3]), decimals).to_list() == [text, None]


def spoken(numbers: dict[str, float], max_decimals: int = 2) -> dict[str, str]:
    """The number that the texts of one hour say of each variable."""
    stays = pl.DataFrame(stays_table({"stay_id": 1})).with_columns(pl.lit(1, pl.Int32).alias("num_hours"))
    events = [
        event(1, 0.1, name, value, until=0.9 if VARIABLES[name].kind == "rate" else None, row=row)
        for row, (name, value) in enumerate(numbers.items())
    ]
    placed, _ = place_events(events_table(*events), stays, VARIABLES)
    texts = hour_texts(placed, stays, VARIABLES, max_decimals, True).row(0, named=True)
    whole = " ".join([texts["state_texts"][0], texts["action_texts"][0]])
    found = {name: re.search(rf"(?:\| |\. ){re.escape(VARIABLES[name].text_name)}: (\S+?)\.?(?: |$)", whole) for name in numbers}
    return {name: match[1] for name, match in found.items() if match}


def readings(seed: int) -> dict[str, float]:
    """A value of every written variable in its plausible range, of any magnitude down to 1e-12 of the highest."""
    draw = random.Random(seed)
    values = {}
    for name in WRITTEN:
        low, high = VARIABLES[name].minimum, VARIABLES[name].maximum
        share = draw.choice([0.0, 1.0, draw.random(), 10.0 ** draw.uniform(-12, 0)])
        values[name] = max(low, high * share) if low >= 0 else low + (high - low) * share
    return values


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), max_decimals=st.integers(0, 6))
def test_text_to_value_to_text_is_stable_for_every_variable(seed, max_decimals):
    values = readings(seed)
    first = spoken(values, max_decimals)
    second = spoken({name: float(word) for name, word in first.items()}, max_decimals)
    assert first == second
    assert [name for name, value in values.items() if name not in first and (value or VARIABLES[name].kind != "rate")] == []
    for name, word in first.items():
        assert (float(word) == 0) == (values[name] == 0)
        assert math.isclose(float(word), values[name], rel_tol=0.0051)


@given(value=st.floats(allow_nan=False, allow_infinity=False), digits=st.integers(1, 7), max_decimals=st.integers(0, 6))
@example(value=5e-324, digits=3, max_decimals=2)
@example(value=0.0009995, digits=3, max_decimals=2)
@example(value=9.5, digits=1, max_decimals=0)
def test_any_number_is_stable_and_not_zero_unless_it_is(value, digits, max_decimals):
    word = format_number(value, digits, max_decimals)
    assert format_number(float(word), digits, max_decimals) == word
    assert (float(word) == 0) == (value == 0)


@pytest.mark.parametrize("name", [name for name in WRITTEN if VARIABLES[name].kind == "rate"])
@pytest.mark.parametrize("dose", [0.004, 0.0004, 1e-7])
def test_a_drug_that_runs_slowly_is_not_written_as_stopped(name, dose):
    assert float(spoken({name: dose})[name]) == dose


def test_doses_that_differ_have_texts_that_differ():
    doses = (0.005, 0.0074, 0.0099, 0.0149, 0.0151, 0.0249)
    assert len({spoken({"epinephrine": dose})["epinephrine"] for dose in doses}) == len(doses)


def test_the_dose_of_a_drug_that_is_in_no_dictionary_is_not_written_as_zero():
    stays = pl.DataFrame(stays_table({"stay_id": 1})).with_columns(pl.lit(1, pl.Int32).alias("num_hours"))
    placed, _ = place_events(events_table(event(1, 0.5, "medication", 0.0025, text="Digoxin", unit="mg")), stays, VARIABLES)
    assert hour_texts(placed, stays, VARIABLES, 2, True)["action_texts"].to_list() == [["t=0h | Digoxin: 0.0025 mg."]]


def test_a_variable_may_ask_for_more_digits():
    entry = {"name": "x", "text_name": "X", "section": "labs", "role": "state", "kind": "numeric", "group": "lab", "unit": "mg/L"}
    entry |= {"sources": [], "min": 0, "max": 1, "conversions": [], "agg": "median", "provenance": ["a choice"]}
    content = {"version": 1, "sections": ["labs"], "defaults": {}, "variables": [entry | {"digits": 5}]}
    assert parse_variables(content, "x.yaml")["x"].digits == 5
    for wrong in (0, 8, 2.5, True):
        content["variables"] = [entry | {"digits": wrong}]
        with pytest.raises(ConfigError, match="digits=.* whole number from 1 to 7"):
            parse_variables(content, "x.yaml")


def test_the_audit_takes_only_the_last_place_for_rounding():
    assert last_place(12.3, 3, 2) == pytest.approx(0.01) and last_place(0.0123, 3, 2) == pytest.approx(0.0001)
    assert _same_but_rounding("A: 0.0123 mL.", "A: 0.0124 mL.", 2)
    assert not _same_but_rounding("A: 0.0123 mL.", "A: 0.0131 mL.", 2)
    assert _same_but_rounding("A: 2.51e-08 mL.", "A: 2.5e-08 mL.", 2)
    assert not _same_but_rounding("A: 2.5e-08 mL.", "A: 2.5e-07 mL.", 2)
