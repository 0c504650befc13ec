"""Rows of a MEDS file are read by the MEDS source's own mapping: the texts are those of the ingest of that file."""

from __future__ import annotations

import datetime
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinjepa.serving.hours import StayHours, TextRules
from clinjepa.serving.meds_rows import meds_hours
from clinjepa.serving.requests import MedsRow, RequestError, read_request
from clinjepa.sources.meds.columns import COLUMNS, find_columns, typed
from clinjepa.sources.meds.source import MedsSource
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.text import phrases_of
from tests.support.data.real_data import real
from tests.support.training.finished_training import small_config
from tests.support.training.served_export import build_ingest

FIELDS = tuple(MedsRow.model_fields)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextRules, list[dict[str, Any]], pl.DataFrame]:
    """(rules, texts of the ingest, rows of all patients) of the MIMIC-IV demo."""
    root = tmp_path_factory.mktemp("meds")
    folder = real("mimic-iv-demo-meds", "physionet.org/content/mimic-iv-demo-meds")
    config = small_config(root / "storage", "source.kind=meds", f"source.path={folder}", "source.num_partitions=12")
    build_ingest(config, Folder(root / "ingest"))
    stays = Folder(root / "ingest").read_table("stays.parquet").to_pylist()
    subjects = {stay["stay_id"]: stay for stay in stays}
    texts = Folder(root / "ingest").read_table("hours/part-00000.parquet").to_pylist()
    frames = []
    source = MedsSource(config.source)
    for name in source._files:
        path = Path(folder, name)
        schema = pl.read_parquet_schema(path)
        chosen = find_columns(tuple(COLUMNS), pl.Schema(schema), name)
        frames.append(typed(pl.read_parquet(path, columns=[each for each in chosen.values() if each]), chosen, name))
    return TextRules(config.text, config.cohort, "measured"), [text | subjects[text["stay_id"]] for text in texts], pl.concat(frames)


def rows_of(rows: pl.DataFrame, stay: dict[str, Any], now: datetime.datetime) -> list[dict[str, Any]]:
    """What a hospital had written of a patient by a time; rows of birth and of other stays included."""
    own = rows.filter((pl.col("subject_id") == stay["subject_id"]) & (pl.col("time").is_null() | (pl.col("time") <= now)))
    own = own.filter(~pl.col("code").str.starts_with("ICU_ADMISSION") | (pl.col("icustay_id") == stay["stay_id"]))
    found = own.rename({"order_category": "ordercategorydescription"}).select(FIELDS).to_dicts()
    return [{name: value.isoformat() if isinstance(value, datetime.datetime) else value for name, value in row.items()} for row in found]


def without_amounts(texts: list[str]) -> list[str]:
    """Texts without volumes: how much of a running infusion was given is in its end row only."""
    return [re.sub(r" [A-Za-z() ]+: [\d.]+ mL\.", "", text).replace(" No active interventions.", "") for text in texts]


def first_running(rows: pl.DataFrame, stay: dict[str, Any], now: datetime.datetime) -> float:
    """Hours after admission at which the first infusion began that still runs at a time, or that ends then."""
    own = rows.filter((pl.col("icustay_id") == stay["stay_id"]) & pl.col("code").str.starts_with("INFUSION_"))
    item = pl.col("code").str.split("//").list.get(1)
    kinds = [own.filter(pl.col("code").str.starts_with(f"INFUSION_{kind}")).with_columns(item.alias("item")) for kind in ("START", "END")]
    ends = kinds[1].select("item", "order_id", pl.col("time").alias("end"))
    both = kinds[0].join(ends, on=["item", "order_id"], how="left", nulls_equal=True)
    running = both.filter((pl.col("time") <= now) & (pl.col("end").is_null() | (pl.col("end") >= now)))["time"].min()
    return (running - stay["intime"]) / datetime.timedelta(hours=1) if isinstance(running, datetime.datetime) else float("inf")


