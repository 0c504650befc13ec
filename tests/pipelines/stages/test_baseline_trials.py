"""Trials of baselines on Ray Tune have the outcomes of trials in one process."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from clinjepa.config import Config
from clinjepa.evaluation.baselines.registry import load_baseline
from clinjepa.evaluation.baselines.tuning import InProcessRunner, draw_trials
from pipelines.scheduling.session import ray_session
from pipelines.stages.baseline_trials import TuneRunner
from tests.evaluation.test_baselines import problem_of
from tests.support.data.planted_grid import Ingest

pytestmark = pytest.mark.ray


def test_trials_on_tune_have_the_losses_of_trials_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    made = Ingest(tmp_path / "ingest", 60)
    made.values["map"] = np.nan_to_num(made.values["map"], nan=80.0)
    made.write()
    problem, trials = problem_of(made, "logistic"), draw_trials("logistic", load_baseline("logistic"), 3, 0)
    here = {outcome.number: outcome.loss for outcome in InProcessRunner().trials(problem, trials, None, 0)}
    settings = {"object_store_mb": 100, "local_num_cpus": 2, "progress": False}
    with ray_session(Config(storage=str(tmp_path / "storage"), execution=settings)):
        there = {outcome.number: outcome.loss for outcome in TuneRunner().trials(problem, trials, None, 0)}
    assert set(there) == {0, 1, 2} and there == pytest.approx(here) and all(math.isfinite(loss) for loss in here.values())
