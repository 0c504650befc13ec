"""`clinjepa report`: from finished stages to `report.json`, one HTML page and the record of the run."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from typing import Any

import clinjepa
from clinjepa.config import Config, result_fields, save_config
from clinjepa.errors import StoreError
from clinjepa.evaluation.metrics import combine_seeds
from clinjepa.report.document import build_report, render_html
from clinjepa.storage import Folder
from pipelines.graph.artifacts import Artifact, content_key
from pipelines.graph.code_digest import project_digest
from pipelines.graph.experiment import Experiment
from pipelines.graph.provenance import by_other_code
from pipelines.graph.run_record import RUN_SCHEMA_VERSION
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial
from pipelines.stages.data_card import PAGE, write_data_card
from pipelines.stages.evaluation import RESULT

_PACKAGES = ("ray", "torch", "transformers", "peft", "pyarrow", "polars", "lightgbm", "scikit-learn")


def write_report(config: Config, experiment: Experiment, run_id: str | None) -> str:
    """Write report.html, report.json, the data card, config.yaml and run.json into `<storage>/runs/<name>/`; returns the page's address.

    run_id: the invocation whose stages count as computed; None counts all as reused.
    """
    return _Assembly(config, experiment, run_id).write()


class _Assembly:
    def __init__(self, config: Config, experiment: Experiment, run_id: str | None) -> None:
        self.config, self.experiment, self.run_id = config, experiment, run_id
        self.storage = Folder(config.storage)
        self.out = self.storage / f"runs/{config.name}"
        self.manifests = {stage.key: self._artifact(stage).manifest() for stage in experiment.stages if self._artifact(stage).is_complete()}
        self.trials = [trial for trial in experiment.trials if all(stage.key in self.manifests for stage in trial.stages)]
        self.unfinished = [f"{trial.recipe}, seed {trial.seed}" for trial in experiment.trials if trial not in self.trials]

    def write(self) -> str:
        if not self.trials:
            missing = ", ".join(self.unfinished)
            raise StoreError(f"nothing to report yet: no recipe of {self.config.name} is finished ({missing}); run `clinjepa run` first")
        results = {
            "run": self.config.name,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "config_digest": content_key(result_fields(self.config)),
            "code_digest": project_digest(),
            "dataset": self._dataset(),
            "stages": [self._stage(stage) for stage in self.experiment.stages if stage.key in self.manifests],
            "other_code": [
                {"name": manifest["label"], "key": key, "code_digest": manifest["code_digest"]}
                for key, manifest in self.manifests.items()
                if by_other_code(manifest)
            ],
            "phases": self._per_recipe_and_seed(self._phases),
            "roundtrip": self._evaluations("roundtrip"),
            "drift": self._evaluations("drift"),
            "geometry": self._evaluations("geometry"),
            "downstream": self._downstream(),
            "timings": self._timings(),
            "versions": _versions(),
        }
        content = build_report(results)
        extras = {
            "training": self._per_recipe_and_seed(lambda trial: [self._training(stage) for stage in trial.phases]),
            "umap": self._umap(),
            "config_yaml": save_config(self.config),
            "headline_context": self.config.evaluation.drift.headline_context,
            "data_card": PAGE,
            "notes": [f"Not finished and not in this report: {name}." for name in self.unfinished],
        }
        write_data_card(self.config, self.experiment)
        self.out.write_bytes("config.yaml", save_config(self.config).encode())
        self.out.write_json("report.json", content)
        self.out.write_bytes("report.html", render_html(content, extras).encode())
        self.out.write_json("run.json", self._record())
        return f"{self.out.address}/report.html"

    def _artifact(self, stage: Stage) -> Artifact:
        return Artifact.at(self.storage, stage.kind, stage.key)

    def _dataset(self) -> dict[str, Any]:
        card = self._artifact(self.experiment.trajectories).folder.read_json("data_card.json")
        names = ("num_stays", "num_patients", "num_hours", "num_windows", "attrition", "splits")
        return {"name": self.config.source.name, **{name: card[name] for name in names}}

    def _stage(self, stage: Stage) -> dict[str, Any]:
        manifest = self.manifests[stage.key]
        users = [trial.recipe for trial in self.trials if any(stage.key == used.key for used in trial.stages)]
        data = {each.key for each in (*self.experiment.data_stages, self.experiment.baselines)}
        entry = {
            "name": manifest["label"],
            "key": stage.key,
            "seconds": manifest["seconds"],
            "reused": manifest["run_id"] != self.run_id,
            "num_workers": manifest["num_workers"],
            "code_digest": manifest["code_digest"],
        }
        return entry if stage.key in data else entry | {"recipes": list(dict.fromkeys(users))}

    def _per_recipe_and_seed(self, of: Any) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for trial in self.trials:
            found.setdefault(trial.recipe, {})[str(trial.seed)] = of(trial)
        return found

    def _training(self, stage: Stage) -> dict[str, Any]:
        return {"name": stage.settings["phase"]["name"]} | self._artifact(stage).folder.read_json("metrics.json")

    def _phases(self, trial: Trial) -> list[dict[str, Any]]:
        rows = []
        for stage in trial.phases:
            metrics = self._training(stage)
            steps, diagnostics = metrics["steps"], metrics["diagnostics"]
            shown = max(1, len(steps) // 4)
            oldest, newest = (diagnostics[0], diagnostics[-1]) if diagnostics else ({}, {})
            rows.append(
                {
                    "name": metrics["name"],
                    "num_steps": len(steps),
                    "loss_first": _mean([row["loss"] for row in steps[:shown]]),
                    "loss_last": _mean([row["loss"] for row in steps[-shown:]]),
                    "tuning_l1_first": oldest.get("l1"),
                    "tuning_l1_last": newest.get("l1"),
                    "latent_std": newest.get("latent_std"),
                    "rankme": newest.get("rankme"),
                    "alarms": [{"metric": alarm["kind"], "step": alarm["step"]} for alarm in metrics["alarms"]],
                }
            )
        return rows

    def _evaluations(self, name: str) -> dict[str, Any]:
        by_recipe: dict[str, list[Any]] = {}
        for trial in self.trials:
            by_recipe.setdefault(trial.recipe, []).append(self._artifact(trial.evaluations[name]).folder.read_json(RESULT))
        for results in by_recipe.values():
            for result in results:
                result.pop("umap", None)  # points are for the picture, not for the numbers
        return {recipe: combine_seeds(results) for recipe, results in by_recipe.items()}

    def _downstream(self) -> dict[str, Any]:
        tables: dict[str, dict[str, Any]] = {}
        for recipe, by_task in self._evaluations("downstream").items():
            for task, by_probe in by_task.items():
                for probe, columns in by_probe.items():
                    tables.setdefault(task, {})[f"{recipe} · {probe}"] = columns
        if self.experiment.baselines.key in self.manifests:
            for task, methods in self._artifact(self.experiment.baselines).folder.read_json(RESULT).items():
                tables.setdefault(task, {}).update(methods)
        return tables

    def _umap(self) -> dict[str, Any]:
        found = {}
        for trial in self.trials:
            picture = self._artifact(trial.evaluations["geometry"]).folder.read_json(RESULT).get("umap")
            if picture:
                found.setdefault(trial.recipe, picture)
        return found

    def _timings(self) -> dict[str, float]:
        by_kind: dict[str, float] = {}
        for manifest in self.manifests.values():
            by_kind[manifest["kind"]] = round(by_kind.get(manifest["kind"], 0.0) + manifest["seconds"], 3)
        return by_kind

    def _record(self) -> dict[str, Any]:
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
                    "artifacts": {stage.label: f"{stage.kind}/{stage.key}" for stage in trial.stages},
                }
                for trial in self.trials
            ],
        }


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _versions() -> dict[str, str]:
    found = {"clinjepa": clinjepa.__version__, "python": platform.python_version()}
    for name in _PACKAGES:
        found[name] = importlib.metadata.version(name)
    return found
