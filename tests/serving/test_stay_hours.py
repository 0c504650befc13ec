"""Hours of a request with `stay` and `events`: rates per patient need the weight of `stay`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from clinjepa.serving.hours import StayHours, TextRules, stay_hours
from clinjepa.serving.requests import RequestError, read_request
from tests.support.training.finished_training import small_config

DRIP = {"time": "2151-04-02T06:10:00", "end_time": "2151-04-02T07:40:00", "variable": "norepinephrine", "value": 9.0, "unit": "mcg/min"}
PULSE = {"time": "2151-04-02T06:20:00", "variable": "heart_rate", "value": 91.0}


def hours_of(events: list[dict[str, Any]], event_time: str = "measured", **stay: Any) -> StayHours:
    config = small_config("unused")
    body = {"now": "2151-04-02T08:00:00", "stay": {"intime": "2151-04-02T06:00:00", "age_years": 54.0, **stay}, "events": events}
    return stay_hours(read_request(json.dumps(body).encode()), TextRules(config.text, config.cohort, event_time), [])


@pytest.mark.parametrize("event_time", ["measured", "stored"])
def test_the_weight_of_the_stay_converts_a_rate_per_patient(event_time: str) -> None:
    found = hours_of([PULSE, DRIP], event_time, weight_kg=90.0)
    assert "0.1 mcg/kg/min" in found.action_texts[0] and "Norepinephrine" in found.action_texts[0]
    assert not any(rule.startswith("no_weight") for rule in found.dropped)
    assert found.state_texts == hours_of([PULSE], event_time, weight_kg=90.0).state_texts, "the weight is no event"


def test_without_a_plausible_weight_that_was_known_the_row_is_counted() -> None:
    for known in ({}, {"weight_kg": 90.0, "weight_time": "2151-04-02T07:50:00"}):
        assert hours_of([PULSE, DRIP], **known).dropped == {"no_weight:norepinephrine": 1}
    assert hours_of([PULSE, DRIP], weight_kg=900.0).dropped == {"no_weight:norepinephrine": 1, "out_of_range:weight": 1}


def test_a_drip_that_began_before_admission_and_a_later_weight() -> None:
    before = DRIP | {"time": "2151-04-02T05:30:00"}
    assert "0.1 mcg/kg/min" in hours_of([PULSE, before], weight_kg=90.0).action_texts[0]
    charted = {"time": "2151-04-02T06:05:00", "variable": "weight", "value": 60.0}
    found = hours_of([PULSE, charted, DRIP], weight_kg=90.0)
    assert "0.15 mcg/kg/min" in found.action_texts[0], "the last weight before the drip counts"


def test_a_key_twice_and_what_is_stored_after_now_are_refused() -> None:
    body = json.dumps({"now": "2151-04-02T08:00:00", "stay": {"intime": "2151-04-02T06:00:00"}, "events": [PULSE]})
    with pytest.raises(RequestError, match="a key twice") as found:
        read_request(body.replace('"value": 91.0', '"value": 91.0, "value": 61.0').encode())
    assert found.value.status == 422
    with pytest.raises(RequestError, match="events.0.store_time: is after now"):
        hours_of([PULSE | {"store_time": "2151-04-02T08:00:01"}])
    hours_of([PULSE | {"store_time": "2151-04-02T08:00:00"}])
