"""An export that can be served, made without training: made-up weights, probes and a forecaster of the right shapes, simulated patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clinjepa.clinical import load_task, load_variables
from clinjepa.config import Config
from clinjepa.evaluation.downstream.fitted import FittedProbes, PointRule, ProbeInput, TaskProbes, TrainLabels, predictor_digest
from clinjepa.evaluation.downstream.fitted_probe import FittedProbe, LinearWeights
from clinjepa.evaluation.downstream.point_features import COLUMNS
from clinjepa.evaluation.downstream.probe_rows import LabelScale, Standardiser
from clinjepa.evaluation.forecasts.forecaster import Forecaster, Steps
from clinjepa.evaluation.forecasts.points.readouts import Decoder, MeasuredHead
from clinjepa.evaluation.forecasts.result import LAST_VALUE, MODEL, TRAIN_MEAN
from clinjepa.evaluation.forecasts.scoring.distributions import Distribution, PlausibleRange
from clinjepa.storage import Folder
from clinjepa.trajectory.hours.ingest import build_partition, finish_ingest
from clinjepa.trajectory.settings import IngestSettings
from pipelines.results.model_export import export_model
from tests.support.training.finished_training import FinishedTraining, small_config

NAMES = ("heart_rate", "map")
TASKS = ("hypotension_8h", "in_hospital_death", "map_8h")
ROLLOUTS = {"hypotension_8h": 4, "in_hospital_death": 6, "map_8h": 4}


class ServedExport:
    """The export in `root/model`, the training that it was made from, and the ingest of the simulated patients."""

    def __init__(self, root: Path, *overrides: str, kind: str = "context") -> None:
        self.config: Config = small_config(root / "storage", *overrides)
        self.finished = FinishedTraining(self.config)
        self.predictor = self.finished.predictor
        self.probes = self._probes(kind)
        self.forecaster = _forecaster(self.finished.encoder.dim)
        for name, fitted in (("downstream", self.probes), ("forecasts", self.forecaster)):
            stage = self.finished.trial.evaluations[name]
            fitted.write(self.finished._artifact(stage))
            self.finished._publish(stage)
        self.folder = root / "model"
        export_model(self.config, str(self.folder))

    def _probes(self, pooling: str) -> FittedProbes:
        rng, spec = np.random.default_rng(0), self.predictor.spec
        width = spec.hidden_size if pooling == "context" else spec.latent_dim * len(pooling.split("+"))
        tasks = {}
        for name in TASKS:
            task = load_task(name)
            output = "log_odds" if task.is_classification else "number"
            scale = None if task.is_classification else LabelScale(80.0, 12.0)
            probes = {}
            for column in COLUMNS:
                size = width if column == "history_only" else 2 * width
                unit = Standardiser(np.zeros(size, np.float32), np.ones(size, np.float32))
                probes[column, "linear"] = FittedProbe(unit, LinearWeights(rng.normal(size=size), -0.5), scale)
            at = "hourly" if task.is_hourly else "prediction_hour"
            train = TrainLabels(100, 50, 0.2)
            tasks[name] = TaskProbes(output, task.label_unit, at, ROLLOUTS[name], ROLLOUTS[name], train, None, probes)
        given = ProbeInput(pooling, 6, spec.latent_dim, predictor_digest(self.predictor))
        return FittedProbes(given, PointRule(4, 1, 24), COLUMNS, ("linear",), tasks)


def build_ingest(config: Config, out: Folder) -> None:
    """The ingest artifact of the first partition of the configuration's source."""
    from clinjepa.sources import open_source

    source, settings = open_source(config.source), IngestSettings.of(config)
    build_partition(source, source.partitions()[0], settings, out, "part-00000")
    finish_ingest(out, settings)


def _forecaster(dim: int) -> Forecaster:
    rng = np.random.default_rng(1)
    steps = Steps(6, [1, 4], np.arange(1, 9))
    unit = Standardiser(np.zeros(dim, np.float32), np.ones(dim, np.float32))
    bias_V = np.array([85.0, 75.0], np.float32)
    decoder = Decoder(unit, rng.normal(size=(dim, 2)).astype(np.float32), bias_V)
    heads = [MeasuredHead(unit, rng.normal(size=(dim, 2)), np.zeros(2)) for _ in steps.horizons]
    errors = np.sort(rng.normal(0, 8, 60).astype(np.float32)).astype(np.float64)
    known = [load_variables()[name] for name in NAMES]
    ranges_V2 = np.array([(each.minimum, each.maximum) for each in known], np.float32)
    own: list[list[Distribution | None]] = [
        [Distribution("residuals", np.zeros(0), [errors], PlausibleRange(*each)) for each in ranges_V2.tolist()] for _ in steps.horizons
    ]
    paths = {name: rng.normal(0, 8, (40, 8, 2)).astype(np.float32) for name in (MODEL, LAST_VALUE)}
    units = [each.unit for each in known]
    methods = (MODEL, LAST_VALUE, TRAIN_MEAN)
    return Forecaster(list(NAMES), units, steps, decoder, bias_V, ranges_V2, dict.fromkeys(methods, own), list(heads), paths)
