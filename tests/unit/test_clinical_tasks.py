"""Tasks as data: each loads, names its source, and a mistake in one is refused with its place."""

from __future__ import annotations

import pytest

from clinjepa.clinical import Combination, Condition, list_tasks, load_task, parse_task
from clinjepa.errors import ConfigError

_EVENT = """
name: low
title: Low
kind: event
source: here
horizon_hours: 8
switches_only: true
requires: [map]
state: {variables: [map], stat: observed, op: "<", value: 65}
"""


@pytest.mark.parametrize("name", list_tasks())
def test_every_task_loads_and_says_where_its_definition_is_from(name):
    task = load_task(name)
    assert task.source and task.title
    assert (task.kind == "stay") == (task.outcome is not None)


def test_circulatory_failure_is_drug_or_low_pressure_in_agreement_with_lactate():
    state = load_task("circulatory_failure_8h").state
    assert isinstance(state, Combination) and state.rule == "agree"
    bad_pressure, bad_lactate = state.parts
    assert isinstance(bad_pressure, Combination) and bad_pressure.rule == "any"
    assert isinstance(bad_lactate, Condition) and (bad_lactate.op, bad_lactate.value) == (">=", 2.0)
    assert "phenylephrine" not in state.all_variables()


def test_hypoxaemia_falls_back_to_arterial_saturation():
    state = load_task("hypoxaemia_8h").state
    assert isinstance(state, Condition) and state.variables == ("spo2", "sao2") and state.pick == "first"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[map], stat", "[blood_pressure], stat", "low.yaml: state: 'blood_pressure' is not in variables.yaml"),
        ("[map], stat", "[o2_device], stat", "'o2_device' is a category"),
        ('"<"', '"less"', "state.op='less'"),
        ("value: 65", "value: low", "state.value='low' is not a number"),
        ("horizon_hours: 8", "horizon_hours: 0", "horizon_hours=0"),
        ("kind: event", "kind: guess", "kind='guess'"),
        ("switches_only: true\n", "", "missing \\['switches_only'\\]"),
        ("requires: [map]", "requires: [lactate]", "requires names \\['lactate'\\]"),
        ("name: low", "name: low\ncolour: red", "unknown \\['colour'\\]"),
        ("state: {", "state: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_task_is_refused_with_its_place(old, new, message):
    with pytest.raises(ConfigError, match=message):
        parse_task(_EVENT.replace(old, new), "low.yaml")


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'boredom_8h' is not known; known are .*hypotension_8h"):
        load_task("boredom_8h")
