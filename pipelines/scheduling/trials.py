"""Recipes and seeds as parallel Ray Tune trials on one cluster.

A trial is a chain of stages. The trial itself reserves no CPU: each stage gets its CPUs and GPUs from the coordinator, and a trial
waits for a stage that another trial is running. Tune's own files are temporary: a grid that was killed and is started again skips
finished stages because their artifacts are in storage.
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

import ray
import ray.tune

from clinjepa.config import Config
from clinjepa.curriculum.recipes import Recipe
from clinjepa.errors import ClinJepaError, in_safe_words
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import quieten_ray

_NO_CPU = ray.tune.PlacementGroupFactory([{"memory": 1}])
"""One byte: Tune needs a bundle that is not empty, and a CPU taken here would be missing for a stage that needs all of them."""


class _Parameters(TypedDict):
    """What Tune gives one trial."""

    recipe: str
    seed: int


@dataclass(frozen=True)
class _Run:
    """What all trials share, sent to their processes."""

    config_json: str
    source_digest: str
    run_id: str
    debug: bool
    executors: Mapping[str, Executor]
    recipes: tuple[Recipe, ...]


def run_trials(context: RunContext, experiment: Experiment, executors: Mapping[str, Executor]) -> list[str]:
    """Run every trial of the experiment in parallel; a trial that fails does not stop the others.

    Args:
        context: The connected run.
        experiment: The stages of `context.config`.
        executors: By stage kind.

    Returns:
        One message for each trial that failed.
    """
    config = context.config
    digest = experiment.ingest.settings["source"]["digest"]
    shared = _Run(config.model_dump_json(), digest, context.run_id, context.debug, executors, experiment.recipes)
    for stage in (*experiment.data_stages, experiment.baselines):
        ensure(context, stage, executors)
    with tempfile.TemporaryDirectory(prefix="clinjepa-tune-") as scratch:
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(ray.tune.with_parameters(_trial, shared=shared), _NO_CPU),
            param_space={
                "recipe": ray.tune.grid_search([recipe.name for recipe in experiment.recipes]),
                "seed": ray.tune.grid_search(list(config.grid.seeds)),
            },
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=config.grid.max_concurrent_trials),
            run_config=ray.tune.RunConfig(
                name=config.name, storage_path=scratch, verbose=0, failure_config=ray.tune.FailureConfig(max_failures=2)
            ),
        )
        results = tuner.fit()
    return _faults(results)


def _trial(parameters: _Parameters, shared: _Run) -> None:
    """One recipe with one seed: its phases, then its evaluations."""
    if not shared.debug:
        quieten_ray()
    config = Config.model_validate_json(shared.config_json)
    trial = build_experiment(config, shared.source_digest, shared.recipes).trial(parameters["recipe"], parameters["seed"])
    context = RunContext(config, shared.run_id, coordinator(), shared.debug)
    longest = max(stage.depth for stage in trial.stages)
    try:
        for stage in (*trial.phases, trial.embed, *trial.evaluations.values()):
            ensure(context, stage, shared.executors, longest)
    except (ClinJepaError, ray.exceptions.RayError, ValueError, TypeError, KeyError) as error:
        if shared.debug:
            traceback.print_exc()
        message = str(error) if isinstance(error, ClinJepaError) else f"unexpected {in_safe_words(error)}"
        ray.tune.report({"fault": f"{parameters['recipe']}, seed {parameters['seed']}: {message}"})
        return
    ray.tune.report({"fault": "", "num_stages": len(trial.stages)})


def _faults(results: ray.tune.ResultGrid) -> list[str]:
    faults = []
    for result in (results[index] for index in range(len(results))):
        config = result.config or {}
        if result.error is not None:
            faults.append(f"{config.get('recipe')}, seed {config.get('seed')}: unexpected {in_safe_words(result.error)}")
        elif result.metrics and result.metrics.get("fault"):
            faults.append(result.metrics["fault"])
    return faults


def raise_faults(faults: list[str]) -> None:
    """Raise one ClinJepaError naming every trial that failed."""
    if faults:
        raise ClinJepaError("; ".join(faults) + " (finished stages are kept: run again to go on)")
