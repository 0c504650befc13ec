"""Labels: the early-event rule, stay-level outcomes, and which hours each may look at."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clinjepa.clinical import load_task, parse_task
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.labels.artifact import LABELS_SCHEMA, compute_labels
from clinjepa.trajectory.labels.rules import eep_labels
from clinjepa.trajectory.labels.states import evaluate
from tests.support.data.handmade_stays import HandmadeSource, at, event, events_table, lenient_config, stays_table


def states(pattern: str) -> np.ndarray:
    return np.array([{"0": 0.0, "1": 1.0, "-": np.nan}[mark] for mark in pattern.split()])


def marks(labels: np.ndarray) -> str:
    return " ".join("-" if np.isnan(label) else str(int(label)) for label in labels)


WORKED_EXAMPLE = "0 - - 0 - 1 - 1 - - 0 - - - - 1 - -"


@pytest.mark.parametrize(
    ("switches_only", "expected"),
    [(True, "0 0 1 1 1 - - - 0 0 - - 1 1 1 - - -"), (False, "0 0 1 1 1 - 1 - 0 0 - - 1 1 1 - - -")],
    ids=["switches only", "all onsets"],
)
def test_the_worked_example_of_the_early_event_rule(switches_only, expected):
    state = states(WORKED_EXAMPLE)
    assert marks(eep_labels(state, np.zeros(len(state)), 3, switches_only)) == expected


def test_the_worked_example_with_the_carried_event_unknown():
    state = states(WORKED_EXAMPLE)
    found = marks(eep_labels(state, np.zeros(len(state)), 3, True, "unknown"))
    assert found == "0 0 1 1 1 - - - - - - - 1 1 1 - - -"  # hours 8 and 9 carry the event of hour 7, whatever follows them


@given(tail=st.sampled_from(["0", "1", "-"]), gap=st.integers(1, 5))
def test_with_the_carried_event_unknown_what_follows_does_not_decide_whether_an_hour_counts(tail, gap):
    state = states(" ".join(["0", "1", *["-"] * gap, tail]))
    labels = eep_labels(state, np.zeros(len(state)), 8, True, "unknown")
    assert np.isnan(labels[2 : 2 + gap]).all() and labels[0] == 1
    kept = eep_labels(state, np.zeros(len(state)), 8, True, "negatives_only")[2 : 2 + gap]
    assert (kept == 0).all() if tail == "0" else np.isnan(kept).all()


def test_a_stay_never_sees_the_hours_of_the_next_stay():
    state = states("0 0 1 0 1 0")
    assert marks(eep_labels(state, np.array([1, 1, 2, 2, 3, 3]), 4, True)) == "0 - - - - -"
    assert marks(eep_labels(states("1 - - 1"), np.array([1, 1, 2, 2]), 4, True)) == "- - 1 -"


STATES = st.lists(st.sampled_from([0.0, 1.0, float("nan")]), min_size=1, max_size=40)


@given(state=STATES, horizon=st.integers(1, 12), switches=st.booleans(), carried=st.sampled_from(["negatives_only", "unknown"]))
def test_the_rule_agrees_with_its_words(state, horizon, switches, carried):
    expected = []
    for hour, now in enumerate(state):
        ahead, known = state[hour + 1 : hour + 1 + horizon], [value for value in state[: hour + 1] if not np.isnan(value)]
        label = 1.0 if 1.0 in ahead else 0.0 if 0.0 in ahead else np.nan
        if now == 1.0 or (switches and (label == 1.0 or carried == "unknown") and known and known[-1] == 1.0):
            label = np.nan
        expected.append(label)
    np.testing.assert_array_equal(eep_labels(np.array(state), np.zeros(len(state)), horizon, switches, carried), expected)


@given(state=STATES, horizon=st.integers(1, 12), hour=st.integers(0, 39))
def test_what_happens_after_the_horizon_changes_no_label(state, horizon, hour):
    altered = [1.0 if position > hour + horizon else value for position, value in enumerate(state)]
    before, after = (eep_labels(np.array(one), np.zeros(len(one)), horizon, True)[: hour + 1] for one in (state, altered))
    np.testing.assert_array_equal(before, after)


def frame(**columns) -> dict[str, np.ndarray]:
    return {name: np.array([np.nan if value is None else value for value in values], np.float32) for name, values in columns.items()}


def hourly_state(task, grid: dict[str, np.ndarray]) -> np.ndarray:
    return evaluate(task.state, grid.__getitem__)


def test_states_that_disagree_or_lack_a_value_are_unknown():
    drugs = ("dobutamine", "norepinephrine", "epinephrine", "milrinone", "dopamine", "vasopressin")
    grid = frame(map=[60, 60, 90, 90, None, 60], lactate=[3, 1, 1, None, 3, 2], **{name: [None] * 6 for name in drugs})
    assert marks(hourly_state(load_task("circulatory_failure_8h"), grid)) == "1 - 0 - - 1"


def test_a_treatment_that_was_not_given_is_known_not_to_run():
    drugs = ("dobutamine", "epinephrine", "milrinone", "dopamine", "vasopressin")
    grid = frame(map=[None, 90], lactate=[3, 3], norepinephrine=[0.1, 0.1], **{name: [None] * 2 for name in drugs})
    assert marks(hourly_state(load_task("circulatory_failure_8h"), grid)) == "1 1"


def test_the_first_known_variable_decides_where_the_task_says_so():
    grid = frame(spo2=[None, 95, 85, None], sao2=[85, 85, 95, None])
    assert marks(hourly_state(load_task("hypoxaemia_8h"), grid)) == "1 0 1 -"


def test_not_swaps_true_and_false_and_leaves_unknown():
    state = "{not: {variables: [map], stat: observed, op: '<', value: 65}}"
    text = f"{{name: x, title: x, kind: event, source: x, horizon_hours: 1, switches_only: true, requires: [], state: {state}}}"
    assert marks(hourly_state(parse_task(text, "here"), frame(map=[60, 70, None]))) == "0 1 -"


def ingested(tmp_path, stays, *events) -> Folder:
    out = Folder(tmp_path)
    config = lenient_config()
    build_partition(HandmadeSource((stays_table(*stays), events_table(*events))), {"part": 0}, config, out, "part-0")
    finish_ingest(out, config)
    return out


ALIVE = [{"stay_id": stay, "outtime": at(30)} for stay in (1, 2, 3)]


def rows(table) -> list[tuple]:
    assert table.schema == LABELS_SCHEMA
    return [tuple(row.values()) for row in table.to_pylist()]


def test_hourly_labels_come_from_the_grid_and_unlabelled_hours_are_left_out(tmp_path):
    out = ingested(tmp_path, ALIVE, event(1, 2.5, "map", 80.0), event(1, 4.5, "map", 60.0), event(1, 13.5, "map", 80.0))
    table = compute_labels(out, [load_task("hypotension_8h")], 24)
    name = "hypotension_8h"
    assert rows(table) == [(1, name, hour, 1.0) for hour in range(4)] + [(1, name, hour, 0.0) for hour in range(5, 13)]


def test_a_task_whose_variable_the_source_never_gives_has_no_labels(tmp_path):
    out = ingested(tmp_path, ALIVE, event(1, 2.5, "map", 60.0))
    assert compute_labels(out, [load_task("hyperlactataemia_8h"), load_task("circulatory_failure_8h")], 24).num_rows == 0


def test_stay_labels_are_for_stays_still_there_and_alive_at_the_prediction_time(tmp_path):
    died = {"died_in_hospital": True}
    stays = [
        {"stay_id": 1, "outtime": at(30)},
        {"stay_id": 2, "outtime": at(30), "death_time": at(29)} | died,
        {"stay_id": 3, "outtime": at(30), "death_time": at(24)} | died,
        {"stay_id": 4, "outtime": at(23.5), "death_time": at(40)} | died,
        {"stay_id": 5, "outtime": at(30), "died_in_hospital": None},
    ]
    table = compute_labels(ingested(tmp_path, stays), [load_task("in_hospital_death")], 24)
    assert rows(table) == [(1, "in_hospital_death", 23, 0.0), (2, "in_hospital_death", 23, 1.0)]


@settings(max_examples=20, deadline=None)
@given(
    readings=st.lists(st.tuples(st.integers(0, 119), st.sampled_from([50.0, 60.0, 70.0, 90.0])), min_size=3, max_size=25),
    hour=st.integers(0, 20),
)
def test_labels_up_to_an_hour_are_the_same_from_a_stay_cut_after_their_horizon(tmp_path_factory, readings, hour):
    events = [event(1, 0.1, "map", 70.0), *(event(1, quarter / 4, "map", value) for quarter, value in readings)]
    last = at(hour + 1 + 8)
    whole, cut = (
        compute_labels(ingested(tmp_path_factory.mktemp("ingest"), ALIVE, *some), [load_task("hypotension_8h")], 24)
        for some in (events, [one for one in events if one["time"] < last])
    )
    assert [row for row in rows(whole) if row[2] <= hour] == [row for row in rows(cut) if row[2] <= hour]
