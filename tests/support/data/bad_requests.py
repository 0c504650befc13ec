"""Requests that cannot be scored, and what is said of each: status and a part of the line. `SECRET` is in every value of a patient."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

SECRET = "Zwiebelturm"
Change = Callable[[dict[str, Any]], Any]


def _set(*path: str | int, value: Any) -> Change:
    def change(asked: dict[str, Any]) -> dict[str, Any]:
        place: Any = asked
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value
        return asked

    return change


def _without(*path: str | int) -> Change:
    def change(asked: dict[str, Any]) -> dict[str, Any]:
        place: Any = asked
        for part in path[:-1]:
            place = place[part]
        del place[path[-1]]
        return asked

    return change


def _only(*rows: dict[str, Any]) -> Change:
    return lambda asked: {**asked, "events": [{"time": asked["stay"]["intime"], **row} for row in rows]}


CHANGES: list[tuple[str, Change, int, str]] = [
    ("a list", lambda asked: [asked], 422, "the body: is no object"),
    ("a number", lambda asked: 7, 422, "the body: is no object"),
    ("null", lambda asked: None, 422, "the body: is no object"),
    ("nothing in it", lambda asked: {}, 422, "now: is missing"),
    ("without now", _without("now"), 422, "now: is missing"),
    ("without the stay", _without("stay"), 422, "stay: is missing"),
    ("without events", _without("events"), 422, "events: is missing"),
    ("without the admission", _without("stay", "intime"), 422, "stay.intime: is missing"),
    ("now a word", _set("now", value=SECRET), 422, "now: is no time"),
    ("now a number", _set("now", value=5), 422, "now: is no time"),
    ("now with a zone", lambda asked: {**asked, "now": asked["now"] + "Z"}, 422, "now: has a time zone"),
    ("now before the admission", lambda asked: {**asked, "now": "1990-01-01T00:00:00"}, 422, "now: is less than one complete hour"),
    ("now at the admission", lambda asked: {**asked, "now": asked["stay"]["intime"], "events": []}, 422, "now: is less than one"),
    ("now a thousand years later", lambda asked: {**asked, "now": "3150-01-01T00:00:00"}, 422, "is a year wrong?"),
    ("now null", _set("now", value=None), 422, "now: is no time"),
    ("an admission that is a word", _set("stay", "intime", value=SECRET), 422, "stay.intime: is no time"),
    ("a stay that is a word", _set("stay", value=SECRET), 422, "stay: is no object"),
    ("an age that is a word", _set("stay", "age_years", value=SECRET), 422, "stay.age_years: is no number"),
    ("a negative age", _set("stay", "age_years", value=-3), 422, "stay.age_years: is out of its range"),
    ("an age of 900", _set("stay", "age_years", value=900), 422, "stay.age_years: is out of its range"),
    ("a truth value as an age", _set("stay", "age_years", value=True), 422, "stay.age_years: is no number"),
    ("another sex", _set("stay", "sex", value=SECRET), 422, "stay.sex: is none of the allowed words"),
    ("a race that is a number", _set("stay", "race", value=3), 422, "stay.race: is no text"),
    ("a race of a thousand letters", _set("stay", "race", value=SECRET * 100), 422, "stay.race: is too long"),
    ("a weight of 0", _set("stay", "weight_kg", value=0), 422, "stay.weight_kg: is out of its range"),
    ("a weight of the future", _set("stay", "weight_time", value="2900-01-01T00:00:00"), 422, "stay.weight_time: is after now"),
    ("an unknown field", _set(SECRET, value=1), 422, "the body: has a field that is not known"),
    ("an unknown field of the stay", _set("stay", SECRET, value=1), 422, "stay: has a field that is not known"),
    ("an unknown field of an event", _set("events", 0, SECRET, value=1), 422, "events.0: has a field that is not known"),
    ("events that are a word", _set("events", value=SECRET), 422, "events: is no list"),
    ("an event that is a word", _set("events", 1, value=SECRET), 422, "events.1: is no object"),
    ("an event without a time", _without("events", 2, "time"), 422, "events.2.time: is missing"),
    ("an event without a variable", _without("events", 2, "variable"), 422, "events.2.variable: is missing"),
    ("a value that is a word", _set("events", 3, "value", value=SECRET), 422, "events.3.value: is no number"),
    ("a unit that is a number", _set("events", 3, "unit", value=4), 422, "events.3.unit: is no text"),
    ("a variable that is a number", _set("events", 3, "variable", value=4), 422, "events.3.variable: is no text"),
    ("an event after now", _set("events", 0, "time", value="2900-01-01T00:00:00"), 422, "events.0.time: is after now"),
    ("an interval after now", _set("events", 0, "end_time", value="2900-01-01T00:00:00"), 422, "events.0.end_time: is after now"),
    ("a store time after now", _set("events", 0, "store_time", value="2900-01-01T00:00:00"), 422, "events.0.store_time: is after now"),
    ("an interval that runs backwards", _set("events", 0, "end_time", value="1990-01-01T00:00:00"), 422, "is before its time"),
    (
        "unknown variables only",
        _only({"variable": SECRET, "value": 1.0}),
        422,
        "events: none of 1 row can be used (unknown_variable 1)",
    ),
    ("unknown units only", _only({"variable": "map", "value": 70.0, "unit": SECRET}), 422, "(unknown_unit:map 1)"),
    ("implausible values only", _only({"variable": "map", "value": 7000.0}), 422, "(out_of_range:map 1)"),
    ("rows of another source", lambda asked: {"now": asked["now"], "rows": []}, 422, "rows: the run was not trained on MEDS"),
    ("both forms", _set("rows", value=[]), 422, "rows: are given beside stay or events"),
]


def bad_bodies(good: dict[str, Any]) -> list[tuple[str, bytes, int, str]]:
    """(name, body, status, part of the line) of each bad request. good: a request that can be scored."""
    changed = [(name, json.dumps(change(json.loads(json.dumps(good)))).encode(), status, line) for name, change, status, line in CHANGES]
    text = json.dumps(good)
    broken = [
        ("nothing", b"", 400, "the body is no JSON"),
        ("a sentence", SECRET.encode(), 400, "the body is no JSON"),
        ("half a body", text[: len(text) // 2].encode(), 400, "the body is no JSON"),
        ("bytes that are no text", b'{"now": "\xff\xfe' + SECRET.encode(), 400, "the body is no JSON"),
        ("a body as deep as it is long", b"[" * 5000 + b"]" * 5000, 400, "the body is no JSON"),
        ("a key of the body twice", (text[:-1] + f', "now": "{good["now"]}"}}').encode(), 422, "the body: has an object with a key twice"),
        (
            "a key of an event twice",
            text.replace('"variable": ', '"unit": null, "unit": null, "variable": ', 1).encode(),
            422,
            "a key twice",
        ),
        ("an infinite value", text.replace('"value": ', '"value": Infinity, "x": ', 1).encode(), 422, "is no finite number"),
    ]
    return changed + broken
