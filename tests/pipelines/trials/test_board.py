"""The table of trials on a terminal, and the lines elsewhere."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from pipelines.trials import board as board_module
from pipelines.trials.board import BoardCallback, TrialBoard


def shown(board: TrialBoard) -> str:
    out = io.StringIO()
    Console(file=out, width=120).print(board.table())
    return out.getvalue()


def events(board: TrialBoard, name: str, *results: dict[str, Any], end: str = "") -> None:
    callback, trial = BoardCallback(board), SimpleNamespace(config={"trial": name})
    callback.on_trial_start(0, [], trial)
    for result in results:
        callback.on_trial_result(0, [], trial, result)
    if end:
        getattr(callback, f"on_trial_{end}")(0, [], trial)


def test_the_table_shows_stage_metric_and_sharing_and_counts_all_trials() -> None:
    board = TrialBoard({f"trial {i}": (15, 9) for i in range(40)}, "tuning_l1")
    events(board, "trial 7", {"stage": "joint · seed 0", "tuning_l1": 0.25})
    events(board, "trial 8", {"fault": "no room"}, end="complete")
    events(board, "trial 9", {"stage": "", "tuning_l1": 0.5}, end="complete")
    text = shown(board)
    assert "40 trials: 1 running, 1 failed, 1 done, 37 waiting" in text
    assert "joint · seed 0" in text and "0.25" in text and "9/15" in text
    assert text.count("│ trial ") == 16, "a grid of any size fits a screen"
    assert text.index("trial 7") < text.index("trial 8") < text.index("trial 9")


def test_without_a_terminal_a_finished_trial_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(board_module, "console", Console(file=out, width=200))
    events(TrialBoard({"a": (15, 9)}, "tuning_l1"), "a", {"stage": "x", "tuning_l1": 0.25}, end="complete")
    assert out.getvalue() == "trial a: done, 0 s, tuning_l1 0.25, 9 of 15 stages shared\n"


def test_a_trial_of_a_search_is_named_by_its_values() -> None:
    assert board_module.trial_name({"curriculum.encoder_lr": 1.23456e-5, "encoder.num_layers": 2}) == "encoder_lr=1.235e-05 · num_layers=2"
