"""The data card: its counts on hand-worked examples, its page, and who may look at single patients."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from clinjepa.config.schema import SourceConfig
from clinjepa.report.data_card_page import render_data_card
from clinjepa.sources import access
from clinjepa.sources.access import source_access
from clinjepa.sources.open_data import DataFile, list_open_data
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.data_card import CARD_HOURS, add_hourly, grouped_drops, hourly_coverage, token_statistics
from pipelines.graph.planning import plan_experiment
from pipelines.stages.data_card import write_data_card
from tests.support.data.finished_data import finish_data, simulated

GRID = pl.DataFrame(
    {
        "stay_id": [1, 1, 1, 2, 2],
        "hour": [0, 1, 2, 0, 1],
        "heart_rate": [80.0, None, 82.0, 90.0, None],
        "o2_device": [None, "mask", None, None, "mask"],
        "lactate": pl.Series([None] * 5, dtype=pl.Float32),
    }
)


def test_coverage_counts_the_stays_with_a_value_in_each_hour():
    found = hourly_coverage(GRID)
    assert found["num_stays"][:4] == [2, 2, 1, 0]
    assert {name: counts[:4] for name, counts in found["variables"].items()} == {"heart_rate": [2, 0, 1, 0], "o2_device": [0, 2, 0, 0]}


def test_hours_beyond_the_cards_are_not_counted():
    found = hourly_coverage(GRID.with_columns(pl.col("hour") + CARD_HOURS - 2))
    assert found["num_stays"][-2:] == [2, 2] and sum(found["num_stays"]) == 4


def test_coverage_of_parts_adds_up_where_one_part_lacks_a_variable():
    other = hourly_coverage(GRID.drop("o2_device"))
    found = add_hourly([hourly_coverage(GRID), other])
    assert found["num_stays"][:3] == [4, 4, 2]
    assert (found["variables"]["heart_rate"][0], found["variables"]["o2_device"][1]) == (4, 2)


def test_dropped_rows_are_grouped_by_reason_rule_and_variable():
    dropped = {"out_of_range:map": 3, "out_of_range:spo2": 5, "unknown_unit:map": 2, "a_new_rule": 1, "outside_stay": 7}
    found = grouped_drops(dropped)
    assert {name: group["num_rows"] for name, group in found.items()} == {"range": 8, "time": 7, "unit": 2, "other": 1}
    assert found["range"]["rules"] == {"out_of_range": {"num_rows": 8, "variables": {"spo2": 5, "map": 3}}}
    assert sum(group["num_rows"] for group in found.values()) == sum(dropped.values())


def test_token_counts_of_a_hand_worked_example():
    found = token_statistics({10: 50, 20: 45, 70: 5}, num_cut=5)
    assert (found["num_texts"], found["num_tokens"], found["mean"]) == (100, 1750, 17.5)
    assert (found["p50"], found["p95"], found["max"], found["share_cut"]) == (10, 20, 70, 0.05)
    assert found["histogram"]["bin_width"] == 5
    assert {index: count for index, count in enumerate(found["histogram"]["counts"]) if count} == {2: 50, 4: 45, 14: 5}


@pytest.mark.parametrize(
    ("kind", "said", "expected"),
    [
        ("simulator", "auto", "synthetic"),
        ("cinc2012", "auto", "open"),
        ("meds", "auto", "credentialed"),
        ("meds", "open", "open"),
        ("cinc2012", "credentialed", "credentialed"),
    ],
)
def test_access_is_what_is_said_or_known(kind, said, expected, tmp_path):
    assert source_access(SourceConfig(kind=kind, path=str(tmp_path), access=said)) == expected


@pytest.mark.parametrize(
    ("changed", "added", "expected"), [(False, None, "open"), (True, None, "credentialed"), (False, "data/train/1.parquet", "credentialed")]
)
def test_published_files_are_known_by_their_checksums_and_nothing_may_lie_beside_them(monkeypatch, tmp_path, changed, added, expected):
    content = b"rows of a published file"
    entry = DataFile("data/train/0.parquet", "file", hashlib.sha256(content).hexdigest(), len(content))
    demo = replace(list_open_data()[0], source_kind="meds", files=(entry,))
    monkeypatch.setattr(access, "list_open_data", lambda: [demo])
    for name in filter(None, (entry.path, added)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content[::-1] if changed else content)
    assert source_access(SourceConfig(kind="meds", path=str(tmp_path))) == expected


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict]:
    storage = tmp_path_factory.mktemp("run")
    config = simulated(storage)
    artifacts = finish_data(config)
    write_data_card(config, plan_experiment(config))

    return storage, Folder(storage).read_json("runs/small/data_card.json") | {
        "_stays": artifacts["ingest"].folder.read_table("stays.parquet")
    }


def test_the_card_of_a_run_is_whole(run):
    _, card = run
    assert card["access"] == "synthetic" and set(card["artifacts"]) == {"ingest", "tokenizer", "trajectories", "labels"}
    hourly = card["hourly_coverage"]
    assert hourly["num_stays"][0] == card["num_stays"]
    assert all(max(counts) <= card["num_stays"] for counts in hourly["variables"].values())
    for kind in ("state", "action"):
        assert card["tokens"][kind]["num_texts"] == sum(card["tokens"][kind]["histogram"]["counts"]) == card["num_hours"]


def test_the_page_refers_to_nothing_outside_itself_and_to_no_patient(run):
    storage, card = run
    page = (storage / "runs/small/data_card.html").read_text()
    targets = re.findall(r"""(?:src|href)\s*=\s*["']([^"']+)""", page)
    assert [target for target in targets if not target.startswith(("#", "data:"))] == [] and "<script" not in page
    ids = {str(value) for name in ("stay_id", "subject_id") for value in card["_stays"][name].to_pylist() if value > 9999}
    assert ids and not [one for one in ids if one in page]


def test_the_page_shows_the_audit_of_its_own_ingest_only(run):
    storage, card = run
    check = {"name": "nothing <b>leaks</b>", "outcome": "ok", "num_checked": 3, "unit": "texts", "num_found": 0, "detail": ""}
    audited = card | {"audit": {"sample": {"num_partitions": 1, "num_stays": 2}, "num_leaks": 0, "checks": [check]}}
    page = render_data_card(audited)
    assert "nothing &lt;b&gt;leaks" in page and "No leak was found" in page
    assert 'id="audit"' not in render_data_card(card)


def test_the_page_shows_what_is_labelled_per_task_and_split(run):
    _, card = run
    counts = {"num_labels": 200, "num_positive": 30, "num_patients": 41, "num_positive_patients": 7, "share_positive": 0.15}
    value = {"num_labels": 55, "num_patients": 12, "mean": 1.25}
    tasks = {"tachycardia_8h": dict.fromkeys(card["splits"], counts), "log_lactate_4h": dict.fromkeys(card["splits"], value)}
    page = render_data_card(card | {"prevalence": {"tasks": tasks, "without_labels": {"sepsis_recorded": "not for <this> source"}}})
    assert page.count("<td>200</td><td>15 %</td><td>7 of 41</td>") == page.count("<td>55</td><td>mean 1.25</td><td>12</td>") == 3
    assert "not for &lt;this&gt; source" in page


def test_the_page_shows_the_share_of_positives_under_both_rules_for_a_carried_event(run):
    _, card = run
    by_rule = {
        rule: dict.fromkeys(card["splits"], {"num_labels": labels, "num_positive": 30, "share_positive": 30 / labels})
        for rule, labels in (("unknown", 150), ("negatives_only", 200))
    }
    page = render_data_card(card | {"prevalence": {"tasks": {}, "by_carried_event": {"tachycardia_8h": by_rule}, "without_labels": {}}})
    first, second = (page.index(f"<code>{rule}</code></td>") for rule in ("negatives_only", "unknown"))
    assert first < second and page.count("<td>200</td><td>15 %</td>") == page.count("<td>150</td><td>20 %</td>") == 3


def test_a_card_without_drops_and_tokens_renders(run):
    _, card = run
    bare = {name: value for name, value in card.items() if name not in ("tokens", "artifacts", "created", "prevalence")}
    assert "Nothing was dropped" in render_data_card(bare | {"dropped": {}, "dropped_by_reason": {}})
