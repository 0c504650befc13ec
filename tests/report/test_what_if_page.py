"""The page of a what-if: no text of the data becomes code, every chart is in words too, and the versions stand side by side."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from clinjepa.evaluation.forecasts.what_if import NOTES, ValueForecast, Version, VersionForecast, WhatIf
from clinjepa.report.charts.what_if_chart import HourForecast, Readings, VersionFan, what_if_chart
from clinjepa.report.what_if_page import render_what_if

HOSTILE = '<script>alert(1)</script><img src=x onerror="1"> & "quoted"'


class Seen(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.names: set[str] = set()
        self.labels: list[str] = []
        self.charts = 0
        self.texts = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.names |= {name for name, _ in attrs}
        own = dict(attrs)
        if own.get("role") == "img":
            self.charts += 1
            self.labels.append(own.get("aria-label") or "")

    def handle_data(self, data: str) -> None:
        self.texts += data


def value(variable: str, horizon: int, point: float | None) -> ValueForecast:
    ends = [None if point is None else point + each for each in (0, -2, 2, -5, 5)]
    median, low_50, high_50, low_90, high_90 = ends
    return {
        "variable": variable,
        "hour": 29 + horizon,
        "horizon": horizon,
        "point": point,
        "median": median,
        "low_50": low_50,
        "high_50": high_50,
        "low_90": low_90,
        "high_90": high_90,
        "measured_probability": 0.5,
    }


def version(name: Version, shift: float, text: str, reason: str | None = None) -> VersionForecast:
    there = reason is None
    return {
        "version": name,
        "uses_future": name == "recorded",
        "coming_actions": [{"hour": hour, "given": text} for hour in (30, 31, 32)] if there else [],
        "values": [value("map", h, 70.0 + shift + h) for h in (1, 6)] + [value("lactate", h, None) for h in (1, 6)] if there else [],
        "events": [
            {"task": "hypotension_8h", "horizon_hours": 8, "probability": 0.123 + shift / 100, "in_event": True, "reason": None},
            {"task": "tachycardia_8h", "horizon_hours": 8, "probability": None, "in_event": None, "reason": f"no path {HOSTILE}"},
        ]
        if there
        else [],
        "reason": reason,
    }


def content(text: str = "Norepinephrine: 0.1 mcg/kg/min.", reason: str | None = None) -> WhatIf:
    variables = [
        {"variable": "map", "unit": "mmHg", "hours": [28, 29], "values": [66.0, 68.0], "later_hours": [30], "later_values": [71.0]},
        {"variable": "lactate", "unit": "mmol/L", "hours": [], "values": [], "later_hours": [], "later_values": []},
    ]
    versions = [
        version("carried_forward", 0, text),
        version("none", -9, text),
        version("plan", 4, text),
        version("recorded", 1, text, reason),
    ]
    return {
        "schema_version": 2,
        "run": "demo",
        "recipe": "clin_jepa",
        "seed": 0,
        "data": HOSTILE,
        "hour": 29,
        "history": {"first_hour": 18, "last_hour": 29, "last_action": {"hour": 29, "given": text}},
        "forecast": {"first_hour": 30, "last_hour": 35},
        "context_hours": 12,
        "horizons": [1, 6],
        "notes": list(NOTES),
        "warnings": ["the plan names esmolol"],
        "plan_drugs": [{"drug": "esmolol", "num_training_stays": 0}],
        "variables": variables,  # type: ignore[typeddict-item]
        "versions": versions,
    }


@pytest.fixture(scope="module")
def seen() -> Seen:
    return Seen(render_what_if(content(HOSTILE)))


def test_no_text_of_the_data_becomes_code(seen: Seen) -> None:
    assert not {"script", "img", "iframe", "object", "form"} & set(seen.tags)
    assert not any(name.startswith("on") or name == "src" for name in seen.names)
    assert seen.texts.count("<script>alert(1)</script>") >= 6, "the name of the data, actions and reasons stand as they are"


def test_every_chart_is_in_words_with_the_last_value_and_each_version(seen: Seen) -> None:
    assert seen.charts == len(seen.labels) == 2
    words = seen.labels[0]
    assert words.startswith("MAP. Last measured value 68") and "in hour 29" in words
    assert "carried forward: 71.0 (66.0 to 76.0) in hour 30, 76.0 (71.0 to 81.0) in hour 35" in words
    assert "none: 62.0" in words and "plan: 75.0" in words and "recorded*: 72.0" in words
    assert "measured later, up to hour 30: 71.0" in words
    assert seen.labels[1].startswith("Lactate. No value was measured")


def test_the_words_say_that_it_is_no_effect_and_what_the_intervals_are(seen: Seen) -> None:
    text = " ".join(seen.texts.split())
    for said in (
        "associations that the model learnt from data, not effects",
        "calibrated on forecasts with the last actions carried forward",
    ):
        assert said in text
    assert (
        "As recorded: these actions use what happened later" in text
        and "Hypotension within 8 h" in text
        and "12.3 %" in text
        and "3.3 %" in text
    )
    assert "it is the state of the last known hour" in text and "30 to 32" in text


def test_the_page_says_which_hours_are_history_and_which_are_forecast(seen: Seen) -> None:
    text = " ".join(seen.texts.split())
    assert "History that is read: hours 18 to 29 of the stay · forecast: hours 30 to 35" in text
    assert "History ends with hour 29: <script>" in text and "Actions of the hours that are forecast" in text
    assert "Warning: the plan names esmolol." in text


def test_a_version_that_is_left_out_says_why_and_has_no_column() -> None:
    page = Seen(render_what_if(content(reason="no hour after the last known one is recorded")))
    text = " ".join(page.texts.split())
    assert "Left out: no hour after the last known one is recorded." in text
    assert text.count("recorded*") == 0 and text.count("Recorded*") == 1 and "*As recorded" not in text


def test_a_chart_draws_every_version_and_equal_ones_have_equal_bytes() -> None:
    fans = [VersionFan(f"version {slot}", slot, [HourForecast(6, 70.0 + slot, None, None, None, None)]) for slot in range(4)]
    drawn = what_if_chart("MAP", "mmHg", 5, Readings([5], [70.0]), Readings([], []), fans)
    assert all(f"version {slot}, hour 6: {70 + slot}.0" in drawn for slot in range(4)) and "hour 5: measured 70.0" in drawn
    assert drawn == what_if_chart("MAP", "mmHg", 5, Readings([5], [70.0]), Readings([], []), fans)
    assert "nothing to draw" in what_if_chart("MAP", "mmHg", 5, Readings([], []), Readings([], []), [])
