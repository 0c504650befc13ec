"""Action texts with other doses: nothing but doses changes, and the new numbers are written as the text writer writes them."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import DEFAULT_DIGITS, load_variables
from clinjepa.sources.schema import MEDICATION
from clinjepa.trajectory.hours.doses import DoseShifter
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.numbers import format_number, last_place
from clinjepa.trajectory.hours.text import hour_texts
from tests.support.data.handmade_stays import event, events_table, stays_table

VARIABLES = load_variables()
RATES = [name for name, one in VARIABLES.items() if one.role == "action" and one.kind == "rate"]
AMOUNTS = [name for name, one in VARIABLES.items() if one.role == "action" and one.aggregation == "sum"]
SETTINGS = [name for name, one in VARIABLES.items() if one.role == "action" and one.kind == "numeric" and one.aggregation != "sum"]


def shifted(text: str, factor: float = 4.0, max_decimals: int = 2) -> str:
    return DoseShifter(factor, max_decimals).shift(text).text


@pytest.mark.parametrize(
    ("text", "other", "num_doses", "num_unread"),
    [
        ("t=5h | Norepinephrine: 0.1 mcg/kg/min.", "t=5h | Norepinephrine: 0.4 mcg/kg/min.", 1, 0),
        ("t=5h | Norepinephrine: 0.0041 mcg/kg/min.", "t=5h | Norepinephrine: 0.0164 mcg/kg/min.", 1, 0),
        ("t=5h | Norepinephrine: 2e-09 mcg/kg/min.", "t=5h | Norepinephrine: 8e-09 mcg/kg/min.", 1, 0),
        (
            "t=17h | Norepinephrine: 0.1 mcg/kg/min. Norepinephrine: 0.125 mcg/kg/min. Vasopressin: 0.04 units/min. FiO2: 60 %.",
            "t=17h | Norepinephrine: 0.4 mcg/kg/min. Norepinephrine: 0.5 mcg/kg/min. Vasopressin: 0.16 units/min. FiO2: 60 %.",
            3,
            0,
        ),
        ("t=0h | Crystalloid: 500 mL. Furosemide (Lasix): 40 mg.", "t=0h | Crystalloid: 2000 mL. Furosemide (Lasix): 160 mg.", 2, 0),
        ("t=0h | Norepinephrine: 4 mg.", "t=0h | Norepinephrine: 16 mg.", 1, 0),  # a bolus: a medication with its own unit
        ("t=1h | Dextrose 5%: 250 mL. NaCl 0.9%: 100 mL.", "t=1h | Dextrose 5%: 1000 mL. NaCl 0.9%: 400 mL.", 2, 0),
        ("t=1h | Vit. K: 10 mg. Aspirin 81 mg.", "t=1h | Vit. K: 40 mg. Aspirin 81 mg.", 1, 0),
        ("t=1h | Cefazolin: 1 dose. Cefazolin: 2.", "t=1h | Cefazolin: 4 dose. Cefazolin: 8.", 2, 0),
        ("t=1h | Docusate: 1 tab.. Senna.", "t=1h | Docusate: 4 tab.. Senna.", 1, 0),
        ("t=1h | Heparin 1:10: 5 mL.", "t=1h | Heparin 1:10: 20 mL.", 1, 0),
    ],
)
def test_doses_are_multiplied_and_written_as_every_text(text: str, other: str, num_doses: int, num_unread: int) -> None:
    assert DoseShifter(4.0, 2).shift(text) == (other, num_doses, num_unread)


@pytest.mark.parametrize(
    "text",
    [
        "t=5h | No active interventions.",
        "t=5h | FiO2: 60 %. PEEP: 8 cmH2O. Tidal Volume (set): 450 mL. Pressure Support: 5 cmH2O. Respiratory Rate (set): 18 insp/min.",
        "t=5h | Ventilator Mode: CMV/ASSIST 2. Invasive Ventilation: 8 mm tube. CRRT Mode: 3.",
        "t=5h | Antibiotic: Vancomycin. Insulin: Insulin - Humalog 75/25.",
        "t=5h | Vancomycin 1000 mg. Aspirin.",
        "t=5h | Crystalloid: 0 mL.",
    ],
)
def test_settings_of_devices_and_numbers_inside_names_are_no_doses(text: str) -> None:
    assert DoseShifter(4.0, 2).shift(text) == (text, 0, 0)


@pytest.mark.parametrize(
    ("text", "num_unread"),
    [
        ("t=5h | Oxycodone: 5-10 mg.", 1),
        ("t=5h | Heparin: 1,000 units.", 1),
        ("t=5h | Heparin: 1.50 mL.", 1),  # the writer leaves out trailing zeros
        ("t=5h | Heparin: 007 mL. Saline: .5 mL.", 2),
        ("t=5h | Heparin: <5 units.", 1),
        ("5h: Heparin: 5 units.", 1),
        ("t=5h | Norepinephrine: 0.1 mcg", 1),  # cut: it has no full stop
        ("", 1),
    ],
)
def test_what_the_writer_does_not_write_stays_as_it_is_and_is_counted(text: str, num_unread: int) -> None:
    assert DoseShifter(4.0, 2).shift(text) == (text, 0, num_unread)


def test_a_phrase_that_cannot_be_read_does_not_keep_others_from_being_changed() -> None:
    found = DoseShifter(4.0, 2).shift("t=5h | Propofol: 20 mcg/kg/min. Oxycodone: 5-10 mg. Ketorolac: 15 mg.")
    assert found == ("t=5h | Propofol: 80 mcg/kg/min. Oxycodone: 5-10 mg. Ketorolac: 60 mg.", 2, 1)


def written(rows: list[dict[str, Any]], max_decimals: int) -> str:
    """The action text of one hour with these events, by the text writer."""
    stays = pl.DataFrame(stays_table({"stay_id": 1})).with_columns(pl.lit(1, pl.Int32).alias("num_hours"))
    events = [event(1, 0.1, until=0.9 if row["variable"] in RATES else None, row=place, **row) for place, row in enumerate(rows)]
    placed, _ = place_events(events_table(*events), stays, VARIABLES)
    return str(hour_texts(placed, stays, VARIABLES, max_decimals, True).row(0, named=True)["action_texts"][0])


def is_dose(row: dict[str, Any]) -> bool:
    return row["value"] is not None and row["variable"] in (*RATES, *AMOUNTS, MEDICATION)


def said(row: dict[str, Any], max_decimals: int) -> float:
    """The number that the text says of a row."""
    digits = VARIABLES[row["variable"]].digits if row["variable"] in VARIABLES else DEFAULT_DIGITS
    return float(format_number(row["value"], digits, max_decimals))


NUMBERS = st.one_of(st.integers(0, 5000).map(float), st.floats(1e-9, 1e5))
NAMES = st.sampled_from(["Furosemide (Lasix)", "Dextrose 5%", "Vit. K", "Heparin 1:10", "Insulin - Regular", "KCl 20 mEq / 1000 mL"])
DICTIONARY = st.builds(lambda name, value: {"variable": name, "value": value}, st.sampled_from([*RATES, *AMOUNTS, *SETTINGS]), NUMBERS)
MEDICATIONS = st.builds(
    lambda text, value, unit: {"variable": MEDICATION, "text": text, "value": value, "unit": unit},
    NAMES,
    st.none() | NUMBERS,
    st.sampled_from([None, "mg", "mg/hour", "units", "tab.", "mcg/kg/min", "10^6 units"]),
)
INDICATORS = st.sampled_from(
    [
        {"variable": "antibiotics_iv", "value": 1.0, "text": "Piperacillin/Tazobactam (Zosyn)"},
        {"variable": "invasive_ventilation", "value": 1.0, "text": "Invasive Ventilation"},
        {"variable": "vent_mode", "value": None, "text": "CMV/ASSIST/AutoFlow"},
        {"variable": "insulin_any", "value": 1.0, "text": "Insulin - Humalog 75/25"},
    ]
)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.one_of(DICTIONARY, MEDICATIONS, INDICATORS), max_size=8),
    factor=st.sampled_from([0.25, 0.5, 1.7, 4.0, 10.0]),
    max_decimals=st.integers(0, 4),
)
def test_the_changed_text_is_the_one_that_the_writer_writes_of_the_changed_doses(
    rows: list[dict[str, Any]], factor: float, max_decimals: int
) -> None:
    other = [row | {"value": said(row, max_decimals) * factor} if is_dose(row) else row for row in rows]
    found = DoseShifter(factor, max_decimals).shift(written(rows, max_decimals))
    assert found.text == written(other, max_decimals)
    assert (found.num_doses, found.num_unread) == (sum(is_dose(row) and said(row, max_decimals) != 0 for row in rows), 0)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.one_of(DICTIONARY, MEDICATIONS, INDICATORS), max_size=8), max_decimals=st.integers(2, 4))
def test_a_text_that_is_shifted_and_shifted_back_is_the_same(rows: list[dict[str, Any]], max_decimals: int) -> None:
    """Whole numbers by 10 and back: no digit is lost."""
    text = written([row | {"value": round(row["value"])} if row["value"] is not None else row for row in rows], max_decimals)
    assert shifted(shifted(text, 10.0, max_decimals), 0.1, max_decimals) == text


@given(value=st.floats(1e-6, 1e6), factor=st.sampled_from([0.25, 1.7, 4.0]), max_decimals=st.integers(0, 4))
def test_shifting_back_is_off_by_rounding_alone(value: float, factor: float, max_decimals: int) -> None:
    word = format_number(value, 3, max_decimals)
    there = shifted(f"t=0h | Ketorolac: {word} mg.", factor, max_decimals)
    back = shifted(there, 1 / factor, max_decimals)
    first, second, last = (float(text.split()[3]) for text in (f"t=0h | Ketorolac: {word} mg.", there, back))
    step = last_place(second, 3, max_decimals) / factor + last_place(last, 3, max_decimals)
    assert abs(first - last) <= 0.5001 * step
