"""A search for settings of one recipe with Tune's searchers, on a metric of the tuning split.

A point runs as one trial of Tune and holds one `Trial` per seed. The seeds run one after the other, and the metric is their mean. Stages
are those of a grid, with the same keys, so what points share runs once, and a search that was killed finds what it finished. The points
that were proposed are recorded in the storage and proposed again first. A search chooses settings; it compares nothing and reads no
held-out patient.
"""

from __future__ import annotations

import statistics
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray.tune
import yaml

from clinjepa.config import Config
from clinjepa.config.axes import in_words, with_values
from clinjepa.curriculum.recipes import Budget, Recipe
from clinjepa.errors import ClinJepaError
from clinjepa.storage import Folder
from pipelines.graph.artifacts import content_key
from pipelines.graph.context import Executor, RunContext
from pipelines.graph.experiment import Experiment, build_experiment
from pipelines.graph.saved_run import read_start
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Start, Trial
from pipelines.results.grid_table import table_of
from pipelines.results.trial_metrics import TUNING_L1, evaluation_metrics, tuning_l1
from pipelines.scheduling.coordinator import coordinator
from pipelines.scheduling.progress import console, shown_above
from pipelines.scheduling.runner import ensure
from pipelines.scheduling.session import quieten_ray
from pipelines.scheduling.tune_environment import keep_credentials_out
from pipelines.trials.board import TrialBoard, trial_name
from pipelines.trials.running import FAULTS, NO_CPU, TrialFault, run_config, trials_at_once, words_of
from pipelines.trials.search_checks import search_config
from pipelines.trials.spaces import STEPS, scheduler, search_space, searcher

BEST, TABLE = "best.yaml", "search"
"""Files in the run's folder: the best point as settings, and one row a point (without the ending)."""


@dataclass(frozen=True)
class _Search:
    """What all points share, sent to their processes."""

    config: Config
    """The configuration of every point before any axis value is set."""

    metric: str
    source_digest: str
    run_id: str
    debug: bool
    executors: Mapping[str, Executor]
    recipes: tuple[Recipe, ...]
    points: Folder
    """Where the points that were proposed are recorded."""

    label_digests: Mapping[str, str]
    """Content digests of `labels.files` by task."""

    start: Start | None
    """What `init_from` names."""


def run_search(context: RunContext, experiment: Experiment, executors: Mapping[str, Executor]) -> list[TrialFault]:
    """Run the search of `context.config.grid`, write its table and its best point.

    Args:
        context: The connected run.
        experiment: The stages of `search_config(context.config)`.
        executors: By stage kind.

    Returns:
        The faults of the points that failed.

    Raises:
        ClinJepaError: No point reports the metric.
    """
    config = context.config
    search = config.grid.search
    points = Folder(config.storage) / f"searches/{_search_key(config, experiment)}"
    digest = experiment.ingest.settings["source"]["digest"]
    base_config = search_config(config)
    shared = _Search(
        base_config,
        str(search.metric),
        digest,
        context.run_id,
        context.debug,
        executors,
        experiment.recipes,
        points,
        _label_digests(experiment),
        read_start(base_config),
    )
    for stage in experiment.data[0].stages:
        ensure(context, stage, executors)
    steps = Budget.from_section(config.curriculum.model_dump()).steps(experiment.recipes[0])
    board = TrialBoard({}, str(search.metric))
    tried = [points.read_json(name) for name in points.names() if name.endswith(".json")]
    with tempfile.TemporaryDirectory(prefix="clinjepa-tune-") as scratch, shown_above(board.table):
        keep_credentials_out()
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(ray.tune.with_parameters(_point, shared=shared), NO_CPU),
            param_space=search_space(config.grid.axes),
            tune_config=ray.tune.TuneConfig(
                metric=search.metric,
                mode=search.mode,
                num_samples=search.num_samples,
                search_alg=searcher(config, tried, trials_at_once(config, executors, search.num_samples)),
                scheduler=scheduler(config, sum(steps), next(count for count in steps if count)),
            ),
            run_config=run_config(config.name, scratch, board),
        )
        results = tuner.fit()
        rows, faults = _outcomes(results, str(search.metric))
    _write(config, rows)
    return faults


def _label_digests(experiment: Experiment) -> dict[str, str]:
    return {task: given["digest"] for task, given in experiment.labels.settings.get("files", {}).items()}


def _search_key(config: Config, experiment: Experiment) -> str:
    """What makes two searches the same: the stages of the configuration before any axis value is set, the axes and the searcher."""
    search = config.grid.search
    axes = config.grid.model_dump(mode="json")["axes"]
    stages = [trial.results for trial in experiment.trials]
    return content_key([stages, axes, search.metric, search.mode, search.algorithm, search.seed])


