"""The report of a run's finished stages: `report.json`, one HTML page, and the record of the run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import pyarrow as pa

from clinjepa.clinical import load_variables
from clinjepa.config import Config, result_fields, save_config
from clinjepa.errors import StoreError
from clinjepa.evaluation.baselines.names import COLUMN
from clinjepa.evaluation.differences.of_errors import CellName, error_differences, number_cells
from clinjepa.evaluation.forecasts.tables import FORECASTS_FILE
from clinjepa.evaluation.predictions import PREDICTIONS, cell_predictions, compare_predictions, mean_over_tasks, of_a_run
from clinjepa.evaluation.risk.evaluate import RiskSettings, risk_evaluation
from clinjepa.evaluation.risk.result import RiskResult
from clinjepa.evaluation.seeds import combine_seeds
from clinjepa.redaction import redacted
from clinjepa.report.document import build_report, render_html
from clinjepa.report.headline import headline_recipe
from clinjepa.report.sections.fans import choose_fans
from clinjepa.storage import Folder
from clinjepa.trajectory.audit.show import may_show_patients
from pipelines.graph.artifacts import RESULT, Artifact, content_key
from pipelines.graph.code_digest import project_digest
from pipelines.graph.experiment import Experiment
from pipelines.graph.provenance import by_other_code
from pipelines.graph.run_record import RUN_RECORD, RUN_SCHEMA_VERSION, RunRecord
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial
from pipelines.results.costs import trial_costs
from pipelines.results.grid_table import TABLE, write_table
from pipelines.results.number_tables import NumberTables, number_tables
from pipelines.results.report_rows import (
    PhaseMetrics,
    StageRow,
    dataset_row,
    other_code_rows,
    package_versions,
    phase_metrics,
    phase_row,
    seconds_by_kind,
    stage_row,
)
from pipelines.stages.data_card import CARD, PAGE, write_data_card
from pipelines.stages.evaluation import REGRESSION

_Of = TypeVar("_Of")


def write_report(config: Config, experiment: Experiment, run_id: str | None, head: Sequence[str] = ()) -> str:
    """Write report.html, report.json, predictions.parquet, the data card, config.yaml and run.json into `<storage>/runs/<name>/`.

    Args:
        config: The configuration.
        experiment: Its stages.
        run_id: The invocation whose stages count as computed; None counts all as reused.
        head: Lines that stand first on the page: of a scoring, which run was frozen and how far its patients are from the training.

    Returns:
        The page's address.

    Raises:
        StoreError: No trial is finished, or a result does not fit the schema of `report.json`.
    """
    return _Assembly(config, experiment, run_id, head).write()


class _Assembly:
    """Collects the results of the finished trials."""

    def __init__(self, config: Config, experiment: Experiment, run_id: str | None, head: Sequence[str]) -> None:
        self.config, self.experiment, self.run_id, self.head = config, experiment, run_id, head
        self.storage = Folder(config.storage)
        self.out = self.storage / f"runs/{config.name}"
        self.manifests = {stage.key: self._artifact(stage).manifest() for stage in experiment.stages if self._artifact(stage).is_complete()}
        asked = [trial for trial in experiment.trials if trial.data is experiment.data[0]]
        self.trials = [trial for trial in asked if all(stage.key in self.manifests for stage in trial.stages)]
        self.unfinished = [trial.name for trial in asked if trial not in self.trials]
        self.others = [trial.name for trial in experiment.trials if trial.data is not experiment.data[0]]

    def write(self) -> str:
        if not self.trials:
            missing = ", ".join(self.unfinished)
            raise StoreError(f"nothing to report yet: no recipe of {self.config.name} is finished ({missing}); run `clinjepa run` first")
        card = self._artifact(self.experiment.trajectories).folder.read_json(CARD)
        numbers = self._regression()
        results = {
            "run": self.config.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config_digest": content_key(result_fields(self.config)),
            "code_digest": project_digest(),
            "headline_context": self.config.evaluation.drift.headline_context,
            "dataset": dataset_row(self.config.source.name, card),
            "stages": [self._stage(stage) for stage in self.experiment.stages if stage.key in self.manifests],
            "other_code": other_code_rows(self.manifests),
            "phases": self._per_recipe_and_seed(lambda trial: [phase_row(metrics) for metrics in self._training(trial)]),
            "costs": self._per_recipe_and_seed(lambda trial: trial_costs(trial, self.manifests).to_json()),
            "roundtrip": self._evaluations("roundtrip"),
            "drift": self._evaluations("drift"),
            "geometry": self._evaluations("geometry"),
            **({"forecasts": self._evaluations("forecasts")} if self.config.evaluation.forecasts.enabled else {}),
            "downstream": self._tables(RESULT),
            **({"regression": numbers} if numbers else {}),
            **({"added_value": self._evaluations("added_value")} if self.config.evaluation.added_value.enabled else {}),
            "comparisons": self._comparisons(),
            "risk": self._risk(),
            "timings": seconds_by_kind(self.manifests),
            "versions": package_versions(),
        }
        content = build_report(results)
        recipes = {recipe.name: recipe for recipe in self.experiment.recipes}
        extras = {
            "training": self._per_recipe_and_seed(self._training),
            "pictures": self._pictures(),
            **self._fans(),
            "config_yaml": save_config(self.config),
            "data_card": PAGE,
            "recipes": {trial.arm: recipes[trial.recipe] for trial in self.trials},
            "head": list(self.head),
            "notes": [
                *(f"Not finished and not in this report: {name}." for name in self.unfinished),
                *(f"On other data or labels than this report, see {TABLE}.csv: {name}." for name in self.others),
            ],
        }
        write_data_card(self.config, self.experiment)
        self.out.write_bytes("config.yaml", redacted(save_config(self.config)).encode())
        self.out.write_json("report.json", content)
        self.out.write_bytes("report.html", redacted(render_html(content, extras)).encode())
        self.out.write_table(PREDICTIONS, of_a_run(self._predictions()))
        self.out.write_json(RUN_RECORD, self._record())
        write_table(self.config, self.experiment)
        return f"{self.out.address}/report.html"

    def _artifact(self, stage: Stage) -> Artifact:
        return Artifact.at(self.storage, stage.kind, stage.key)

    def _stage(self, stage: Stage) -> StageRow:
        shared = {each.key for each in (*self.experiment.data_stages, self.experiment.baselines)}
        users = [trial.arm for trial in self.experiment.users.get(stage.key, ()) if trial in self.trials]
        return stage_row(self.manifests[stage.key], self.manifests, self.run_id, None if stage.key in shared else users)

    def _per_recipe_and_seed(self, of: Callable[[Trial], _Of]) -> dict[str, dict[str, _Of]]:
        found: dict[str, dict[str, _Of]] = {}
        for trial in self.trials:
            found.setdefault(trial.arm, {})[str(trial.seed)] = of(trial)
        return found

    def _training(self, trial: Trial) -> list[PhaseMetrics]:
        return [phase_metrics(stage, self._artifact(stage)) for stage in trial.phases]

    def _evaluations(self, name: str, file: str = RESULT) -> dict[str, Any]:
        """Recipe, at its point of the axes -> a file of its artifacts with figures of all finished seeds combined."""
        by_recipe: dict[str, list[Any]] = {}
        for trial in self.trials:
            by_recipe.setdefault(trial.arm, []).append(self._artifact(trial.evaluations[name]).folder.read_json(file))
        for results in by_recipe.values():
            for result in results:
                result.pop("pictures", None)  # points are for the pictures, not for the numbers
        return {recipe: combine_seeds(results) for recipe, results in by_recipe.items()}

    def _tables(self, file: str) -> dict[str, dict[str, Any]]:
        """Task -> method -> columns of a file of the probes' and the baselines' artifacts; the methods are `<recipe> · <probe>` and the
        baselines."""
        tables: dict[str, dict[str, Any]] = {}
        for recipe, by_task in self._evaluations("downstream", file).items():
            for task, by_probe in by_task.items():
                for probe, columns in by_probe.items():
                    tables.setdefault(task, {})[f"{recipe} · {probe}"] = columns
        if self.experiment.baselines.key in self.manifests:
            for task, methods in self._artifact(self.experiment.baselines).folder.read_json(file).items():
                # Baselines see the history only, so their figures of numbers are written without a column.
                named = {method: {COLUMN: cell} for method, cell in methods.items()} if file == REGRESSION else methods
                tables.setdefault(task, {}).update(named)
        return tables

    def _regression(self) -> NumberTables:
        """Tasks whose labels are numbers, with differences from the reference on the history alone; empty without such tasks."""
        tables = self._tables(REGRESSION)
        if not tables:
            return {}
        settings = self.config.evaluation.downstream
        differences = error_differences(number_cells(self._predictions()), CellName(self._reference(), COLUMN), settings.num_bootstrap)
        return number_tables(tables, differences)

    def _reference(self) -> str:
        """The method that comparisons subtract."""
        return f"{headline_recipe([trial.arm for trial in self.trials])} · {self.config.evaluation.downstream.probe.kinds[0]}"

    def _comparisons(self) -> dict[str, Any]:
        """AUROC of every other recipe and baseline minus that of the headline recipe, from the history alone, on the kept predictions."""
        settings = self.config.evaluation.downstream
        methods, reference = self._history_only(settings.probe.kinds[:1]), self._reference()
        return {
            "reference": reference,
            "column": COLUMN,
            "tasks": compare_predictions(methods, reference, settings.num_bootstrap),
            "mean": mean_over_tasks(methods, reference, settings.num_bootstrap),
        }

    def _risk(self) -> RiskResult:
        """Calibration, subgroups, alarms and net benefit of every probe of every recipe and of the baselines, from the history alone."""
        downstream = self.config.evaluation.downstream
        stays = self._artifact(self.experiment.ingest).folder.read_table("stays.parquet")
        settings = RiskSettings(
            self.config.evaluation.risk, downstream.num_bootstrap, downstream.hourly_stride, COLUMN, self.config.labels.given
        )
        return risk_evaluation(self._history_only(downstream.probe.kinds), stays, settings)

    def _history_only(self, probes: Sequence[str]) -> dict[str, list[pa.Table]]:
        """{method: kept predictions of each training seed}, from the history alone, of these probes and the baselines."""
        methods: dict[str, list[pa.Table]] = {}
        for trial in self.trials:
            kept = self._artifact(trial.evaluations["downstream"]).folder.read_table(PREDICTIONS)
            for probe in probes:
                methods.setdefault(f"{trial.arm} · {probe}", []).append(cell_predictions(kept, probe, COLUMN))
        if self.experiment.baselines.key in self.manifests:
            kept = self._artifact(self.experiment.baselines).folder.read_table(PREDICTIONS)
            for name in dict.fromkeys(kept["method"].to_pylist()):
                methods[name] = [cell_predictions(kept, name, COLUMN)]
        return methods

    def _predictions(self) -> Iterator[tuple[str | None, int | None, pa.Table]]:
        """(recipe, seed, kept predictions) of every finished trial, then those of the baselines."""
        for trial in self.trials:
            yield trial.arm, trial.seed, self._artifact(trial.evaluations["downstream"]).folder.read_table(PREDICTIONS)
        if self.experiment.baselines.key in self.manifests:
            yield None, None, self._artifact(self.experiment.baselines).folder.read_table(PREDICTIONS)

    def _pictures(self) -> dict[str, Any]:
        """Recipe -> points of its first finished seed."""
        found: dict[str, Any] = {}
        for trial in self.trials:
            found.setdefault(trial.arm, self._artifact(trial.evaluations["geometry"]).folder.read_json(RESULT)["pictures"])
        return found

    def _fans(self) -> dict[str, object]:
        """Forecast fans of the headline recipe's first finished seed, where the data's patients may be shown; else why there are none."""
        if not self.config.evaluation.forecasts.enabled:
            return {}
        if not may_show_patients(self._artifact(self.experiment.trajectories).folder):
            return {"no_fans": "Forecasts of single patients are not drawn: these data are neither simulated nor openly published."}
        recipe = headline_recipe([trial.arm for trial in self.trials])
        trial = next(trial for trial in self.trials if trial.arm == recipe)
        kept = self._artifact(trial.evaluations["forecasts"]).folder.read_table(FORECASTS_FILE)
        fans = choose_fans(kept, {name: variable.unit for name, variable in load_variables().items()})
        return {"fans": fans} if fans else {"no_fans": "Forecasts of single patients are not drawn: none has intervals at two horizons."}

    def _record(self) -> RunRecord:
        return {
            "schema_version": RUN_SCHEMA_VERSION,
            "name": self.config.name,
            "config_digest": content_key(result_fields(self.config)),
            "code_digest": project_digest(),
            "other_code": {
                f"{manifest['kind']}/{key}": manifest["code_digest"] for key, manifest in self.manifests.items() if by_other_code(manifest)
            },
            "trials": [
                {
                    "recipe": trial.recipe,
                    "seed": trial.seed,
                    "values": dict(trial.point.values),
                    "artifacts": {stage.label: f"{stage.kind}/{stage.key}" for stage in trial.stages},
                }
                for trial in self.trials
            ],
        }
