"""What is said of faults that nobody foresaw: never a value that a library quotes, for it may be a patient's."""

from __future__ import annotations

import pickle
import traceback

import pyarrow as pa
import pytest
import ray
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback

from clinjepa.errors import (
    DEBUG_VARIABLE,
    ClinJepaError,
    HiddenError,
    SilentStoreError,
    StoreError,
    TrainingError,
    in_safe_words,
    retold,
    values_hidden,
)
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


def as_ray_writes_it(error: BaseException) -> str:
    """Everything of an exception that a log or the dashboard shows, also after it was sent to another process."""
    sent = pickle.loads(pickle.dumps(error))
    return "".join(traceback.format_exception(error)) + "".join(traceback.format_exception(sent)) + repr(sent)


@pytest.mark.parametrize("name", FAULTS)
def test_an_exception_that_quotes_a_value_leaves_a_worker_in_safe_words_with_its_traceback(name: str) -> None:
    @values_hidden()
    def work() -> None:
        try:
            FAULTS[name]()
        except Exception as error:
            raise ValueError(f"row {VALUE}") from error

    error = caught(work)
    assert type(error) is HiddenError and in_safe_words(error) == str(error) and str(error).startswith("ValueError")
    assert in_safe_words(HiddenError("ValueError in parts.py:7\nFailed to apply UDF")) == "ValueError in parts.py:7"
    assert str(VALUE) not in as_ray_writes_it(error) and "in work" in as_ray_writes_it(error)


def test_an_exception_that_may_be_shown_passes_and_loses_what_it_followed_if_that_may_not() -> None:
    for made in (StoreError("cut"), RuntimeError("Connection closed by peer"), FileNotFoundError(2, "No such file", "/data/x.csv")):

        @values_hidden()
        def work(made: Exception = made) -> None:
            try:
                float(f"subject {VALUE}")
            except ValueError as error:
                raise made from error

        assert caught(work) is made
        assert str(VALUE) not in as_ray_writes_it(made)

    @values_hidden()
    def kept() -> None:
        raise StoreError("cut") from OSError(28, "No space left on device")

    assert isinstance(caught(kept).__cause__, OSError)


def test_with_debug_an_exception_keeps_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    assert str(VALUE) in str(caught(values_hidden()(FAULTS["ValueError"])))
