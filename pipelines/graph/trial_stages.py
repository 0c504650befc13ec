"""The stages of one trial: the phases of a recipe in order, the latent store after them, and the evaluations.

Settings enter a stage through the typed classes that its executor reads them back into (`clinjepa/curriculum/settings.py`), so a stage's
key holds exactly what its work receives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from clinjepa.config.schema import Config
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Phase, Recipe, phase_steps
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings, SftSettings
from clinjepa.evaluation.settings import DownstreamSettings, DriftSettings, GeometrySettings, RoundtripSettings
from pipelines.graph.stage import Stage


@dataclass(frozen=True)
class Trial:
    """One recipe with one seed: its phases in order and their evaluations."""

    recipe: str
    seed: int
    phases: tuple[Stage, ...]
    final_encoder: Stage
    embed: Stage
    evaluations: dict[str, Stage]

    @property
    def stages(self) -> list[Stage]:
        seen: dict[str, Stage] = {}
        for last in (*self.phases, *self.evaluations.values()):
            seen.update({stage.key: stage for stage in last.closure()})
        return list(seen.values())


class TrialBuilder:
    """Builds the trials of an experiment; equal stages of several trials are one object."""

    def __init__(self, config: Config, ingest: Stage, tokenizer: Stage, trajectories: Stage, labels: Stage) -> None:
        self.config = config
        self.ingest, self.tokenizer, self.trajectories, self.labels = ingest, tokenizer, trajectories, labels
        self.encoder = EncoderSettings.from_json(result_fields(config.encoder))
        self.predictor = PredictorSettings.from_json(result_fields(config.predictor))
        self.sft = SftSettings.from_json(result_fields(config.sft))
        self.curriculum = CurriculumSettings.from_section(result_fields(config.curriculum))
        self._pool: dict[str, Stage] = {}

    def _stage(self, kind: str, label: str, settings: Mapping[str, object], inputs: dict[str, Stage]) -> Stage:
        """The stage with that content."""
        stage = Stage(kind, label, dict(settings), inputs)
        return self._pool.setdefault(stage.key, stage)

    def trial(self, recipe: Recipe, seed: int) -> Trial:
        """The stages of a recipe with a seed. Raises ConfigError for shares that do not fit the recipe."""
        base, encoder = self._start(recipe, seed)
        steps = phase_steps(recipe, self.config.curriculum.num_steps, self.config.curriculum.shares)
        total = sum(steps)
        first = 0
        done: list[Stage] = []
        predictor: Stage | None = None
        target: Stage | None = None
        for phase, num_steps in zip(recipe.phases, steps, strict=True):
            name = phase.name
            if phase.trains == "nothing":
                if encoder is None or target is None:
                    raise ValueError(f"recipe {recipe.name}: {phase.name} has no target to synchronise")
                stage = self._stage(
                    "sync",
                    name,
                    {"phase": phase.to_json()},
                    {"online": encoder, "target": target, "after": done[-1], "base": base, "trajectories": self.trajectories},
                )
                target = stage
            else:
                inputs = {"trajectories": self.trajectories, "base": base}
                if phase.trains == "predictor":
                    inputs["latents"] = self._embed(base, encoder)
                optional = {"encoder": encoder, "target": target if phase.target == "ema" else None, "predictor": predictor}
                inputs |= {part: stage for part, stage in optional.items() if stage is not None}
                if done and done[-1].kind == "sync":
                    inputs["after"] = done[-1]
                stage = self._stage("phase", name, self._phase_settings(phase, num_steps, first, total, seed), inputs)
                predictor = stage
                if phase.trains == "both":
                    encoder = target = stage
                elif phase.ema_moves:
                    target = stage
            done.append(stage)
            first += num_steps
        if predictor is None:
            raise ValueError(f"recipe {recipe.name} trains no predictor")
        embed = self._embed(base, encoder)
        return Trial(recipe.name, seed, tuple(done), encoder or base, embed, self._evaluations(embed, predictor))

    def _start(self, recipe: Recipe, seed: int) -> tuple[Stage, Stage | None]:
        """(the base, the stage with its adapters); the latter is None unless SFT trained adapters of a public model."""
        base = self._stage("base", "base model", {"encoder": self.encoder.base.to_json(), "seed": seed}, {"tokenizer": self.tokenizer})
        if recipe.encoder_start != "sft":
            return base, None
        settings: dict[str, object] = {"sft": self.sft.to_json(), "seed": seed}
        adapters = self.encoder.init == "pretrained" and self.encoder.adaptation == "lora"
        if adapters:
            settings["lora"] = self.encoder.lora.to_json()
        sft = self._stage("sft", "SFT", settings, {"base": base, "trajectories": self.trajectories})
        return (base, sft) if adapters else (sft, None)

    def _embed(self, base: Stage, encoder: Stage | None) -> Stage:
        inputs = {"base": base, "trajectories": self.trajectories} | ({"encoder": encoder} if encoder else {})
        reading = self.encoder.reading(adapted=encoder is not None)
        return self._stage("embed", "latents", reading.without_defaults(), inputs)

    def _phase_settings(self, phase: Phase, num_steps: int, first: int, total: int, seed: int) -> dict[str, object]:
        return {
            "phase": phase.to_json(),
            "num_steps": num_steps,
            "first_step": first,
            "total_steps": total,
            "seed": seed,
            "curriculum": self.curriculum.to_json(),
            "encoder": self.encoder.to_json(),
            "predictor": self.predictor.to_json(),
        }

    def _evaluations(self, embed: Stage, predictor: Stage) -> dict[str, Stage]:
        space = {"latents": embed, "ingest": self.ingest}
        return {
            "roundtrip": self._stage("roundtrip", "round trip", result_fields(RoundtripSettings.of(self.config)), space),
            "drift": self._stage(
                "drift",
                "drift",
                result_fields(DriftSettings.of(self.config)),
                space | {"predictor": predictor},
            ),
            "geometry": self._stage(
                "geometry",
                "geometry",
                GeometrySettings.of(self.config).stage_settings(),
                space | {"labels": self.labels},
            ),
            "downstream": self._stage(
                "downstream",
                "downstream",
                result_fields(DownstreamSettings.of(self.config)),
                space | {"labels": self.labels, "predictor": predictor},
            ),
        }
