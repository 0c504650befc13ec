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
FOUR = ("grid.recipes=[clin_jepa, no_alignment, sft, untrained]", "grid.seeds=[0]", "execution.progress=false")
_RAY_ALONE = """
import sys
from clinjepa.config import load_config
from pipelines.scheduling.session import ray_session
with ray_session(load_config(sys.argv[1], sys.argv[2:])):
    pass
"""


class DemoCosts(NamedTuple):
    """Of `evaluate` without a finished evaluation of a recipe, and of a session of Ray without work; number of stages that ran."""

    evaluations: Cost
    ray: Cost
    num_stages: int


def demo_evaluations(finished: Path | None, scratch: Path) -> DemoCosts:
    """Costs of all evaluations of the demo's four recipes. Baselines and direct forecasts belong to no recipe; they stay finished.

    Args:
        finished: Folder `<storage>/runs/<name>` of a finished run with these recipes, whose storage is copied; None: CONFIG is run first.
        scratch: An empty folder.
    """
    storage, source = scratch / "run", str(ROOT / CONFIG)
    words = [f"storage={storage}", *FOUR]
    if finished is not None:
        shutil.copytree(finished.parents[1], storage)
        source = str(finished / "config.yaml")
    run_command([sys.executable, "-m", "pipelines.run", source, *words], cwd=str(ROOT))
    stages = {stage.key: stage for trial in plan_experiment(load_config(source, words)).trials for stage in trial.evaluations.values()}
    for stage in stages.values():
        shutil.rmtree(storage / f"artifacts/{stage.kind}/{stage.key}")
    ray = run_command([sys.executable, "-c", _RAY_ALONE, source, *words], cwd=str(ROOT))
    evaluations = run_command([sys.executable, "-m", "pipelines.evaluate", source, *words], cwd=str(ROOT))
    if not all(Artifact.at(Folder(storage), stage.kind, stage.key).is_complete() for stage in stages.values()):
        raise RuntimeError("an evaluation of the demo was not made again")
    return DemoCosts(evaluations, ray, len(stages))
