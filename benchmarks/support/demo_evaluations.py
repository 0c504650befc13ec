"""CPU of the evaluations of the demo's four recipes under Ray, beyond what a start of Ray takes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from benchmarks.support.demo_stores import ROOT
from benchmarks.support.harness import Cost, run_command
from clinjepa.config import load_config
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment

CONFIG = "configs/demo_simulator.yaml"
_RAY_ALONE = """
import sys
from clinjepa.config import load_config
from pipelines.scheduling.session import ray_session
with ray_session(load_config(sys.argv[1], [sys.argv[2]])):
    pass
"""


class DemoCosts(NamedTuple):
    """Of `evaluate` without a finished evaluation of a recipe, and of a session of Ray without work; number of stages that ran."""

    evaluations: Cost
    ray: Cost
    num_stages: int


def demo_evaluations(finished: Path | None, scratch: Path) -> DemoCosts:
    """Costs of all evaluations of the recipes of CONFIG. Baselines and direct forecasts belong to no recipe; they stay finished.

    Args:
        finished: Storage of a finished run of CONFIG, which is copied; None: such a run is made first.
        scratch: An empty folder.
    """
    run = scratch / "run"
    storage, environment = f"storage={run}", ["execution.progress=false"]
    if finished is not None:
        shutil.copytree(finished, run)
    run_command([sys.executable, "-m", "pipelines.run", CONFIG, storage, *environment], cwd=str(ROOT))
    config = load_config(ROOT / CONFIG, [storage])
    stages = {stage.key: stage for trial in plan_experiment(config).trials for stage in trial.evaluations.values()}
    for stage in stages.values():
        shutil.rmtree(run / f"artifacts/{stage.kind}/{stage.key}")
    ray = run_command([sys.executable, "-c", _RAY_ALONE, CONFIG, storage], cwd=str(ROOT))
    evaluations = run_command([sys.executable, "-m", "pipelines.evaluate", CONFIG, storage, *environment], cwd=str(ROOT))
    if not all(Artifact.at(Folder(run), stage.kind, stage.key).is_complete() for stage in stages.values()):
        raise RuntimeError("an evaluation of the demo was not made again")
    return DemoCosts(evaluations, ray, len(stages))
