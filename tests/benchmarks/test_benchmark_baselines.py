"""The baselines' benchmark keeps every finished fit, so a killed run goes on."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.support.baseline_pool import FitPool
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.baselines.tuning import InProcessRunner, draw_trials
from tests.evaluation.test_baselines import problem_of
from tests.support.data.planted_grid import Ingest


def test_a_finished_fit_is_not_repeated_and_is_that_of_one_process(tmp_path: Path) -> None:
    made = Ingest(tmp_path / "ingest", 60)
    made.values["map"] = np.nan_to_num(made.values["map"], nan=80.0)
    made.write()
    problem, trials = problem_of(made, "logistic"), draw_trials("logistic", load_baseline("logistic"), 2, 0)
    with FitPool(tmp_path / "work", 1, "planted") as pool:
        first = list(pool.trials(problem, trials, None, 0))
    assert [outcome.loss for outcome in first] == [outcome.loss for outcome in InProcessRunner().trials(problem, trials, None, 0)]
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()}
    assert len(kept) == 2 and all(name.startswith("logistic-") for name in kept), "the folder holds fits alone"
    with FitPool(tmp_path / "work", 1, "planted") as pool:
        assert list(pool.trials(problem, trials, None, 0)) == first and pool._pool is None
        assert pool.record(1.0)["by_baseline"]["logistic"]["num_fits"] == 2
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "work").iterdir()} == kept
