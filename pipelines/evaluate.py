"""`clinjepa evaluate`: drift, geometry, downstream and round trip of every recipe x seed, and the controls."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.scheduling.preflight import check_gpus
from pipelines.scheduling.preparing import prepared
from pipelines.scheduling.progress import console, say_what_is_reused, watch
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import ray_session
from pipelines.stages.executors import EXECUTORS


def evaluate(config: Config, debug: bool = False) -> None:
    experiment = prepared(config)
    stages = [experiment.baselines, *(stage for trial in experiment.trials for stage in trial.evaluations.values())]
    say_what_is_reused(config, [each for stage in stages for each in stage.closure()])
    with ray_session(config, debug) as context:
        check_gpus(context, [needed for stage in stages for needed in stage.closure()])
        with watch(context.coordinator, config.execution.progress):
            for stage in stages:
                ensure(context, stage, EXECUTORS)
        for stage in stages:
            console.print(f"{stage.label}: {context.artifact(stage).folder.address}", highlight=False)


if __name__ == "__main__":
    from pipelines.cli import main

    main("evaluate")
