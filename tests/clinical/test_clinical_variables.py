"""The variable dictionary: complete, consistent, and refused with the entry's name when it is not."""

from __future__ import annotations

import copy

import pytest

from clinjepa.clinical import canonical_unit, load_variables, section_names
from clinjepa.clinical.definitions import read_definitions
from clinjepa.clinical.variables import parse_variables
from clinjepa.errors import ConfigError


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(read_definitions("variables.yaml"))


def test_the_158_variables_of_the_reference_are_there_with_every_field():
    variables = load_variables()
    with_items = [v for v in variables.values() if v.sources or v.role == "static"]
    assert len(with_items) - len({"gcs_verbal_response", "fio2_blood_gas"} & variables.keys()) >= 158
    assert all(v.text_name and v.unit and v.section_name in section_names() for v in variables.values())


def test_text_order_follows_the_fixed_clinical_sections():
    order = [
        "heart_rate",
        "ph",
        "creatinine",
        "gcs_eye",
        "urine_output",
        "norepinephrine",
        "invasive_ventilation",
        "crrt",
        "antibiotics_iv",
    ]
    order.append("neuromuscular_blocker")
    variables = load_variables()
    assert sorted(order, key=lambda name: variables[name].order) == order
    assert [v.order for v in variables.values()] == list(range(len(variables)))


def test_text_names_are_unambiguous_among_variables_that_reach_a_text():
    names = [v.text_name for v in load_variables().values() if v.role in ("state", "action")]
    assert len(names) == len(set(names))


def test_a_source_row_reaches_a_text_once_unless_it_is_a_rate_and_an_indicator():
    owners: dict[tuple[str, int], list[str]] = {}
    for variable in load_variables().values():
        for source in variable.sources:
            for item in source.itemids:
                if variable.role != "label_only" and variable.kind != "indicator":
                    owners.setdefault((source.table, item), []).append(variable.name)
    assert {item: names for item, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize(
    ("spelled", "unit"),
    [("UNK", None), (" ", None), ("mm Hg", "mmHg"), ("units/hour", "units/h"), ("°F", "degF"), ("furlong", "furlong")],
)
def test_units_are_brought_to_one_spelling(spelled, unit):
    assert canonical_unit(spelled) == unit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.pop("unit"), "variable 'heart_rate': missing \\['unit'\\]"),
        (lambda entry: entry.pop("name"), "variable 1, which has no name: missing \\['name'\\]"),
        (lambda entry: entry.update(role="observation"), "heart_rate.*role='observation'"),
        (lambda entry: entry.update(min=400), "heart_rate.*min < max"),
        (lambda entry: entry.update(colour="red"), "unknown \\['colour'\\]"),
    ],
)
def test_a_broken_entry_is_refused_by_name(content, change, message):
    change(content["variables"][0])
    with pytest.raises(ConfigError, match=message):
        parse_variables(content, "variables.yaml")


def test_a_variable_that_stands_there_twice_is_refused(content):
    content["variables"].append(content["variables"][0])
    with pytest.raises(ConfigError, match="'heart_rate' is defined twice"):
        parse_variables(content, "variables.yaml")
