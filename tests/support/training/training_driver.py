"""Trains one job with Ray Train on the cluster of `RAY_ADDRESS`: `python -m tests.support.training.training_driver SPEC.json`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinjepa.config import Config
from clinjepa.curriculum.jobs import Job, load_training_job
from clinjepa.errors import ClinJepaError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.stage import Stage
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import ray_session
from pipelines.stages.needs import least_training_needs, training_needs
from pipelines.stages.ray_train import run_training


def stage_of(job: Job) -> Stage:
    """The stage that the driver makes of a job."""
    return Stage("phase", "job", {"job": replace(job, out="").to_json()})


def folder_of(job: Job, storage: str | Path) -> Folder:
    """Where the driver leaves what the job makes."""
    return Folder(storage) / "artifacts/phase" / stage_of(job).key


def main(path: str) -> int:
    spec: dict[str, Any] = json.loads(Path(path).read_text())
    job = load_training_job(spec["job"])
    config = Config.model_validate(spec["config"])

    def run(context: RunContext, stage: Stage, artifact: Artifact) -> dict[str, Any]:
        return run_training(context, stage, artifact, replace(job, out=artifact.folder.address))

    executor = Executor(run, training_needs, lambda config: config.execution.max_workers, least_training_needs)
    try:
        with ray_session(config, debug=bool(spec.get("debug"))) as context:
            ensure(context, stage_of(job), {"phase": executor})
    except ClinJepaError as fault:
        print(f"{type(fault).__name__}: {fault}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
