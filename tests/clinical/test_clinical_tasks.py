"""Tasks as data: each loads, names its source, and a mistake in one is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from clinjepa.clinical import Combination, Condition, can_give, list_tasks, load_task, load_variables, parse_task
from clinjepa.clinical.definitions import read_definitions
from clinjepa.clinical.derived import parse_quantity
from clinjepa.clinical.field_reference import field_reference
from clinjepa.clinical.reference import reference
from clinjepa.errors import ConfigError
from clinjepa.sources.simulated import charting

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
        ('"<"', '"less"', "state: op='less'"),
        ("value: 65", "value: low", "state.value='low' is not a number"),
        ("horizon_hours: 8", "horizon_hours: 0", "horizon_hours=0"),
        ("kind: event", "kind: guess", "kind='guess'"),
        ("switches_only: true\n", "", "missing \\['switches_only'\\]"),
        ("switches_only: true", "switches_only: true\ncarried_event: never", "carried_event='never' is not one of"),
        ("switches_only: true", "switches_only: false\ncarried_event: unknown", "carried_event needs switches_only: true"),
        ("requires: [map]", "requires: [lactate]", "requires names \\['lactate'\\]"),
        ("name: low", "name: low\ncolour: red", "unknown \\['colour'\\]"),
        ("state: {", "state: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_a_task_is_refused_with_its_place(old, new, message):
    with pytest.raises(ConfigError, match=message):
        parse_task(_EVENT.replace(old, new), "low.yaml")


def test_every_task_with_switches_only_says_what_becomes_of_a_carried_event():
    for name in list_tasks():
        if load_task(name).switches_only:
            assert "carried_event" in read_definitions(f"tasks/{name}.yaml"), name
    assert parse_task(_EVENT, "low.yaml").carried_event == "negatives_only"
    chosen = _EVENT.replace("switches_only: true", "switches_only: true\ncarried_event: unknown")
    assert parse_task(chosen, "low.yaml").carried_event == "unknown"


def test_an_unknown_task_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="'boredom_8h' is not known; known are .*hypotension_8h"):
        load_task("boredom_8h")


SEVEN_EARLY_EVENTS = {
    "circulatory_failure_8h",
    "respiratory_failure_24h",
    "kidney_failure_48h",
    "liver_failure_48h",
    "decompensation_24h",
    "hyperglycaemia_8h",
    "sepsis3_onset_6h",
}
EIGHT_OUTCOMES = {
    "in_hospital_death",
    "icu_death",
    "death_within_7d",
    "death_within_14d",
    "death_within_30d",
    "death_within_90d",
    "stay_beyond_7d",
    "sepsis_in_stay",
}


def test_the_tasks_of_the_paper_are_there_and_at_least_34_in_all():
    assert set(list_tasks()) >= SEVEN_EARLY_EVENTS | EIGHT_OUTCOMES
    assert len(list_tasks()) >= 34
    assert all(load_task(name).is_hourly for name in SEVEN_EARLY_EVENTS)
    assert not any(load_task(name).is_hourly for name in EIGHT_OUTCOMES)


def given_by(source: str) -> set[str]:
    """Variables that a source can give, from its map; MIMIC-IV: all that have items or a table; the simulator: what it charts."""
    variables = load_variables()
    if source.startswith("cinc"):
        content = read_definitions(f"maps/{source}.yaml")
        entries = content.get("parameters") or content.get("columns")
        own = {entry[key] for entry in entries.values() for key in ("variable", "also") if key in entry}
        return own | ({"sepsis_label"} if source == "cinc2019" else set())
    if source == "simulator":
        treatments = {"norepinephrine", "invasive_ventilation", "crrt", "antibiotics_iv", "crystalloid", "propofol"}
        return {name for panel in charting._PANELS for name in panel.variables} | treatments
    rows_of_chart = {name for name, variable in variables.items() if variable.sources}
    return rows_of_chart | ({"antibiotic", "culture"} if source == "mimic_iv" else set())


@pytest.mark.parametrize("name", list_tasks())
def test_a_task_can_be_computed_on_every_source_that_it_names(name):
    task = load_task(name)
    assert task.sources
    for source in task.sources:
        given = given_by(source)
        assert [column for column in task.requires if not can_give(column, given)] == [], source


def test_what_a_label_may_look_at_is_said():
    assert load_task("hypotension_8h").looks_ahead_hours == 8
    assert load_task("sepsis3_onset_6h").looks_ahead_hours == 6 + 120
    assert load_task("creatinine_day_2").looks_ahead_hours == 24
    assert load_task("decompensation_24h").looks_ahead_hours is None


_STAY = """
name: late
title: Late
kind: stay
source: here
outcome: {time: death_time, since: intime, within_hours: 24}
"""


@pytest.mark.parametrize(
    ("text", "old", "new", "message"),
    [
        (_STAY, "death_time", "nap_time", "outcome: time='nap_time' is not one of"),
        (_STAY, ", within_hours: 24", "", "either within_hours or beyond_hours"),
        (_STAY, "outcome: {time: death_time, since: intime, within_hours: 24}", "outcome: boredom", "outcome='boredom' is not one of"),
        (_STAY, "source: here", "source: here\nsources: [eicu]", "sources='eicu' is not one of"),
        (_STAY, "source: here", "source: here\nhorizon_hours: 4", r"\(kind: stay\): unknown \['horizon_hours'\]"),
        (_EVENT, "requires", "free_hours: some\nrequires", "free_hours='some' must be a whole number"),
        (_EVENT, "[map], stat", "[pf_ration], stat", "'pf_ration' is not in variables.yaml, nor a derived quantity"),
    ],
)
def test_a_mistake_in_a_newer_field_is_refused_too(text, old, new, message):
    with pytest.raises(ConfigError, match=message):
        parse_task(text.replace(old, new), "here.yaml")


def test_a_derived_quantity_must_be_made_of_known_columns():
    content = {"family": "x", "parameters": {}}
    entry = {"name": "x", "title": "x", "unit": "x", "source": "x", "inputs": ["boredom"], "requires": ["map"]}
    with pytest.raises(ConfigError, match=r"x.yaml: x: \['boredom'\] are neither variables nor derived quantities"):
        parse_quantity(entry, content, "x.yaml", {"x"})
    with pytest.raises(ConfigError, match="needs inputs, and requires or requires_any"):
        parse_quantity(entry | {"inputs": ["map"], "requires": []}, content, "x.yaml", {"x"})


def test_the_page_of_tasks_is_up_to_date():
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert page == reference(), "docs/tasks.md is behind: python -m clinjepa.clinical.reference > docs/tasks.md"


def test_the_page_of_keys_is_up_to_date():
    page = (Path(__file__).parents[2] / "docs" / "clinical_fields.md").read_text(encoding="utf-8")
    assert page == field_reference(), (
        "docs/clinical_fields.md is behind: python -m clinjepa.clinical.field_reference > docs/clinical_fields.md"
    )


def test_every_key_of_the_files_is_on_the_page():
    page = field_reference()
    for name in list_tasks():
        assert all(f"| `{key}` |" in page for key in read_definitions(f"tasks/{name}.yaml"))
    assert all(f"| `{key}` |" in page for entry in read_definitions("variables.yaml")["variables"] for key in entry)
