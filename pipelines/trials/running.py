"""The trials of a grid as parallel Ray Tune trials on one cluster.

A trial is a chain of stages. The trial itself reserves no CPU: each stage gets its CPUs and GPUs from the coordinator, and a trial
waits for a stage that another trial is running. Tune's own files are temporary: a grid that was killed and is started again skips
finished stages because their artifacts are in storage.
"""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # Tune's files go nowhere here; progress is the board's
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")

import ray  # noqa: E402
import ray.tune  # noqa: E402

from clinjepa.config import Config  # noqa: E402
from clinjepa.errors import ClinJepaError, in_safe_words  # noqa: E402
from pipelines.graph.context import Executor, RunContext  # noqa: E402
from pipelines.graph.experiment import Experiment  # noqa: E402
from pipelines.graph.stage import Stage  # noqa: E402
from pipelines.graph.trial_stages import Trial  # noqa: E402
from pipelines.results.trial_metrics import TUNING_L1, tuning_l1  # noqa: E402
from pipelines.scheduling.coordinator import coordinator  # noqa: E402
from pipelines.scheduling.progress import shown_above  # noqa: E402
from pipelines.scheduling.runner import ensure  # noqa: E402
from pipelines.scheduling.session import quieten_ray  # noqa: E402
from pipelines.scheduling.tune_environment import keep_credentials_out  # noqa: E402
from pipelines.trials.board import BoardCallback, TrialBoard  # noqa: E402

NO_CPU = ray.tune.PlacementGroupFactory([{"memory": 1}])
"""One byte: Tune needs a bundle that is not empty, and a CPU taken here would be missing for a stage that needs all of them."""

_LEAST_AT_ONCE = 4
FAULTS = (ClinJepaError, ray.exceptions.RayError, ValueError, TypeError, KeyError)
"""What a stage may raise: it ends its own trial, not the grid."""


class TrialFault(NamedTuple):
    """Why a trial, or the baselines beside them, failed."""

    name: str
    message: str
    is_trial: bool = True


class _Parameters(TypedDict):
    """What Tune gives one trial."""

    trial: str


@dataclass(frozen=True)
class _Run:
    """What all trials share, sent to their processes."""

    config_json: str
    run_id: str
    debug: bool
    executors: Mapping[str, Executor]
    chains: Mapping[str, tuple[Stage, ...]]
    """By name of a trial."""


def run_trials(context: RunContext, experiment: Experiment, executors: Mapping[str, Executor], evaluates: bool = True) -> list[TrialFault]:
    """Run every trial of the experiment, and the baselines beside them, in parallel; a trial that fails does not stop the others.

    Args:
        context: The connected run.
        experiment: The stages of `context.config`.
        executors: By stage kind.
        evaluates: False: only the phases of the trials run.

    Returns:
        The faults of the trials that failed, and of the baselines.
    """
    config = context.config
    chains = {trial.name: trial.chain if evaluates else trial.phases for trial in experiment.trials}
    beside = {data.baselines.label: (data.baselines,) for data in experiment.data} if evaluates else {}
    shared = _Run(config.model_dump_json(), context.run_id, context.debug, executors, beside | chains)
    for stage in experiment.data[0].stages:
        ensure(context, stage, executors)
    sizes = {name: (1, 0) for name in beside} | {trial.name: _size(experiment, trial) for trial in experiment.trials}
    names = [*beside, *(trial.name for trial in start_order(experiment.trials))]
    board = TrialBoard(sizes, TUNING_L1)
    with tempfile.TemporaryDirectory(prefix="clinjepa-tune-") as scratch, shown_above(board.table):
        keep_credentials_out()
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(ray.tune.with_parameters(_trial, shared=shared), NO_CPU),
            param_space={"trial": ray.tune.grid_search(names)},
            tune_config=ray.tune.TuneConfig(max_concurrent_trials=trials_at_once(config, executors, len(names)), reuse_actors=True),
            run_config=run_config(config.name, scratch, board),
        )
        return [fault._replace(is_trial=fault.name in chains) for fault in _faults(tuner.fit())]


