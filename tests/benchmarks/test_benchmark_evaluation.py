"""What the benchmark of the evaluations times: the same work on both sides, and labels that probes can be fitted to."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import evaluation
from benchmarks.support.simulated_tasks import STAY_LEVEL, SimulatedTasks, simulated_tasks
from clinjepa.config.schema import ProbeConfig
from clinjepa.evaluation.downstream.point_features import COLUMNS

CONFIG = ProbeConfig(hidden_size=16, max_epochs=20, batch_size=512, learning_rate=1e-2)


@pytest.fixture(scope="module")
def world() -> SimulatedTasks:
    return simulated_tasks(num_stays=400, num_tasks=5, width=12)


def test_every_task_has_both_classes_in_every_split_and_some_have_one_point_a_stay(world: SimulatedTasks) -> None:
    assert world.num_points == 400 * 12
    for number, (points, rows_N) in enumerate(world.tasks.values()):
        assert len(points) == len(rows_N) == (400 if number % STAY_LEVEL == STAY_LEVEL - 1 else len(points))
        assert all(set(points.of(split).label_N) == {0.0, 1.0} for split in ("train", "tuning", "held_out"))
        assert 0.02 < points.label_N.mean() < 0.35


def test_both_sides_fit_the_same_probes(world: SimulatedTasks) -> None:
    """The linear probes are the same models; MLPs of other dropout masks agree less."""
    together = evaluation.probes(world, CONFIG)
    costs, alike = evaluation.single_probes(world, CONFIG, together)
    assert set(together.scores) == {(column, kind) for column in COLUMNS for kind in evaluation.KINDS}
    assert all(cost.wall_seconds > 0 for cost in costs.values())
    assert alike["linear"] > 0.999 and alike["mlp"] > 0.8


def test_the_loop_over_draws_gives_what_is_computed_at_once(world: SimulatedTasks) -> None:
    together = evaluation.probes(world, CONFIG.model_copy(update={"max_epochs": 1}))
    assert evaluation.bootstrap_speedup(world, together) > 1
    assert set(evaluation.statistics(world, together)) == {"figures", "differences"}


def test_a_bootstrap_that_differs_from_the_loop_is_no_measurement(world: SimulatedTasks, monkeypatch: pytest.MonkeyPatch) -> None:
    together = evaluation.probes(world, CONFIG.model_copy(update={"max_epochs": 1}))
    honest = evaluation.Ranking.over_draws
    monkeypatch.setattr(evaluation.Ranking, "over_draws", lambda *given: honest(*given) + 0.01)
    with pytest.raises(AssertionError):
        evaluation.bootstrap_speedup(world, together)
    assert np.isfinite(list(together.scores.values())[0]["task_00"]).all()