def test_texts_of_a_stay_are_those_of_the_ingest(demo: tuple[TextRules, list[dict[str, Any]], pl.DataFrame]) -> None:
    rules, stays, rows = demo
    several = {stay["subject_id"] for stay in stays if sum(other["subject_id"] == stay["subject_id"] for other in stays) > 1}
    chosen = [stay for stay in stays if stay["subject_id"] not in several][:5]
    assert chosen
    words = volumes = 0
    for stay in chosen:
        for number in (10, len(stay["state_texts"]) - 1):
            now = stay["intime"] + datetime.timedelta(hours=number, minutes=20)
            asked = {"now": now.isoformat(), "rows": rows_of(rows, stay, now)}
            found = meds_hours(read_request(json.dumps(asked).encode()), rules, ["heart_rate"])
            assert found.static_text == stay["static_text"]
            assert found.state_texts == stay["state_texts"][:number]
            running = first_running(rows, stay, now)
            for hour, (ours, wanted) in enumerate(zip(found.action_texts, stay["action_texts"], strict=False)):
                if hour + 1 <= running:  # all that was given is known
                    assert ours == wanted, hour
                    volumes += " mL." in ours
                assert without_amounts([ours]) == without_amounts([wanted]), hour
                assert not Counter(phrases_of(ours)) - Counter(phrases_of(wanted)), "no volume that the ingest does not write"
            words += sum("mcg/kg/min" in text or "Ventilation" in text for text in found.action_texts)
    assert words > 20, "the stays have no treatments that go on"
    assert volumes > 20, "no hour has volumes"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: [], "rows: hold 0 ICU stays"),
        (lambda rows: [row for row in rows if not row["code"].startswith("ICU_ADMISSION")], "rows: hold 0 ICU stays"),
        (lambda rows: [*rows, {**rows[-1], "time": "2900-01-01T00:00:00"}], "time: is after now"),
        (lambda rows: [*rows, *({**r, "time": "2000-01-01T00:00:00"} for r in rows if r["code"].startswith("ICU_ADM"))], "two different"),
    ],
)
def test_rows_that_are_not_of_one_stay_are_refused(demo, change, said: str) -> None:
    rules, stays, rows = demo
    stay = stays[0]
    now = stay["intime"] + datetime.timedelta(hours=9)
    asked = {"now": now.isoformat(), "rows": change(rows_of(rows, stay, now))}
    with pytest.raises(RequestError, match=said):
        meds_hours(read_request(json.dumps(asked).encode()), rules, [])


def test_rows_without_ids_are_those_of_the_one_stay() -> None:
    start = datetime.datetime(2150, 3, 1, 10)
    rows = [
        {"time": "1990-01-01T00:00:00", "code": "MEDS_BIRTH"},
        {"time": start.isoformat(), "code": "ICU_ADMISSION//MICU"},
        {"time": (start + datetime.timedelta(minutes=5)).isoformat(), "code": "LAB//220045//bpm", "numeric_value": 88.0},
        {"time": (start + datetime.timedelta(minutes=6)).isoformat(), "code": "LAB//50813//mmol/L", "numeric_value": 2.5},
    ]
    config = small_config("unused")
    asked = {"now": (start + datetime.timedelta(hours=2)).isoformat(), "rows": rows}
    found = meds_hours(read_request(json.dumps(asked).encode()), TextRules(config.text, config.cohort, "measured"), [])
    assert (
        len(found) == 2 and "Heart Rate: 88 bpm. Lactate: 2.5 mmol/L." in found.state_texts[0] and "No observations" in found.state_texts[1]
    )


def one_stay(
    stay_id: int | None, begins: datetime.datetime, heart_rate: float, ends: datetime.datetime | None = None
) -> list[dict[str, Any]]:
    """The rows of a stay with one heart rate in its first hour."""
    own = {} if stay_id is None else {"icustay_id": stay_id}
    rows = [
        {"time": begins.isoformat(), "code": "ICU_ADMISSION//MICU", **own},
        {"time": (begins + datetime.timedelta(minutes=7)).isoformat(), "code": "LAB//220045//bpm", "numeric_value": heart_rate, **own},
    ]
    return rows + ([{"time": ends.isoformat(), "code": "ICU_DISCHARGE//MICU", **own}] if ends else [])


def hours_of(rows: list[dict[str, Any]], now: datetime.datetime) -> StayHours:
    config = small_config("unused")
    birth = {"time": "2090-02-03T00:00:00", "code": "MEDS_BIRTH"}
    asked = json.dumps({"now": now.isoformat(), "rows": [birth, *rows]}).encode()
    return meds_hours(read_request(asked), TextRules(config.text, config.cohort, "measured"), [])