def run_config(name: str, scratch: str, board: TrialBoard) -> ray.tune.RunConfig:
    """Of all Tune runs here: quiet, with a board, and two more attempts for a trial whose process died."""
    return ray.tune.RunConfig(
        name=name,
        storage_path=scratch,
        verbose=0,
        failure_config=ray.tune.FailureConfig(max_failures=2),
        callbacks=[BoardCallback(board)],
    )


def trials_at_once(config: Config, executors: Mapping[str, Executor], num_trials: int) -> int:
    """How many trials run at once: `grid.max_concurrent_trials`, else twice as many as the cluster can train.

    A trial is a process of some 300 MB. Twice, because a trial may wait for a stage that another one runs; those that wait hold no CPU.
    """
    if config.grid.max_concurrent_trials is not None:
        return min(num_trials, config.grid.max_concurrent_trials)
    phase = executors["phase"]
    needs = phase.least(config) if phase.least else phase.needs(config)
    there = ray.cluster_resources() | config.execution.budget
    slots = min((int(there.get(name, 0.0) / amount + 1e-6) for name, amount in needs.items() if amount > 0), default=1)
    return min(num_trials, max(_LEAST_AT_ONCE, 2 * slots))


def start_order(trials: Sequence[Trial]) -> list[Trial]:
    """The trials in an order in which neighbours share as little as possible, so that few of those that start first wait for each other.

    One trial of every group with an equal first phase, then the second of every group, and so on; groups in the order of the grid.
    """
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.phases[0].key, []).append(trial)
    rounds = max(len(group) for group in groups.values())
    return [group[turn] for turn in range(rounds) for group in groups.values() if turn < len(group)]


def _size(experiment: Experiment, trial: Trial) -> tuple[int, int]:
    """(stages of a trial, those of them that other trials use too)."""
    return len(trial.stages), sum(len(experiment.users[stage.key]) > 1 for stage in trial.stages)


def _trial(parameters: _Parameters, shared: _Run) -> None:
    """One trial: its phases, then its evaluations."""
    if not shared.debug:
        quieten_ray()
    context = RunContext(Config.model_validate_json(shared.config_json), shared.run_id, coordinator(), shared.debug)
    chain = shared.chains[parameters["trial"]]
    longest = max(stage.depth for stage in chain)
    found: dict[str, Any] = {}
    try:
        for num_done, stage in enumerate(chain):
            ray.tune.report({"fault": "", "stage": stage.label, "num_done": num_done, **found})
            ensure(context, stage, shared.executors, longest, fails_once=True)
            if stage.kind == "phase" and (measured := tuning_l1(context.artifact(stage))) is not None:
                found[TUNING_L1] = measured
    except FAULTS as error:
        if shared.debug:
            traceback.print_exc()
        ray.tune.report({"fault": words_of(error)})
        return
    ray.tune.report({"fault": "", "stage": "", "num_done": len(chain), **found})


def words_of(error: BaseException) -> str:
    """A fault in one line, without values of patients."""
    return str(error) if isinstance(error, ClinJepaError) else f"unexpected {in_safe_words(error)}"


def _faults(results: ray.tune.ResultGrid) -> list[TrialFault]:
    faults = []
    for result in (results[index] for index in range(len(results))):
        name = str((result.config or {}).get("trial"))
        if result.error is not None:
            faults.append(TrialFault(name, f"unexpected {in_safe_words(result.error)}"))
        elif result.metrics and result.metrics.get("fault"):
            faults.append(TrialFault(name, result.metrics["fault"]))
    return faults


def raise_faults(faults: Sequence[TrialFault]) -> None:
    """Raise one ClinJepaError naming every trial that failed; equal faults are named once, with the trials that had them."""
    if faults:
        by_message: dict[str, list[str]] = {}
        for fault in faults:
            by_message.setdefault(fault.message, []).append(fault.name)
        told = (f"{_names(names)}: {message}" for message, names in by_message.items())
        raise ClinJepaError("; ".join(told) + " (finished stages are kept: run again to go on)")


def _names(names: Sequence[str]) -> str:
    return "; ".join(names[:3]) + (f" and {len(names) - 3} more trials" if len(names) > 3 else "")
