"""What is said of faults that nobody foresaw: never a value that a library quotes, for it may be a patient's."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest
import ray
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from clinjepa.errors import ClinJepaError, SilentStoreError, StoreError, TrainingError, in_safe_words, retold
from clinjepa.storage.parts import add_counts

VALUE = 10039708


def caught(action) -> Exception:
    with pytest.raises(Exception) as raised:
        action()
    return raised.value


FAULTS = {
    "KeyError": lambda: {}[VALUE],
    "ValueError": lambda: float(f"subject {VALUE}"),
    "ArrowInvalid": lambda: pa.array([VALUE], pa.int64()).cast(pa.int8()),
    "TypeError": lambda: int([VALUE]),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_value_that_a_library_quotes_is_not_said(name: str) -> None:
    error = caught(FAULTS[name])
    assert str(VALUE) in str(error) or name == "TypeError"
    assert in_safe_words(error) == name
    told = f'  File "/somewhere/clinjepa/parts.py", line 7, in f\n  File "/elsewhere/pandas/core/frame.py", line 9, in g\n{name}: {VALUE}'
    sent = [UserExceptionWithTraceback(error, told), ray.exceptions.RayTaskError("f", told, error)]
    worker, task = pickle.loads(pickle.dumps(sent))
    fed = UserExceptionWithTraceback(task.as_instanceof_cause(), f"of Ray Data's reader: {task}")
    for wrapped in (worker, task, task.as_instanceof_cause(), fed):
        assert in_safe_words(wrapped) == f"{name} in parts.py:7"


def test_the_systems_words_and_the_place_in_this_project_are_said() -> None:
    assert in_safe_words(PermissionError(13, "Permission denied", "/data/icustays.csv")).endswith("Permission denied: '/data/icustays.csv'")
    assert in_safe_words(RuntimeError("Connection closed by peer\nmore")) == "RuntimeError: Connection closed by peer"
    assert "The actor died" in in_safe_words(ray.exceptions.ActorDiedError())
    assert in_safe_words(caught(lambda: add_counts({}, VALUE))).startswith("AttributeError in parts.py:")


def test_a_fault_told_by_its_class_and_message_is_the_same_again_and_no_other_name_is_made() -> None:
    assert type(retold("StoreError", "cut")) is StoreError and type(retold("SilentStoreError", "away")) is SilentStoreError
    assert type(retold("ClinJepaError", "cut")) is ClinJepaError
    for name in ("", "Path", "retold", "KeyError"):
        assert type(retold(name, "cut")) is TrainingError and type(retold(name, "cut", RuntimeError)) is RuntimeError
