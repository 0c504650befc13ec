"""Codes and words of a map are the texts that its author wrote, whatever YAML would make of them."""

from __future__ import annotations

import pytest

from clinjepa.clinical.code_maps import CodeMap, code_map
from clinjepa.clinical.definitions import parse_texts
from clinjepa.errors import ConfigError

STAYS = "stays: {begin: [IN], end: [OUT]}\n"


def parsed(text: str, **others: str) -> CodeMap:
    files = {"own.yaml": STAYS + text, **{f"./{name}.yaml": content for name, content in others.items()}}
    return code_map("own.yaml", files.get)


WRITTEN = ["0210", "007", "3.10", "1_000", "1e5", "0x10", "0o17", "1:30", "2150-01-01", "NO", "on", "Y", "true", "True", ".5", "+7", "NaN"]


@pytest.mark.parametrize("code", [*WRITTEN, "220045"])
def test_a_code_is_what_is_written(code):
    found = parsed(f"codes:\n  {code}: heart_rate\n  '{code} ': map\n  NE: sbp\nnot_used: {{ {code}9: why }}\n")
    assert list(found.codes) == [code, f"{code} ", "NE"] and found.not_used == {f"{code}9"}


def test_words_and_their_meanings_are_what_is_written():
    found = parsed(
        "people: {sex: [7], sexes: {1: male, 2.0: female}}\nhospitalizations: {begin: [010], end: [0b1], places: {NO: died, off: alive}}\n"
        "codes: {CAM: {variables: [delirium_assessment], words: {yes: Positive, 0: no, 01: 1.50}}, PULSE: heart_rate}\n"
    )
    assert found.words["sexes"] == {"1": "male", "2.0": "female"} and found.words["places"] == {"no": "died", "off": "alive"}
    assert found.codes["CAM"].words == {"yes": "Positive", "0": "no", "01": "1.50"}
    assert found.structure["hospitalizations.begin"] == ("010",) and found.structure["people.sex"] == ("7",)


def test_numbers_and_truths_of_the_map_are_still_such():
    drip = "{variables: [norepinephrine], read: held, hours: 1.5e1}"
    assert parsed(f"version: 1\nunit_in_code: True\ncodes: {{NE: {drip}}}\n").codes["NE"].hours == 15.0
    assert parsed("unit_in_code: true\ncodes: {NE: map}\n").unit_in_code and not parsed("codes: {NE: map}\n").unit_in_code


def test_numeric_codes_are_found_in_the_map_that_is_extended_and_null_removes_them():
    base = STAYS + "codes: {0210: heart_rate, 220045: map, NE: sbp}\n"
    found = parsed("extends: base.yaml\ncodes: {0210: null, '220045': dbp}\n", base=base)
    assert {code: meaning.variables for code, meaning in found.codes.items()} == {"220045": ("dbp",), "NE": ("sbp",)}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("codes: {220045: heart_rate, '220045': map}", "line 2: .*key '220045' is given twice; keep one"),
        ("codes: {~: heart_rate}", "line 2: .*a key is no text; put it in quotation marks"),
        ("codes: {null: heart_rate}", "a key is no text"),
        ("codes: {[a, b]: heart_rate}", "a key is no text"),
        ("codes: {!!int 7: heart_rate}", "a key is no text"),
        ("codes: {a: heart_rate", "line 3: not valid YAML"),
    ],
)
def test_a_key_that_is_no_text_or_comes_twice_is_refused_with_its_line(text, said):
    with pytest.raises(ConfigError, match=f"own.yaml, .*{said}" if "line" not in said else f"own.yaml, {said}"):
        parsed(text + "\n")


def test_an_anchor_stands_for_its_value_and_a_merge_adds_its_keys():
    text = "a: &a {x: 010, y: no}\nb: {<<: *a, y: off}\nc: {<<: *a, y: on}\nd: *a\n"
    assert parse_texts(text, "f") == {
        "a": {"x": "010", "y": "no"},
        "b": {"x": "010", "y": "off"},
        "c": {"x": "010", "y": "on"},
        "d": {"x": "010", "y": "no"},
    }
