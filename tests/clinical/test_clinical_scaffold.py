"""Skeletons of new tasks and variables: refused while a blank is left, accepted when the blanks are filled, never over what exists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

import clinjepa.clinical
from clinjepa.clinical import list_tasks, load_variables, parse_task
from clinjepa.clinical.definitions import BLANK
from clinjepa.clinical.scaffold import write_task, write_variable
from clinjepa.clinical.task_keys import KIND_KEYS
from clinjepa.clinical.variables import parse_variables
from clinjepa.errors import ConfigError

DEFINITIONS = Path(clinjepa.clinical.__file__).parent
FILLED = {"title": "Low", "source": "this project", "horizon_hours": "8", "value": "65", "column": "map"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the definitions that a test may change."""
    (tmp_path / "tasks").mkdir()
    shutil.copy(DEFINITIONS / "variables.yaml", tmp_path)
    return tmp_path


def filled(text: str) -> str:
    """A task's skeleton with a value in every blank."""
    for key, value in FILLED.items():
        text = text.replace(f"\n{key}: {BLANK}", f"\n{key}: {value}")
    return text.replace(f"[{BLANK}]", "[map]").replace(f"column: {BLANK}", "column: map").replace(BLANK, "8")


@pytest.mark.parametrize("kind", KIND_KEYS)
def test_the_skeleton_of_a_task_is_valid_when_its_blanks_are_filled(folder: Path, kind: str) -> None:
    text = write_task("low_pressure", kind, folder).read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=f"is still {BLANK}; enter a value"):
        parse_task(text, "tasks/low_pressure.yaml")
    task = parse_task(filled(text), "tasks/low_pressure.yaml")
    assert (task.name, task.kind, task.title) == ("low_pressure", kind, "Low")


def test_every_key_of_a_task_is_in_its_skeleton_with_its_meaning(folder: Path) -> None:
    text = write_task("low_pressure", "event", folder).read_text(encoding="utf-8")
    for key in KIND_KEYS["event"]:
        (line,) = [line for line in text.splitlines() if line.removeprefix("# ").startswith(f"{key.name}:")]
        assert line.startswith("# ") != key.required and key.meaning in line


def test_the_skeleton_of_a_variable_is_valid_when_its_blanks_are_filled(folder: Path) -> None:
    before = yaml.safe_load((folder / "variables.yaml").read_text(encoding="utf-8"))
    text = write_variable("procalcitonin", folder).read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=f"variable 'procalcitonin': .* is still {BLANK}"):
        parse_variables(yaml.safe_load(text), "variables.yaml")
    for key, value in {"min": "0", "max": "1000", "itemids: [": "itemids: [50889", "provenance": "[here]"}.items():
        text = text.replace(f"{key}{BLANK}", value) if key.endswith("[") else text.replace(f"\n  {key}: {BLANK}", f"\n  {key}: {value}")
    content = yaml.safe_load(text.replace(BLANK, "ng/mL"))
    variables = parse_variables(content, "variables.yaml")
    assert variables["procalcitonin"].sources[0].itemids == (50889,) and variables["procalcitonin"].maximum == 1000
    assert content["variables"][:-1] == before["variables"] and content["derived"] == before["derived"]


@pytest.mark.parametrize(("name", "message"), [("Low BP", "not a valid name"), ("map_8h", "already the name of a task")])
def test_a_task_with_a_wrong_or_known_name_is_not_written(folder: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        write_task(name, "event", folder)
    assert list((folder / "tasks").iterdir()) == []


def test_a_skeleton_is_not_written_twice(folder: Path) -> None:
    path = write_task("low_pressure", "event", folder)
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="already the name of a task"):
        write_task("low_pressure", "event", folder)
    assert path.read_text(encoding="utf-8") == "mine"
    write_variable("procalcitonin", folder)
    with pytest.raises(ConfigError, match="already the name of a variable"):
        write_variable("procalcitonin", folder)


@pytest.mark.parametrize("name", ["lactate", "sofa"])
def test_a_variable_is_not_named_like_another_or_a_derived_quantity(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="already the name of a variable or derived quantity"):
        write_variable(name, folder)


def test_an_unknown_kind_is_refused_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(ConfigError, match="kind='guess' is not one of .*regression"):
        write_task("low_pressure", "guess", folder)


def test_the_package_is_left_as_it_is() -> None:
    assert "low_pressure" not in list_tasks() and "procalcitonin" not in load_variables()
