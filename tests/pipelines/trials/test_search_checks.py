"""What of a search is refused in one line before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clinjepa.config import Config
from clinjepa.errors import ConfigError
from pipelines.trials.search_checks import PACKAGES, check_search, search_config
from tests.support.machines.cli import SMALL, call_here

AXES = {"curriculum.predictor_lr": {"low": 1e-5, "high": 1e-1, "scale": "log"}}
SEARCH = {"metric": "tuning_l1", "num_samples": 5}


def config(search: dict[str, Any], **grid: Any) -> Config:
    return Config(grid={"recipes": ["sft"], "axes": AXES, **grid, "search": SEARCH | search})


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "nothing to vary": ({}, {"axes": {}}, "grid.axes is empty"),
    "recipes": ({}, {"recipes": ["sft", "untrained"]}, "tunes one recipe and grid.recipes has 2"),
    "too many": ({"num_samples": 60}, {"seeds": [0, 1]}, "60 samples x 2 seeds = 120 trials, more than grid.max_trials=100"),
    "no setting": ({}, {"axes": {"curriculum.predictor_l": [1, 2]}}, "did you mean curriculum.predictor_lr"),
    "no such metric": ({"metric": "downstream.sepsis.linear.history_only.auroc"}, {}, "no trial reports downstream.sepsis"),
    "a metric misspelt": ({"metric": "tuning_l2"}, {}, "no trial reports tuning_l2; did you mean tuning_l1?"),
    "late metric": ({"metric": "roundtrip.r2", "scheduler": "asha"}, {}, "asha compares trials after every phase, and roundtrip.r2"),
    "seeds": ({"scheduler": "median"}, {"seeds": [0, 1]}, "a point of 2 seeds has its metric at the end only"),
    "an end": ({}, {"axes": {"curriculum.ema_momentum": {"low": 0.5, "high": 1.5}}}, "curriculum.ema_momentum=1.5"),
    "recipe": ({}, {"recipes": ["nothing"]}, "there is no recipe 'nothing'"),
}


@pytest.mark.parametrize(("search", "grid", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_search_that_cannot_work_is_refused_in_one_line(search: dict[str, Any], grid: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        check_search(config(search, **grid))
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_searcher_that_is_not_installed_is_refused_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "hebo", "a_package_that_is_nowhere")
    with pytest.raises(ConfigError, match="hebo is not installed; `pip install 'a_package_that_is_nowhere'`"):
        check_search(config({"algorithm": "hebo"}))


def test_a_search_judges_by_the_tuning_split_alone() -> None:
    assert search_config(config({})).evaluation.split == "tuning"


def test_a_search_is_not_reported_as_a_comparison(tmp_path: Path) -> None:
    search = ["grid.recipes=[sft]", "grid.axes={curriculum.predictor_lr: [1.0e-4, 1.0e-3]}", "grid.search.metric=tuning_l1"]
    done = call_here("run", SMALL, f"storage={tmp_path}", *search)
    assert done.returncode == 2 and "compares nothing" in done.stdout and not (tmp_path / "artifacts").exists()
