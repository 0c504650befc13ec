"""`clinjepa pretrain`: one recipe, phase by phase, each a Ray Train stage that hands its checkpoint to the next."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.executors import EXECUTORS
from pipelines.planning import plan_experiment
from pipelines.preflight import check_gpus, check_model
from pipelines.progress import console, watch
from pipelines.runner import ensure
from pipelines.session import check_storage, ray_session
from pipelines.training import check_training


def pretrain(config: Config, debug: bool = False) -> None:
    check_training(config)
    check_storage(config)
    experiment = plan_experiment(config)
    check_model(config, experiment)
    trial = experiment.trials[0]
    with ray_session(config, debug) as context:
        check_gpus(context, trial.stages)
        with watch(context.coordinator, config.execution.progress):
            for stage in trial.phases:
                ensure(context, stage, EXECUTORS, trial.phases[-1].depth)
        for stage in trial.phases:
            console.print(f"{stage.label}: {context.artifact(stage).folder.address}", highlight=False)


if __name__ == "__main__":
    from pipelines.cli import main

    main("pretrain")
