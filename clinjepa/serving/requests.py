"""The body of a scoring request: a stay so far, its rows, and the present time. It is checked here, once.

A fault is one line that names the field and what is wanted. It never repeats a value or a name that a client made up.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from clinjepa.errors import ClinJepaError

MOST_HOURS = 24 * 366
"""Longest stay, so that a wrong year is no memory fault."""
MOST_ROWS = 200_000
_HOUR = datetime.timedelta(hours=1)


class RequestError(ClinJepaError):
    """A request that cannot be scored: the field, and what it must be."""

    def __init__(self, field: str, wanted: str, status: int = 422) -> None:
        super().__init__(f"{field}: {wanted}" if field else wanted)
        self.status = status


def _local(time: datetime.datetime) -> datetime.datetime:
    if time.tzinfo is not None:
        raise ValueError("has a zone")
    return time


Time = Annotated[datetime.datetime, AfterValidator(_local)]
"""The hospital's local time, without a zone."""
Text = Annotated[str, Field(max_length=500)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Row = Annotated[int, Field(ge=1, le=2**53)]
"""An id that only joins rows of one request."""


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, use_attribute_docstrings=True)


class Stay(_Checked):
    """What is known of the stay; names are those of STAYS_SCHEMA (`clinjepa/sources/schema.py`)."""

    intime: Time
    """ICU admission, local time without a zone."""
    age_years: Annotated[float, Field(ge=0, le=150, allow_inf_nan=False)] | None = None
    sex: Literal["male", "female"] | None = None
    race: Text | None = None
    """Group, as the source of the training data writes it."""
    height_cm: Annotated[float, Field(gt=0, le=300)] | None = None
    weight_kg: Annotated[float, Field(gt=0, le=1000)] | None = None
    height_time: Time | None = None
    """When the height was charted; null: known at admission."""
    weight_time: Time | None = None
    """When the weight was charted; null: known at admission. Later weights are events."""
    admission_type: Text | None = None
    care_unit: Text | None = None


class Event(_Checked):
    """A reading, or a treatment from `time` to `end_time`."""

    time: Time
    end_time: Time | None = None
    """End of an interval; of one that goes on, `now`. The value is then a rate, the amount given until then, or 1."""
    variable: Text
    """A name of `clinjepa/clinical/variables.yaml`, or `medication`."""
    value: Number | None = None
    text: Text | None = None
    unit: Text | None = None
    """null: the variable's own unit."""
    store_time: Time | None = None
    """When the value was stored, for runs whose texts go by that time. Not after `now`."""
    order_id: Row | None = None
    """The order under which something was given, or the device that read a value: equal events with different ids both count."""


class MedsRow(_Checked):
    """A row of a MEDS file of MIMIC-IV in the file's columns but for the patient, for runs whose source is MEDS without a map of codes."""

    time: Time | None
    code: Text
    numeric_value: Number | None = None
    text_value: Text | None = None
    unit: Text | None = None
    icustay_id: Row | None = None
    hadm_id: Row | None = None
    order_id: Row | None = None
    race: Text | None = None
    ordercategorydescription: Text | None = None
    """Kind of order of a start of an infusion. Crystalloids that only carry a drug (`Continuous Med`, `Drug Push`) are in no text; without
    this column they cannot be told from fluids and are."""


class ScoreRequest(_Checked):
    """One stay until `now`: `stay` and `events`, or `rows` for a run whose source is MEDS without a map of codes."""

    now: Time
    """Only complete hours before it are read. Nothing may be later."""
    stay: Stay | None = None
    events: Annotated[list[Event], Field(max_length=MOST_ROWS)] | None = None
    rows: Annotated[list[MedsRow], Field(max_length=MOST_ROWS)] | None = None


def read_request(body: bytes) -> ScoreRequest:
    """The request of a JSON body.

    Raises:
        RequestError: The body is no JSON (status 400), or a field is missing, unknown, given twice or cannot be used (422).
    """
    try:
        asked = ScoreRequest.model_validate_json(body)
    except ValidationError as error:
        raise _fault(error.errors(include_url=False, include_context=False, include_input=False)[0]) from None
    _check_keys(body)
    if asked.rows is None:
        if asked.stay is None or asked.events is None:
            raise RequestError("stay" if asked.stay is None else "events", "is missing; give stay and events")
        _check_times(asked.now, asked.stay, asked.events)
    elif asked.stay is not None or asked.events is not None:
        raise RequestError("rows", "are given beside stay or events; give one form")
    return asked


def _check_keys(body: bytes) -> None:
    """Refuse a body in which an object has a key twice: which of the two values is meant cannot be told."""

    def distinct(pairs: list[tuple[str, Any]]) -> None:
        if len({key for key, _ in pairs}) < len(pairs):
            raise RequestError("the body", "has an object with a key twice; give each field once")

    json.loads(body, object_pairs_hook=distinct)


def num_complete_hours(intime: datetime.datetime, now: datetime.datetime) -> int:
    """Complete hours from admission to `now`.

    Raises:
        RequestError: There is none, or more than MOST_HOURS.
    """
    number = (now - intime) // _HOUR
    if number < 1:
        raise RequestError("now", "is less than one complete hour after the ICU admission")
    if number > MOST_HOURS:
        raise RequestError("now", f"is more than {MOST_HOURS} h after the ICU admission; is a year wrong?")
    return number


def _check_times(now: datetime.datetime, stay: Stay, events: Sequence[Event]) -> None:
    num_complete_hours(stay.intime, now)
    for name in ("height_time", "weight_time"):
        time = getattr(stay, name)
        if time is not None and time > now:
            raise RequestError(f"stay.{name}", "is after now")
    for number, event in enumerate(events):
        if event.time > now:
            raise RequestError(f"events.{number}.time", "is after now; send nothing that is not known yet")
        if event.end_time is not None and event.end_time > now:
            raise RequestError(f"events.{number}.end_time", "is after now; an interval that goes on ends at now")
        if event.end_time is not None and event.end_time < event.time:
            raise RequestError(f"events.{number}.end_time", "is before its time")
        if event.store_time is not None and event.store_time > now:
            raise RequestError(f"events.{number}.store_time", "is after now; send nothing that is not stored yet, or no store_time")


_WANTED = {
    "missing": "is missing",
    "extra_forbidden": "has a field that is not known; GET /openapi.json lists them",
    "literal_error": "is none of the allowed words",
    "string_too_long": "is too long",
    "too_long": "has too many rows",
    "finite_number": "is no finite number",
    "value_error": "has a time zone; send the hospital's local time without one",
}
_WANTED_OF_KIND = {
    "datetime": "is no time such as 2150-03-01T10:00:00",
    "date_from": "is no time such as 2150-03-01T10:00:00",
    "float": "is no number",
    "int": "is no whole number",
    "string": "is no text",
    "list": "is no list",
    "model": "is no object",
    "dict": "is no object",
    "greater": "is out of its range",
    "less": "is out of its range",
}


def _fault(error: Any) -> RequestError:
    """One fault of pydantic without its message, which may quote what was sent."""
    kind, place = str(error["type"]), list(error["loc"])
    if kind == "json_invalid":
        return RequestError("", "the body is no JSON", 400)
    if kind == "extra_forbidden":
        place = place[:-1]  # the name is the client's
    wanted = _WANTED.get(kind) or next((words for name, words in _WANTED_OF_KIND.items() if kind.startswith(name)), "cannot be used")
    return RequestError(".".join(str(part) for part in place) or "the body", wanted)