@pytest.mark.parametrize("ids", [(31, 32), (None, None), (31, None)])
@pytest.mark.parametrize("newest_first", [False, True])
def test_rows_of_an_earlier_stay_beside_the_present_one_are_refused(ids: tuple[int | None, int | None], newest_first: bool) -> None:
    begins = datetime.datetime(2151, 6, 4, 3)
    days = datetime.timedelta(days=1)
    stays = [one_stay(ids[0], begins, 71.0, begins + 2 * days), one_stay(ids[1], begins + 5 * days, 133.0)]
    rows = sum(reversed(stays) if newest_first else stays, [])
    with pytest.raises(RequestError, match="rows: hold 2 ICU stays") as found:
        hours_of(rows, begins + 5 * days + datetime.timedelta(hours=3))
    assert found.value.status == 422


def test_a_stay_that_ended_before_the_last_hour_is_refused_and_one_that_ends_in_the_hour_of_now_is_scored() -> None:
    begins = datetime.datetime(2151, 6, 4, 3)
    ends = begins + datetime.timedelta(hours=4)
    with pytest.raises(RequestError, match="rows: hold the ICU_DISCHARGE of the stay"):
        hours_of(one_stay(31, begins, 71.0, ends), ends + datetime.timedelta(hours=2))
    assert len(hours_of(one_stay(31, begins, 71.0, ends), ends + datetime.timedelta(minutes=20))) == 4
    assert len(hours_of([*one_stay(31, begins, 71.0), *one_stay(31, begins, 71.0)[:1]], ends)) == 4, "an admission sent twice"


ADMITTED = datetime.datetime(2151, 6, 4, 3)


def drip(kind: str, minutes: int, number: float | None, order: int | None, item: int = 221289) -> dict[str, Any]:
    """A start (with its rate) or an end (with its amount) of an infusion of epinephrine, some minutes after admission."""
    time = (ADMITTED + datetime.timedelta(minutes=minutes)).isoformat()
    unit = "mcg/kg/min" if kind == "START" else "mg"
    return {"time": time, "code": f"INFUSION_{kind}//{item}", "numeric_value": number, "unit": unit, "icustay_id": 31, "order_id": order}


def action_texts(*drips: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    found = hours_of([*one_stay(31, ADMITTED, 71.0), *drips], ADMITTED + datetime.timedelta(hours=4))
    return found.action_texts, found.dropped


@pytest.mark.parametrize("order", [77, None])
def test_an_end_of_nothing_ends_no_later_drip(order: int | None) -> None:
    alone, _ = action_texts(drip("START", 65, 0.3, order))
    texts, dropped = action_texts(drip("END", 12, 2.0, order), drip("START", 65, 0.3, order))
    assert texts == alone and dropped["end_without_start"] == 1
    assert "Epinephrine" not in texts[0] and all("Epinephrine: 0.3 mcg/kg/min" in text for text in texts[1:])


def test_a_drip_whose_rate_is_changed_under_one_order_runs_on_at_the_last_rate() -> None:
    changed = [drip("START", 0, 0.3, 77), drip("END", 60, 2.0, 77), drip("START", 60, 0.4, 77)]
    for rows in (changed, changed[::-1], [changed[0], changed[2]]):
        texts, _ = action_texts(*rows)
        assert all("Epinephrine: 0.4 mcg/kg/min" in text for text in texts[1:]), "also where the end of the first is missing"


def test_two_drips_at_once_without_order_ids() -> None:
    both = [drip("START", 0, 0.25, None), drip("START", 60, 0.5, None)]
    texts, dropped = action_texts(*both)
    assert "0.25 mcg/kg/min. Epinephrine: 0.5 mcg/kg/min" in texts[3] and "ambiguous_interval" not in dropped, "both go on until now"
    texts, dropped = action_texts(*both, drip("END", 120, 2.4, None))
    assert not any("Epinephrine" in text for text in texts) and dropped["ambiguous_interval"] == 2, "which one ended cannot be told"
    kept, dropped = action_texts(drip("START", 0, 0.25, 1), drip("START", 60, 0.5, 2), drip("END", 120, 2.4, 2))
    assert "0.25 mcg/kg/min" in kept[3] and "ambiguous_interval" not in dropped