def _point(parameters: dict[str, Any], shared: _Search) -> None:
    """One point: for every seed its phases, then the evaluation that gives the metric."""
    if not shared.debug:
        quieten_ray()
    shared.points.write_json(f"{content_key(parameters)}.json", parameters)
    config = with_values(shared.config, parameters)
    context = RunContext(config, shared.run_id, coordinator(), shared.debug)
    run = _Seeds(context, shared)
    try:
        trials = build_experiment(config, shared.source_digest, shared.recipes, shared.label_digests, shared.start).trials
        for trial in trials:
            run.seed(trial, is_last=trial is trials[-1])
    except FAULTS as error:
        if shared.debug:
            traceback.print_exc()
        run.report(fault=words_of(error))


class _Seeds:
    """Runs the trials of a point, one per seed.

    Reports the mean metric at the end. With one seed and `tuning_l1`, also after each earlier phase.
    """

    def __init__(self, context: RunContext, shared: _Search) -> None:
        self._context, self._shared = context, shared
        self._found: list[float] = []
        self._steps = self._done = 0

    def seed(self, trial: Trial, is_last: bool) -> None:
        """Run a trial as far as the metric needs it."""
        shared, has_one_seed = self._shared, len(self._found) == 0 and is_last
        for stage in trial.phases:
            self._ensure(stage)
            self._steps += int(stage.settings.get("num_steps", 0))
            measured = self._metric_of_phase(stage)
            if measured is not None and has_one_seed and stage is not trial.phases[-1]:
                self.report(measured)
        if shared.metric == TUNING_L1:
            value = next((each for each in map(self._metric_of_phase, reversed(trial.phases)) if each is not None), None)
        else:
            name = shared.metric.split(".", 1)[0]
            self._ensure(trial.evaluations[name])
            value = evaluation_metrics(name, self._context.artifact(trial.evaluations[name])).get(shared.metric)
        if value is None:
            raise ClinJepaError(f"{shared.metric} cannot be estimated on the tuning split, which has too few patients or hours for it")
        self._found.append(value)
        if is_last:
            self.report(statistics.fmean(self._found))

    def report(self, value: float | None = None, fault: str = "") -> None:
        """Report to Tune; a point without the metric is reported as not a number."""
        result = {"fault": fault, "stage": "", "num_done": self._done, STEPS: self._steps}
        ray.tune.report({**result, self._shared.metric: float("nan") if value is None else value})

    def _ensure(self, stage: Stage) -> None:
        ensure(self._context, stage, self._shared.executors, fails_once=True)
        self._done += 1

    def _metric_of_phase(self, stage: Stage) -> float | None:
        return tuning_l1(self._context.artifact(stage)) if self._shared.metric == TUNING_L1 and stage.kind == "phase" else None


def _outcomes(results: ray.tune.ResultGrid, metric: str) -> tuple[list[dict[str, Any]], list[TrialFault]]:
    rows, faults = [], []
    for result in (results[index] for index in range(len(results))):
        values, metrics = dict(result.config or {}), result.metrics or {}
        fault = words_of(result.error) if result.error is not None else str(metrics.get("fault", ""))
        if fault:
            faults.append(TrialFault(trial_name(values), fault))
        value = metrics.get(metric)
        known = None if value is None or value != value or fault else float(value)
        rows.append({**values, metric: known, STEPS: metrics.get(STEPS, 0), "fault": fault})
    return rows, faults


def _write(config: Config, rows: list[dict[str, Any]]) -> None:
    """The table of points, best first, and the best point. Raises ClinJepaError when no point has the metric."""
    search, out = config.grid.search, Folder(config.storage) / f"runs/{config.name}"
    metric = str(search.metric)
    sign = 1.0 if search.mode == "min" else -1.0
    rows = sorted(rows, key=lambda row: (row[metric] is None, sign * (row[metric] or 0.0)))
    out.write_table(f"{TABLE}.parquet", table_of(rows))
    most_steps = max((row[STEPS] for row in rows), default=0)  # points stopped early have fewer steps
    finished = [row for row in rows if row[metric] is not None and row[STEPS] == most_steps]
    if not finished:
        raise ClinJepaError(
            f"grid.search: no point reports {metric}: {next((row['fault'] for row in rows if row['fault']), 'none finished')}"
        )
    best = {name: finished[0][name] for name in config.grid.axes}
    out.write_bytes(BEST, yaml.safe_dump(_nested(best), sort_keys=False).encode())
    words = " ".join(f"{name}={in_words(value)}" for name, value in best.items())
    console.print(
        f"best of {len(rows)} points on the tuning split, {metric} {finished[0][metric]:.4g}: {words}", highlight=False, markup=False
    )
    console.print(f"settings: {out.address}/{BEST}; all points: {out.address}/{TABLE}.parquet", highlight=False, markup=False)


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested
