"""The hour's rows in words: form, order, and what no text may know (method: data; prediction time)."""

from __future__ import annotations

from datetime import timedelta

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import load_variables
from clinjepa.errors import ConfigError
from clinjepa.trajectory.hours.grid import place_events
from clinjepa.trajectory.hours.text import guard_exclusions, hour_texts, static_texts
from tests.support.data.handmade_stays import INTIME, at, event, events_table, stays_table

VARIABLES = load_variables()


def texts_of(
    stays: pa.Table, events: pa.Table, max_decimals: int = 2, include_medications: bool = True, num_hours: int = 10
) -> dict[int, dict]:
    frame = pl.DataFrame(stays).with_columns(pl.lit(num_hours, pl.Int32).alias("num_hours"))
    placed, _ = place_events(events, frame, VARIABLES)
    return {row.pop("stay_id"): row for row in hour_texts(placed, frame, VARIABLES, max_decimals, include_medications).to_dicts()}


def one_stay(*events: dict, **options) -> dict:
    return texts_of(stays_table({"stay_id": 1}), events_table(*events), **options)[1]


def test_an_hour_lists_every_value_in_clinical_order_and_by_time():
    texts = one_stay(
        event(1, 5.9, "lactate", 2.0), event(1, 5.5, "heart_rate", 92.0), event(1, 5.1, "heart_rate", 88.0), event(1, 5.2, "map", 65.0)
    )
    names = {name: VARIABLES[name].text_name for name in ("heart_rate", "map", "lactate")}
    assert (
        texts["state_texts"][5]
        == f"t=5h | {names['heart_rate']}: 88 bpm. {names['heart_rate']}: 92 bpm. {names['map']}: 65 mmHg. {names['lactate']}: 2 mmol/L."
    )


def test_empty_hours_say_so():
    texts = one_stay()
    assert texts["state_texts"][3] == "t=3h | No observations."
    assert texts["action_texts"][3] == "t=3h | No active interventions."


def test_every_hour_of_the_stay_has_its_texts_and_counts_from_icu_admission():
    texts = one_stay(event(1, 2.5, "heart_rate", 80.0))
    for kind in ("state_texts", "action_texts"):
        assert [text.split(" | ")[0] for text in texts[kind]] == [f"t={hour}h" for hour in range(10)]


def test_an_event_on_the_boundary_belongs_to_the_later_hour():
    texts = one_stay(event(1, 4.0, "heart_rate", 80.0))
    assert "80" not in texts["state_texts"][3] and "80 bpm" in texts["state_texts"][4]


def test_an_infusion_stands_in_every_hour_it_overlaps_and_not_in_the_hour_it_ends_at():
    texts = one_stay(event(1, 1.5, "norepinephrine", 0.1, until=4.0))
    name = VARIABLES["norepinephrine"].text_name
    present = [hour for hour, text in enumerate(texts["action_texts"]) if f"{name}: 0.1 mcg/kg/min." in text]
    assert present == [1, 2, 3]


def test_an_infusion_is_clipped_at_icu_out():
    stays = stays_table({"stay_id": 1, "outtime": at(6.0)})
    texts = texts_of(stays, events_table(event(1, 4.5, "norepinephrine", 0.1, until=9.0)))[1]["action_texts"]
    assert [hour for hour, text in enumerate(texts) if "0.1" in text] == [4, 5]


def test_two_rates_of_one_hour_are_both_written_in_order():
    texts = one_stay(event(1, 2.5, "norepinephrine", 0.2, until=5.0), event(1, 0.5, "norepinephrine", 0.05, until=2.5))
    name = VARIABLES["norepinephrine"].text_name
    assert texts["action_texts"][2] == f"t=2h | {name}: 0.05 mcg/kg/min. {name}: 0.2 mcg/kg/min."


def test_a_rate_of_zero_is_no_intervention():
    assert one_stay(event(1, 2.5, "norepinephrine", 0.0, until=5.0))["action_texts"][3] == "t=3h | No active interventions."


def test_an_amount_given_over_hours_is_shared_among_them():
    texts = one_stay(event(1, 1.5, "crystalloid", 1000.0, until=3.5))
    name = VARIABLES["crystalloid"].text_name
    assert [text.split(" | ")[1] for text in texts["action_texts"][1:4]] == [f"{name}: 250 mL.", f"{name}: 500 mL.", f"{name}: 250 mL."]


def test_an_indicator_is_named_without_a_value():
    name = VARIABLES["invasive_ventilation"].text_name
    assert one_stay(event(1, 1.5, "invasive_ventilation", 1.0, until=2.5))["action_texts"][2] == f"t=2h | {name}."


def test_an_indicator_that_is_off_is_not_written():
    assert one_stay(event(1, 1.5, "invasive_ventilation", 0.0))["action_texts"][1] == "t=1h | No active interventions."


def test_an_indicator_may_say_what_was_given():
    name = VARIABLES["antibiotics_iv"].text_name
    assert one_stay(event(1, 1.5, "antibiotics_iv", 1.0, text="Vancomycin"))["action_texts"][1] == f"t=1h | {name}: Vancomycin."


