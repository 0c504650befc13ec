"""`clinjepa pretrain`: one recipe, phase by phase, each a Ray Train stage that hands its checkpoint to the next."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.scheduling.preflight import check_gpus
from pipelines.scheduling.preparing import prepared
from pipelines.scheduling.progress import console, say_what_is_reused, watch
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import ray_session
from pipelines.stages.executors import EXECUTORS


def pretrain(config: Config, debug: bool = False) -> None:
    first = config.grid.model_copy(update={"recipes": config.grid.recipes[:1], "seeds": config.grid.seeds[:1]})
    trial = prepared(config.model_copy(update={"grid": first})).trials[0]
    stages = trial.phases[-1].closure()
    say_what_is_reused(config, stages)
    with ray_session(config, debug) as context:
        check_gpus(context, stages)
        with watch(context.coordinator, config.execution.progress):
            for stage in trial.phases:
                ensure(context, stage, EXECUTORS, trial.phases[-1].depth)
        for stage in trial.phases:
            console.print(f"{stage.label}: {context.artifact(stage).folder.address}", highlight=False)


if __name__ == "__main__":
    from pipelines.cli import main

    main("pretrain")
