"""The stages of one trial: a recipe's phases in order, the latent store after them, and the evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clinjepa.config.schema import Config
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Recipe, phase_steps
from clinjepa.evaluation.settings import DownstreamSettings, DriftSettings, GeometrySettings, RoundtripSettings
from pipelines.graph.stage import Stage


@dataclass(frozen=True)
class Trial:
    """One recipe with one seed: its phases in order and what judges them."""

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
    def __init__(self, config: Config, ingest: Stage, tokenizer: Stage, trajectories: Stage, labels: Stage) -> None:
        self.config = config
        self.ingest, self.tokenizer, self.trajectories, self.labels = ingest, tokenizer, trajectories, labels
        encoder = result_fields(config.encoder)
        self.encoder = encoder
        self.reading = {name: encoder[name] for name in ("latent_from", "append_eos", "dtype", "token_budget")}
        self.architecture = {name: value for name, value in encoder.items() if name not in (*self.reading, "adaptation", "lora")} | {
            "dtype": encoder["dtype"]
        }

        self._pool: dict[str, Stage] = {}

    def _stage(self, kind: str, label: str, settings: dict[str, Any], inputs: dict[str, Stage]) -> Stage:
        """The stage with that content: equal ones of several trials are one object."""
        stage = Stage(kind, label, settings, inputs)
        return self._pool.setdefault(stage.key, stage)

    def trial(self, recipe: Recipe, seed: int) -> Trial:
        base, encoder = self._start(recipe, seed)
        steps = phase_steps(recipe, result_fields(self.config.curriculum))
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
                    {"phase": {part: value for part, value in phase.to_dict().items() if part != "shares"}},
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
                stage = self._stage("phase", name, self._phase_settings(phase.to_dict(), num_steps, first, total, seed), inputs)
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
        """The base and, where the base is a public model that SFT gave a LoRA, the stage that holds it."""
        base = self._stage("base", "base model", {"encoder": self.architecture, "seed": seed}, {"tokenizer": self.tokenizer})
        if recipe.encoder_start != "sft":
            return base, None
        settings = {"sft": result_fields(self.config.sft), "seed": seed}
        adapters = self.config.encoder.init == "pretrained" and self.config.encoder.adaptation == "lora"
        if adapters:
            settings["lora"] = self.encoder["lora"]
        sft = self._stage("sft", "SFT", settings, {"base": base, "trajectories": self.trajectories})
        return (base, sft) if adapters else (sft, None)

    def _embed(self, base: Stage, encoder: Stage | None) -> Stage:
        inputs = {"base": base, "trajectories": self.trajectories} | ({"encoder": encoder} if encoder else {})
        adaptation = {name: self.encoder[name] for name in ("adaptation", "lora")} if encoder else {}
        return self._stage("embed", "latents", self.reading | adaptation, inputs)

    def _phase_settings(self, phase: dict[str, Any], num_steps: int, first: int, total: int, seed: int) -> dict[str, Any]:
        curriculum = {name: value for name, value in result_fields(self.config.curriculum).items() if name not in ("num_steps", "shares")}
        phase = {name: value for name, value in phase.items() if name != "shares"}
        return {
            "phase": phase,
            "num_steps": num_steps,
            "first_step": first,
            "total_steps": total,
            "seed": seed,
            "curriculum": curriculum,
            "encoder": self.encoder,
            "predictor": result_fields(self.config.predictor),
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
