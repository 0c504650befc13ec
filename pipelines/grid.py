"""Recipes x seeds as parallel Ray Tune trials on one cluster.

A trial is a chain of stages. It reserves no CPU of its own; each stage it owns gets what it needs from the coordinator, and a stage
that another trial is already running is waited for. What Tune itself keeps is scratch: finished stages are the only memory, so
a grid that was killed and started again repeats nothing.
"""

from __future__ import annotations

import tempfile
import traceback
from typing import Any

import ray
import ray.tune

from clinjepa.config import Config
from clinjepa.errors import ClinJepaError, in_safe_words
from pipelines.graph.context import RunContext
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.preflight import check_gpus
from pipelines.scheduling.preparing import prepared
from pipelines.scheduling.progress import say_what_is_reused, watch
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import quieten_ray, ray_session
from pipelines.stages.executors import EXECUTORS

_NO_CPU = ray.tune.PlacementGroupFactory([{"memory": 1}])
"""One byte: Tune wants a bundle that is not empty, and any CPU it took would be missing from a stage that needs them all."""


def run_grid(context: RunContext, experiment: Experiment, digest: str) -> list[str]:
    """Run every trial of the experiment; returns one message for each that failed. Other trials go on."""
    config = context.config
    payload = {"config": config.model_dump(mode="json"), "digest": digest, "run_id": context.run_id, "debug": context.debug}
    for stage in (*experiment.data_stages, experiment.baselines):
        ensure(context, stage, EXECUTORS)
    with tempfile.TemporaryDirectory(prefix="clinjepa-tune-") as scratch:
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(ray.tune.with_parameters(_trial, payload=payload), _NO_CPU),
            param_space={"recipe": ray.tune.grid_search(list(config.grid.recipes)), "seed": ray.tune.grid_search(list(config.grid.seeds))},
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=config.grid.max_concurrent_trials),
            run_config=ray.tune.RunConfig(
                name=config.name, storage_path=scratch, verbose=0, failure_config=ray.tune.FailureConfig(max_failures=2)
            ),
        )
        results = tuner.fit()
    return _faults(results)


def _trial(params: dict[str, Any], payload: dict[str, Any]) -> None:
    """One recipe with one seed: its phases, then what judges it."""
    if not payload["debug"]:
        quieten_ray()
    config = Config.model_validate(payload["config"])
    trial = build_experiment(config, payload["digest"]).trial(params["recipe"], params["seed"])
    context = RunContext(config, payload["run_id"], coordinator(), payload["debug"])
    longest = max(stage.depth for stage in trial.stages)
    try:
        for stage in (*trial.phases, trial.embed, *trial.evaluations.values()):
            ensure(context, stage, EXECUTORS, longest)
    except (ClinJepaError, ray.exceptions.RayError, ValueError, TypeError, KeyError) as error:
        if payload["debug"]:
            traceback.print_exc()
        said = str(error) if isinstance(error, ClinJepaError) else f"unexpected {in_safe_words(error)}"
        ray.tune.report({"fault": f"{params['recipe']}, seed {params['seed']}: {said}"})
        return
    ray.tune.report({"fault": "", "num_stages": len(trial.stages)})


def _faults(results: Any) -> list[str]:
    faults = []
    for result in results:
        if result.error is not None:
            faults.append(f"{result.config.get('recipe')}, seed {result.config.get('seed')}: unexpected {in_safe_words(result.error)}")
        elif result.metrics and result.metrics.get("fault"):
            faults.append(result.metrics["fault"])
    return faults


def grid(config: Config, debug: bool = False) -> None:
    """`clinjepa grid`: train and judge every recipe x seed; no report."""
    experiment = prepared(config)
    say_what_is_reused(config, experiment.stages)
    with ray_session(config, debug) as context, watch(context.coordinator, config.execution.progress):
        check_gpus(context, experiment.stages)
        raise_faults(run_grid(context, experiment, experiment.ingest.settings["source"]["digest"]))


def raise_faults(faults: list[str]) -> None:
    """Raise one ClinJepaError naming every trial that failed."""
    if faults:
        raise ClinJepaError("; ".join(faults) + " (finished stages are kept: run again to go on)")


if __name__ == "__main__":
    from pipelines.cli import main

    main("grid")
