"""`clinjepa ingest`: hospital tables to trajectories and labels."""

from __future__ import annotations

from clinjepa.config import Config
from pipelines.graph.planning import plan_experiment
from pipelines.scheduling.progress import console, say_what_is_reused, watch
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import check_storage, ray_session
from pipelines.stages.data import DATA_EXECUTORS
from pipelines.stages.data_card import write_data_card


def ingest(config: Config, debug: bool = False) -> None:
    check_storage(config)
    experiment = plan_experiment(config)
    say_what_is_reused(config, experiment.data_stages)
    with ray_session(config, debug) as context:
        with watch(context.coordinator, config.execution.progress):
            for stage in experiment.data_stages:
                ensure(context, stage, DATA_EXECUTORS)
        for stage in experiment.data_stages:
            console.print(f"{stage.label}: {context.artifact(stage).folder.address}", highlight=False)
    console.print(f"data card: {write_data_card(config, experiment)}", highlight=False)


if __name__ == "__main__":
    from pipelines.cli import main

    main("ingest")