def test_an_indicator_does_not_say_its_own_name_twice():
    name = VARIABLES["invasive_ventilation"].text_name
    assert one_stay(event(1, 1.5, "invasive_ventilation", 1.0, text=name.upper()))["action_texts"][1] == f"t=1h | {name}."


def test_a_category_is_one_line_of_text():
    name = VARIABLES["o2_device"].text_name
    texts = one_stay(event(1, 1.5, "o2_device", None, text=" Bipap \n mask. "))
    assert any(text == f"t=1h | {name}: Bipap mask." for text in (texts["state_texts"][1], texts["action_texts"][1]))


def test_free_named_medications_come_last_and_can_be_left_out():
    events = [
        event(1, 1.1, "medication", 1000.0, text="Vancomycin", unit="mg"),
        event(1, 1.2, "medication", None, text="Saline"),
        event(1, 1.5, "norepinephrine", 0.1, until=2.0),
    ]
    name = VARIABLES["norepinephrine"].text_name
    assert one_stay(*events)["action_texts"][1] == f"t=1h | {name}: 0.1 mcg/kg/min. Vancomycin: 1000 mg. Saline."
    assert one_stay(*events, include_medications=False)["action_texts"][1] == f"t=1h | {name}: 0.1 mcg/kg/min."


def test_scores_have_no_unit():
    name = VARIABLES["gcs_eye"].text_name
    assert one_stay(event(1, 0.5, "gcs_eye", 4.0))["state_texts"][0] == f"t=0h | {name}: 4."


def test_what_only_labels_may_use_is_in_no_text():
    hidden = [name for name, variable in VARIABLES.items() if variable.role in ("label_only", "static") and variable.kind != "category"]
    texts = one_stay(*(event(1, 1.5, name, 77.0) for name in hidden))
    assert texts["state_texts"][1] == "t=1h | No observations." and texts["action_texts"][1] == "t=1h | No active interventions."


def test_rows_of_one_instant_keep_the_order_of_the_source():
    stays = stays_table({"stay_id": 1})
    events = events_table(event(1, 1.5, "heart_rate", 90.0, row=7), event(1, 1.5, "heart_rate", 80.0, row=3))
    reversed_events = events.take([1, 0])
    assert texts_of(stays, events) == texts_of(stays, reversed_events)
    assert texts_of(stays, events)[1]["state_texts"][1].index("80 bpm") < texts_of(stays, events)[1]["state_texts"][1].index("90 bpm")


def test_static_text_says_unknown_for_what_is_not_known():
    stays = pl.DataFrame(stays_table({"stay_id": 1, "race": "WHITE"}, {"stay_id": 2, "age_years": None, "sex": None}))
    assert static_texts(stays)["static_text"].to_list() == [
        "Age: 63 years. Gender: male. Race: WHITE.",
        "Age: unknown. Gender: unknown. Race: unknown.",
    ]


@pytest.mark.parametrize("name", ["sofa", "SAPS-I", "hospital_expire_flag", "DIAGNOSIS//ICD//10//I21", "kdigo_stage"])
def test_an_excluded_field_is_refused(name):
    with pytest.raises(ConfigError, match="excluded fields would enter the texts"):
        guard_exclusions(["heart_rate", name])


def test_an_excluded_field_given_as_a_medication_is_refused():
    with pytest.raises(ConfigError, match="excluded fields"):
        one_stay(event(1, 1.5, "medication", text="DIAGNOSIS//ICD//9//4280"))


def test_no_variable_of_the_texts_is_on_the_exclusion_list():
    guard_exclusions(
        name for variable in VARIABLES.values() if variable.role in ("state", "action") for name in (variable.name, variable.text_name)
    )


POINTS = st.builds(
    lambda hours, name, value: event(1, hours / 4, name, float(value)),
    st.integers(0, 40),
    st.sampled_from(["heart_rate", "lactate", "map"]),
    st.integers(20, 200),
)
RATES = st.builds(
    lambda start, length, name, value: event(1, start / 4, name, value / 100, until=(start + length) / 4),
    st.integers(-8, 40),
    st.integers(1, 60),
    st.sampled_from(["norepinephrine", "propofol", "invasive_ventilation"]),
    st.integers(0, 100),
)


def seen_at(events: list[dict], hour: int) -> list[dict]:
    """What a chart holds at the end of `hour`: nothing later, and of what still runs only that it ran until now."""
    now = INTIME + timedelta(hours=hour + 1)
    return [one | {"end_time": min(one["end_time"], now) if one["end_time"] else None} for one in events if one["time"] < now]


@settings(max_examples=60, deadline=None)
@given(events=st.lists(POINTS | RATES, max_size=12), hour=st.integers(0, 9))
def test_texts_up_to_an_hour_never_see_what_comes_after_it(events, hour):
    numbered = [one | {"row": row} for row, one in enumerate(events)]
    whole, cut = one_stay(*numbered), one_stay(*seen_at(numbered, hour))
    for kind in ("state_texts", "action_texts"):
        assert whole[kind][: hour + 1] == cut[kind][: hour + 1]
