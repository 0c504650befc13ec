"""Rows of report.json that come from manifests."""

from __future__ import annotations

from pipelines.results.report_rows import stage_row, waited_seconds


def manifest(key: str, ended: str, seconds: float, run_id: str, *inputs: str) -> dict[str, object]:
    work = {"label": key, "key": key, "seconds": seconds, "run_id": run_id, "num_workers": 1, "code_digest": "0" * 16}
    return work | {"created": f"2026-01-02T03:{ended}Z", "inputs": {name: name for name in inputs}}


def test_a_stage_waited_from_the_end_of_its_last_input_to_its_own_start() -> None:
    known = {each["key"]: each for each in (manifest("a", "04:00", 9, "one"), manifest("b", "05:00", 9, "one"))}
    assert waited_seconds(manifest("c", "06:10", 30.0, "one", "a", "b"), known) == 40.0


def test_inputs_of_another_command_say_nothing_about_waiting() -> None:
    known = {"a": manifest("a", "04:00", 9, "one")}
    assert waited_seconds(manifest("c", "06:10", 30.0, "two", "a"), known) is None
    assert waited_seconds(manifest("c", "06:10", 30.0, "one"), known) is None


def test_rounded_times_never_make_a_stage_wait_less_than_nothing() -> None:
    known = {"a": manifest("a", "04:00", 9, "one")}
    assert waited_seconds(manifest("c", "04:01", 1.4, "one", "a"), known) == 0.0


def test_a_row_says_when_the_stage_ended_and_which_command_computed_it() -> None:
    row = stage_row(manifest("a", "04:00", 9, "one"), {}, "one", ["sft", "sft"])
    assert (row["ended"], row["invocation"], row["reused"], row["recipes"]) == ("2026-01-02T03:04:00Z", "one", False, ["sft"])
