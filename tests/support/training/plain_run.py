"""One recipe of a configuration from its source to its last phase, in this process: the stages' own settings and work, without Ray."""

from __future__ import annotations

import torch

from clinjepa.config import Config
from clinjepa.curriculum.embedding import Embedder
from clinjepa.curriculum.hard_sync import hard_sync
from clinjepa.curriculum.jobs import EmbedJob, PhaseJob, SftJob, SyncJob
from clinjepa.curriculum.recipes import Phase
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings, ReadingSettings, SftSettings
from clinjepa.curriculum.steps.encoder_specs import next_token_spec
from clinjepa.model.pretrained.base_model import make_base
from clinjepa.storage import Folder
from clinjepa.trajectory.tokens.latent_store import finish_latents
from pipelines.graph.artifacts import Artifact
from pipelines.graph.planning import plan_experiment
from pipelines.graph.stage import Stage
from pipelines.stages.base_model import base_settings
from tests.support.data.finished_data import finish_data
from tests.support.training.curriculum_processes import run_job


class PlainRun:
    """The finished stages of a configuration's first recipe, by kind in the order in which they ran."""

    def __init__(self, config: Config) -> None:
        torch.set_num_threads(1)
        self.storage = Folder(config.storage)
        self.artifacts = finish_data(config)
        trial = plan_experiment(config).trial(config.grid.recipes[0], config.grid.seeds[0])
        work = {"base": self._make_base, "sft": self._fine_tune, "phase": self._train, "sync": self._sync, "embed": self._embed}
        stages = {stage.key: stage for last in (*trial.phases, trial.embed) for stage in last.closure() if stage.kind in work}
        self.done: dict[str, list[Folder]] = {kind: [] for kind in work}
        for stage in stages.values():
            work[stage.kind](stage, {name: self.folder(upstream) for name, upstream in stage.inputs.items()})
            self.done[stage.kind].append(self.folder(stage))

    def folder(self, stage: Stage) -> Folder:
        return Artifact.at(self.storage, stage.kind, stage.key).folder

    def _make_base(self, stage: Stage, inputs: dict[str, Folder]) -> None:
        make_base(next_token_spec(base_settings(stage), None, inputs["tokenizer"]), stage.settings["seed"], self.folder(stage))

    def _fine_tune(self, stage: Stage, inputs: dict[str, Folder]) -> None:
        addresses = {name: inputs[name].address for name in ("trajectories", "base")}
        settings = SftSettings.from_json(stage.settings["sft"])
        seed = stage.settings["seed"]
        run_job(SftJob(self.folder(stage).address, seed=seed, base_settings=base_settings(stage), sft_settings=settings, **addresses))

    def _train(self, stage: Stage, inputs: dict[str, Folder]) -> None:
        settings = dict(stage.settings)
        typed = {
            "encoder_settings": EncoderSettings.from_json(settings.pop("encoder")),
            "predictor_settings": PredictorSettings.from_json(settings.pop("predictor")),
            "curriculum_settings": CurriculumSettings.from_json(settings.pop("curriculum")),
            "phase": Phase.from_json(settings.pop("phase")),
        }
        needed = ("trajectories", "latents", "base", "encoder", "target", "predictor")
        addresses = {name: inputs[name].address for name in needed if name in inputs}
        run_job(PhaseJob(out=self.folder(stage).address, **addresses, **typed, **settings))

    def _sync(self, stage: Stage, inputs: dict[str, Folder]) -> None:
        hard_sync(SyncJob(self.folder(stage).address, inputs["online"].address, inputs["target"].address))

    def _embed(self, stage: Stage, inputs: dict[str, Folder]) -> None:
        addresses = {name: inputs[name].address if name in inputs else None for name in ("trajectories", "base", "encoder")}
        reading = ReadingSettings.from_json(stage.settings)
        embedder = Embedder(EmbedJob(self.folder(stage).address, **addresses, base_settings=base_settings(stage), reading=reading))
        for shard in inputs["trajectories"].names("shards"):
            embedder.embed_shard(shard.removesuffix(".parquet"))
        finish_latents(embedder.out)
