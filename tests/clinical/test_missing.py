"""The table of what means "missing": every numeric variable is decided, and a table that contradicts itself is refused."""

from __future__ import annotations

import copy

import pytest

from clinjepa.clinical import load_variables, missing_values
from clinjepa.clinical.definitions import read_definitions
from clinjepa.clinical.missing import parse_missing
from clinjepa.errors import ConfigError


@pytest.fixture
def content() -> dict:
    return copy.deepcopy(read_definitions("maps/missing.yaml"))


def test_zero_is_decided_for_every_variable_with_numbers():
    table = missing_values()
    numeric = {name for name, variable in load_variables().items() if variable.kind != "category" and variable.of is None}
    assert table.zero_is_missing | table.zero_is_value == numeric


def test_codes_that_mean_missing_although_a_variable_could_have_them_lie_in_its_range():
    for code in missing_values().codes:
        for name in code.also:
            variable = load_variables()[name]
            assert variable.minimum <= code.value <= variable.maximum, (name, code.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table["zero_is_value"][0]["variables"].append("map"), r"\['map'\] are in zero_is_missing and in zero_is_value"),
        (lambda table: table["zero_is_missing"][1]["variables"].append("map"), r"\['map'\] are in two groups"),
        (lambda table: table["zero_is_missing"][0]["variables"].append("pulse"), r"group 1: \['pulse'\] are not in variables.yaml"),
        (lambda table: table["codes"][1]["also"].append("pulse"), r"code 2: \['pulse'\] are not in variables.yaml"),
        (lambda table: table["codes"][0].update(value="none"), "code 1: value is not a number"),
        (lambda table: table["codes"][0].pop("also"), r"code 1: missing \['also'\]"),
        (lambda table: table["zero_is_missing"][0].pop("why"), r"group 1: missing \['why'\]"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(content, change, message):
    change(content)
    with pytest.raises(ConfigError, match=message):
        parse_missing(content, "missing.yaml")
