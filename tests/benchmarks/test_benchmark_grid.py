"""What the benchmarks of grids compare with: an ideal schedule, equal contents, tokens of all stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.grid_cost import contents, tokens
from benchmarks.tune_overhead import DATA, configuration, ideal_seconds
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.stage import FORMAT_VERSIONS

SECONDS = {kind: 0.0 if kind in DATA else 10.0 for kind in FORMAT_VERSIONS}


def experiment(tmp_path: Path, **grid: Any) -> Experiment:
    return build_experiment(configuration(tmp_path, 4, grid), "content")


def test_the_ideal_schedule_of_one_trial_is_its_chain(tmp_path: Path) -> None:
    alone = experiment(tmp_path, recipes=["clin_jepa"])
    work = [stage for stage in alone.trials[0].stages if stage.kind not in DATA]
    assert ideal_seconds(alone, SECONDS, num_cpus=4, at_once=8) == 10.0 * len(work)


def test_the_ideal_schedule_runs_shared_stages_once_and_others_side_by_side(tmp_path: Path) -> None:
    both = experiment(tmp_path, recipes=["clin_jepa", "no_alignment"])
    chain = max(len([stage for stage in trial.stages if stage.kind not in DATA]) for trial in both.trials)
    distinct = len([stage for stage in both.stages if stage.kind not in DATA])
    side_by_side = ideal_seconds(both, SECONDS, num_cpus=4, at_once=8)
    assert 10.0 * (chain - 4) <= side_by_side <= 10.0 * chain, "one trial may run the other's evaluations of a shared encoder"
    assert ideal_seconds(both, SECONDS, num_cpus=1, at_once=8) == 10.0 * distinct
    assert ideal_seconds(both, SECONDS, num_cpus=4, at_once=1) == 10.0 * distinct, "the second trial finds what the first one made"


def test_results_are_compared_without_clock_times_and_tokens_are_those_of_encoding_stages(tmp_path: Path) -> None:
    files = [{"path": name, "sha256": name} for name in ("metrics.json", "timing.json", "parts/0.json")]
    assert contents({"files": files}) == {"metrics.json": "metrics.json"}
    for kind, metrics in {"sft": {"tokens_encoded": 5}, "embed": {"num_tokens": 7}, "drift": {"num_tokens": 100}}.items():
        folder = tmp_path / "artifacts" / kind / "key"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"kind": kind, "metrics": metrics}))
    assert tokens(tmp_path) == 12
