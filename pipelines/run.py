"""`clinjepa run`: the main job, from hospital tables to a report."""

from __future__ import annotations

import time

from clinjepa.config import Config
from clinjepa.errors import StoreError
from clinjepa.storage import Folder
from pipelines.grid import raise_faults, run_grid
from pipelines.report import RUN_SCHEMA_VERSION, write_report
from pipelines.scheduling.preflight import check_gpus
from pipelines.scheduling.preparing import prepared
from pipelines.scheduling.progress import console, say_what_is_reused, watch
from pipelines.scheduling.session import ray_session


def run(config: Config, debug: bool = False) -> None:
    """Everything the configuration asks for; what is already done is reused. The report is written even if a trial failed."""
    started = time.monotonic()
    experiment = prepared(config, check_run_folder)
    say_what_is_reused(config, experiment.stages)
    with ray_session(config, debug) as context:
        check_gpus(context, experiment.stages)
        with watch(context.coordinator, config.execution.progress):
            faults = run_grid(context, experiment, experiment.ingest.settings["source"]["digest"])
        run_id = context.run_id
    if len(faults) == len(experiment.trials):
        raise_faults(faults)
    address = write_report(config, experiment, run_id)
    console.print(f"report: {address} ({time.monotonic() - started:.0f} s)", highlight=False)
    raise_faults(faults)


def check_run_folder(config: Config) -> None:
    """Refuse a run folder that another schema version made, before anything is done."""
    folder = Folder(config.storage) / f"runs/{config.name}"
    if folder.exists("run.json"):
        found = folder.read_json("run.json").get("schema_version")
        if found != RUN_SCHEMA_VERSION:
            raise StoreError(
                f"{folder.address}/run.json has schema version {found}, this clinjepa writes {RUN_SCHEMA_VERSION}; "
                "give another name=… or storage=…, or move the folder away"
            )


if __name__ == "__main__":
    from pipelines.cli import main

    main("run")
