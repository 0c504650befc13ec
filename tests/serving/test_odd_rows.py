"""Odd rows of a stay, sent to the service in both forms: its texts are those of the ingest of the same rows, hour by hour.

Weights outside the range and charted again, fluids that carry a drug, amounts of 0, missing words, equal rows of two orders.
"""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest

from clinjepa.config import Config
from clinjepa.serving.hours import StayHours, TextRules, stay_hours
from clinjepa.serving.meds_rows import meds_hours
from clinjepa.serving.requests import Event, MedsRow, read_request
from clinjepa.sources.meds.columns import COLUMNS
from clinjepa.sources.meds.source import MedsSource
from clinjepa.sources.schema import EVENTS_SCHEMA
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition
from clinjepa.trajectory.settings import IngestSettings
from tests.support.data.handmade_stays import lenient_config
from tests.support.data.meds_examples import ADMITTED, chart, infusion, stay_rows, write_meds

SALINE, NOREPINEPHRINE, RBC, PEEP = 225158, 221906, 225168, 220339
NOW = ADMITTED + datetime.timedelta(hours=9, minutes=50)


def text(item: int, hours: float, words: str | None) -> dict[str, Any]:
    return chart(item, hours) | {"text_value": words}


def odd_rows() -> list[dict[str, Any]]:
    """A stay of ten hours as rows of a MEDS file."""
    rows = [chart(220045, hour + 0.1, 80.0 + hour, "bpm") for hour in range(9)]
    rows += [chart(226512, *one, "kg") for one in ((0.2, 8.0), (1.5, 80.0), (4.5, 84.0))]  # 8 for 80; weighed again
    rows += [chart(226730, 0.4, 1700.0, "cm"), chart(226730, 2.4, 170.0, "cm"), chart(226730, 3.4, 171.0, "cm")]
    rows += [chart(PEEP, 4.2, 5.0, "cmH2O"), chart(PEEP, 5.2, 0.0, "cmH2O")]  # off is a setting
    rows += [text(226732, 1.2, "Nasal cannula"), text(226732, 2.2, None), text(220739, 2.3, "")]
    rows += infusion(SALINE, 1, 2, 250.0, "mL/hour", 250.0, order=11)  # carries a drug
    rows += infusion(SALINE, 2, 2.1, None, None, 100.0, order=12, ordercategorydescription="Drug Push")
    rows += infusion(SALINE, 3, 4, None, None, 500.0, order=13, ordercategorydescription="Bolus")
    rows += infusion(SALINE, 5, 6, None, None, 200.0, order=14, ordercategorydescription=None)
    rows += infusion(SALINE, 6, 7, None, None, 0.0, order=15, ordercategorydescription="Bolus")
    rows += [*infusion(RBC, 6, 7, None, None, 300.0, order=16), *infusion(RBC, 6, 7, None, None, 300.0, order=17)]
    rows += infusion(NOREPINEPHRINE, 0.5, 1.2, 8.0, "mcg/min", 1.0, order=18)  # no weight is known yet
    return rows + infusion(NOREPINEPHRINE, 5.2, 8.5, 8.4, "mcg/min", 1.0, order=19)


def odd_events() -> list[dict[str, Any]]:
    """The same as a client that knows no MIMIC-IV sends it: what only carries a drug is no fluid."""

    def one(variable: str, begins: float, value: float | None, ends: float | None = None, **more: Any) -> dict[str, Any]:
        known = {"time": _at(begins), "variable": variable, "value": value} | ({"end_time": _at(ends)} if ends is not None else {})
        return known | more

    events = [one("heart_rate", hour + 0.1, 80.0 + hour) for hour in range(9)]
    events += [one("weight", *each) for each in ((0.2, 8.0), (1.5, 80.0), (4.5, 84.0))]
    events += [one("peep", 4.2, 5.0), one("peep", 5.2, 0.0)]
    events += [one("height", *each) for each in ((0.4, 1700.0), (2.4, 170.0), (3.4, 171.0))]
    events += [one("o2_device", 1.2, None, text="Nasal cannula"), one("o2_device", 2.2, None), one("gcs_eye", 2.3, None)]
    events += [one("crystalloid", 3, 500.0, 4), one("crystalloid", 5, 200.0, 6), one("crystalloid", 6, 0.0, 7)]
    events += [one("rbc_transfusion", 6, 300.0, 7, order_id=order) for order in (16, 17)]
    rate = {"unit": "mcg/min"}
    return [*events, one("norepinephrine", 0.5, 8.0, 1.2, **rate), one("norepinephrine", 5.2, 8.4, 8.5, **rate)]


def _at(hours: float) -> str:
    return (ADMITTED + datetime.timedelta(hours=hours)).isoformat()


@pytest.fixture(scope="module", params=["all", "all_but_scores"])
def ingested(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, dict[str, Any]]:
    """(configuration, texts of the ingest of the odd rows)."""
    folder = tmp_path_factory.mktemp("odd")
    write_meds(folder / "data", stay_rows(10) + odd_rows())
    given = {"kind": "meds", "path": str(folder / "data"), "num_partitions": 1}
    config = lenient_config(source=given, text={"exclusions": request.param})
    source = MedsSource(config.source)
    build_partition(source, source.partitions()[0], IngestSettings.of(config), Folder(folder / "ingest"), "p")
    (row,) = Folder(folder / "ingest").read_table("hours/p.parquet").to_pylist()
    return config, row


