"""Storage in which a run's training is finished, laid down without Ray: what the stages would have written, with made-up weights."""

from __future__ import annotations

from pathlib import Path

import torch

from clinjepa.config import Config, load_config, result_fields
from clinjepa.curriculum.settings import EncoderSettings
from clinjepa.curriculum.steps.encoder_specs import encoder_spec
from clinjepa.model import Encoder, PredictorSpec, build_encoder, build_predictor, make_base, save_predictor
from clinjepa.model.predictor import predictor_state
from clinjepa.model.tensor_files import write_tensors
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.tokenizer import train_tokenizer
from pipelines.graph.artifacts import Artifact, WorkRecord
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage
from pipelines.graph.trial_stages import Trial
from tests.support.machines.cli import ROOT, SMALL
from tests.support.models.model_encoders import move_online

TEXTS = [
    "Age: 63 years. Gender: male.",
    "t=0h | Heart Rate: 88 bpm. MAP: 65 mmHg.",
    "t=1h | No observations.",
    "t=2h | Lactate: 2.1 mmol/L.",
]


def small_config(storage: object, *overrides: str) -> Config:
    return load_config(ROOT / SMALL, [f"storage={storage}", *overrides])


class FinishedTraining:
    """One recipe's artifacts in `config.storage`; a public base is a model folder that `encoder.model` names."""

    def __init__(self, config: Config, recipe: str = "clin_jepa") -> None:
        self.config, self.storage = config, Folder(config.storage)
        experiment = plan_experiment(config)
        self.trial: Trial = experiment.trial(recipe, config.grid.seeds[0])
        settings = EncoderSettings.from_json(result_fields(config.encoder))
        self.trajectories = self._artifact(experiment.trajectories)
        train_tokenizer(TEXTS, 300).save(self.trajectories)
        self.trajectories.write_json("data_card.json", {"num_stays": 60, "num_patients": 55})
        self._publish(experiment.trajectories)
        self.spec = encoder_spec(settings, self.trajectories)
        base_stage = self.trial.embed.inputs["base"]
        self.base = self._artifact(base_stage)
        if config.encoder.init == "pretrained":
            self.base.write_json("model.json", {"model": config.encoder.model, "revision": config.encoder.revision})
            if not Path(str(config.encoder.model)).exists():
                make_base(self.spec, 0, Folder(str(config.encoder.model)))
        else:
            make_base(self.spec, 0, self.base)
        self._publish(base_stage)
        self.encoder = self.build_encoder()
        encoder_stage = self.trial.embed.inputs.get("encoder")
        if encoder_stage is not None:
            move_online(self.encoder)
            self.encoder_folder = self._artifact(encoder_stage)
            write_tensors(self.encoder_folder, "online.safetensors", self.encoder.online_state())
            self._publish(encoder_stage)
        self.predictor = build_predictor(PredictorSpec.from_settings(config.predictor.model_dump(), self.encoder.dim), seed=1).eval()
        self.predictor_stage = [stage for stage in self.trial.phases if stage.kind == "phase"][-1]
        save_predictor(predictor_state(self.predictor), self.predictor.spec, self._artifact(self.predictor_stage))
        self._publish(self.predictor_stage)

    def build_encoder(self) -> Encoder:
        """The encoder as the project's own stages build it."""
        with torch.random.fork_rng(devices=[]):
            return build_encoder(self.spec, None if self.config.encoder.init == "pretrained" else self.base, seed=0)

    def _artifact(self, stage: Stage) -> Folder:
        return Artifact.at(self.storage, stage.kind, stage.key).folder

    def _publish(self, stage: Stage) -> None:
        artifact = Artifact.at(self.storage, stage.kind, stage.key)
        artifact.folder.remove("manifest.json")  # a test may publish again; a stage never replaces its manifest
        inputs = {name: upstream.key for name, upstream in stage.inputs.items()}
        artifact.publish(WorkRecord(label=stage.label, inputs=inputs, settings=stage.settings, metrics={}, seconds=0.0, run_id="test"))