def by_rows(config: Config, *left_out: str) -> StayHours:
    known = [row for row in stay_rows(10) + odd_rows() if row["time"] is None or row["time"] <= NOW]
    rows = [{name: value for name, value in row.items() if name not in ("subject_id", *left_out)} for row in known]
    body = json.dumps({"now": NOW.isoformat(), "rows": rows}, default=lambda time: time.isoformat())
    return meds_hours(read_request(body.encode()), TextRules(config.text, config.cohort, "measured"), ["body_weight"])


def by_events(config: Config, events: list[dict[str, Any]], zero_amounts: bool = False, **stay: Any) -> StayHours:
    body = {
        "now": NOW.isoformat(),
        "stay": {"intime": _at(0), "age_years": 60.0, "sex": "female", "race": "white"} | stay,
        "events": events,
    }
    rules = TextRules(config.text, config.cohort, "measured", zero_amounts)
    return stay_hours(read_request(json.dumps(body).encode()), rules, ["body_weight"])


def test_the_ingest_reads_the_odd_rows_as_meant(ingested: tuple[Config, dict[str, Any]]) -> None:
    states, actions = (ingested[1][name] for name in ("state_texts", "action_texts"))
    assert [hour for hour, words in enumerate(states) if "Weight: 84 kg" in words] == [4] and not any("8 kg" in words for words in states)
    assert [hour for hour, words in enumerate(actions) if "Crystalloid" in words] == [3, 5]
    assert actions[6].count("300 mL") == 2 and [hour for hour, words in enumerate(actions) if "0.1 mcg/kg/min" in words] == [5, 6, 7, 8]


def test_rows_of_a_file_give_the_texts_of_the_ingest(ingested: tuple[Config, dict[str, Any]]) -> None:
    config, row = ingested
    found = by_rows(config)
    assert (found.static_text, found.state_texts) == (row["static_text"], row["state_texts"][:9])
    assert found.action_texts == row["action_texts"][:9]


def test_without_the_kind_of_order_fluids_that_carry_a_drug_are_fluids(ingested: tuple[Config, dict[str, Any]]) -> None:
    config, row = ingested
    found = by_rows(config, "ordercategorydescription")
    assert found.state_texts == row["state_texts"][:9]
    assert [hour for hour in range(9) if found.action_texts[hour] != row["action_texts"][hour]] == [1, 2]
    assert "Crystalloid: 250 mL" in found.action_texts[1]


def test_events_of_a_client_give_the_texts_of_the_ingest(ingested: tuple[Config, dict[str, Any]]) -> None:
    config, row = ingested
    found = by_events(config, odd_events())
    assert (found.static_text, found.state_texts) == (row["static_text"], row["state_texts"][:9])
    assert found.action_texts == row["action_texts"][:9]
    told = {"out_of_range:weight": 1, "out_of_range:height": 1, "static:weight": 1, "static:height": 2, "zero_amount": 1}
    assert told.items() <= found.dropped.items() and found.dropped["no_weight:norepinephrine"] == 1
    assert found.measured["body_weight"][4] == 84.0
    assert "Crystalloid: 0 mL" in by_events(config, odd_events(), zero_amounts=True).action_texts[6], "as MEDS with a map writes it"


def test_the_weight_of_the_stay_goes_the_way_of_a_charted_one(ingested: tuple[Config, dict[str, Any]]) -> None:
    config, row = ingested
    events = [event for event in odd_events() if event["variable"] != "weight"]
    later = [event for event in odd_events() if event["variable"] == "weight" and event["value"] == 84.0]
    charted = by_events(config, events + later, weight_kg=80.0, weight_time=_at(1.5))
    assert (charted.state_texts, charted.action_texts) == (row["state_texts"][:9], row["action_texts"][:9])
    for wrong in (8.0, 900.0):
        implausible, none = by_events(config, events, weight_kg=wrong), by_events(config, events)
        assert implausible.state_texts == none.state_texts and implausible.action_texts == none.action_texts
        assert implausible.dropped == none.dropped | {"out_of_range:weight": 1}
    known = by_events(config, events + later, weight_kg=80.0)
    assert "0.1 mcg/kg/min" in known.action_texts[0] and "Weight: 84 kg" in known.state_texts[4]
    late = by_events(config, events + later, weight_kg=90.0, weight_time=_at(7.5))
    assert "Weight: 90 kg" in late.state_texts[7] and not any("84 kg" in words for words in late.state_texts), "the first one is the static"


def test_a_request_can_hold_every_column_that_the_sources_read() -> None:
    """A column that a source reads anew needs a field here."""
    assert set(MedsRow.model_fields) == {spellings[0] for name, (spellings, _) in COLUMNS.items() if name != "subject_id"}
    assert set(Event.model_fields) == {*EVENTS_SCHEMA.names, "order_id"} - {"stay_id", "row"}
