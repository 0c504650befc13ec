"""The stages of one trial: the phases of a recipe in order, the latent store after them, and the evaluations.

Settings enter a stage through the typed classes that its executor reads them back into (`clinjepa/curriculum/settings.py`), so a stage's
key holds exactly what its work receives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from clinjepa.config.axes import GridPoint
from clinjepa.config.schema import Config
from clinjepa.config.section import result_fields
from clinjepa.curriculum.recipes import Budget, Phase, Recipe
from clinjepa.curriculum.recipes.phases import reads_values
from clinjepa.curriculum.settings import CurriculumSettings, EncoderSettings, PredictorSettings, SftSettings
from clinjepa.curriculum.terms.table import source_digest
from clinjepa.errors import ConfigError
from clinjepa.evaluation.settings import (
    AddedValueSettings,
    DirectForecastSettings,
    DownstreamSettings,
    DriftSettings,
    ForecastSettings,
    GeometrySettings,
    RoundtripSettings,
)
from pipelines.graph.stage import Stage


@dataclass(frozen=True)
class DataStages:
    """The stages that no recipe changes."""

    ingest: Stage
    tokenizer: Stage
    trajectories: Stage
    labels: Stage
    baselines: Stage

    @property
    def stages(self) -> list[Stage]:
        """Inputs first; without the baselines, which no trial needs."""
        return [*self.trajectories.closure(), self.labels]

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(stage.key for stage in (self.ingest, self.tokenizer, self.trajectories, self.labels, self.baselines))


@dataclass(frozen=True, eq=False)
class Start:
    """Stages of a finished run that another experiment continues."""

    tokenizer: Stage
    base: Stage
    encoder: Stage | None
    """None where the base itself encodes."""
    predictor: Stage


@dataclass(frozen=True, eq=False)
class Trial:
    """One recipe with one seed at one point of the axes: its phases in order and their evaluations."""

    recipe: str
    seed: int
    point: GridPoint
    data: DataStages
    phases: tuple[Stage, ...]
    final_encoder: Stage
    embed: Stage
    evaluations: dict[str, Stage]

    @property
    def arm(self) -> str:
        """What is compared over seeds: the recipe, with the values of the axes where there are any."""
        return f"{self.recipe} · {self.point.name}" if self.point.values else self.recipe

    @property
    def name(self) -> str:
        """`clin_jepa · encoder_lr=1e-05, seed 0`; the same whatever else is in the grid, as long as its axes are."""
        return f"{self.arm}, seed {self.seed}"

    @property
    def chain(self) -> tuple[Stage, ...]:
        """The stages that the trial asks for, in order; their inputs come before them."""
        return (*self.phases, self.embed, *self.evaluations.values())

    @property
    def results(self) -> tuple[str, ...]:
        """Keys of the last stages: trials with equal ones are the same trial."""
        return tuple(stage.key for stage in (self.phases[-1], self.embed, *self.evaluations.values()))

    @cached_property
    def stages(self) -> list[Stage]:
        seen: dict[str, Stage] = {}
        for last in (*self.phases, *self.evaluations.values()):
            seen.update({stage.key: stage for stage in last.closure()})
        return list(seen.values())


@dataclass
class _Made:
    """The stages that hold the newest state of each part while the phases of a trial are laid out."""

    encoder: Stage | None
    target: Stage | None = None
    predictor: Stage | None = None
    heads: Stage | None = None
    """The last phase that trained heads."""
    head_names: set[str] = field(default_factory=set)

    def add(self, phase: Phase, stage: Stage) -> None:
        if phase.trains_predictor:
            self.predictor = stage
        if phase.trains_encoder:
            self.encoder, self.target = stage, stage if phase.ema_moves else None
        elif phase.ema_moves:
            self.target = stage
        if phase.heads:
            self.heads, self.head_names = stage, set(phase.heads)


class TrialBuilder:
    """Builds the trials of one point of the axes."""

    def __init__(
        self, config: Config, data: DataStages, pooled: Callable[[Stage], Stage], point: GridPoint, start: Start | None = None
    ) -> None:
        """pooled: returns the stage of that key made before, where there is one; start: what `init_from` names."""
        self.config, self.data, self.point, self._pooled, self._run = config, data, point, pooled, start
        self.ingest, self.tokenizer, self.trajectories, self.labels = data.ingest, data.tokenizer, data.trajectories, data.labels
        self.encoder = EncoderSettings.from_json(result_fields(config.encoder))
        self.predictor = PredictorSettings.from_json(result_fields(config.predictor))
        self.sft = SftSettings.from_json(result_fields(config.sft))
        self.curriculum = CurriculumSettings.from_section(result_fields(config.curriculum))
        self.budget = Budget.from_section(config.curriculum.model_dump())

    def _stage(
        self, kind: str, label: str, settings: Mapping[str, object], inputs: dict[str, Stage], texts: Mapping[str, str] | None = None
    ) -> Stage:
        """The stage with that content."""
        return self._pooled(Stage(kind, label, dict(settings), inputs, dict(texts or {})))

    def trial(self, recipe: Recipe, seed: int) -> Trial:
        """The stages of a recipe with a seed. Raises ConfigError for shares or weights that do not fit the recipe."""
        base, encoder = self._start(recipe, seed)
        steps = self.budget.steps(recipe)
        first = 0
        made = _Made(encoder, predictor=self._run.predictor if self._run is not None and recipe.encoder_start == "run" else None)
        done: list[Stage] = []
        for phase, num_steps in zip(recipe.phases, steps, strict=True):
            if phase.trains == "nothing":
                done.append(self._sync(recipe, phase, base, made, done[-1]))
            else:
                phase = phase.with_weights(self.config.curriculum.term_weights)
                settings = self._phase_settings(recipe, phase, seed) | {
                    "num_steps": num_steps,
                    "first_step": first,
                    "total_steps": sum(steps),
                }
                stage = self._phase(recipe, phase, settings, self._inputs(recipe, phase, base, made, done))
                made.add(phase, stage)
                done.append(stage)
            first += num_steps
        if made.predictor is None:
            raise ValueError(f"recipe {recipe.name} trains no predictor")
        embed = self._embed(base, made.encoder)
        evaluations = self._evaluations(embed, made.predictor)
        return Trial(recipe.name, seed, self.point, self.data, tuple(done), made.encoder or base, embed, evaluations)

    def _sync(self, recipe: Recipe, phase: Phase, base: Stage, made: _Made, after: Stage) -> Stage:
        if made.encoder is None or made.target is None:
            raise ValueError(f"recipe {recipe.name}: {phase.name} has no target to synchronise")
        inputs = {"online": made.encoder, "target": made.target, "after": after, "base": base, "trajectories": self.trajectories}
        made.target = self._stage("sync", phase.name, {"phase": phase.to_json()}, inputs)
        return made.target

    def _phase(self, recipe: Recipe, phase: Phase, settings: dict[str, object], inputs: dict[str, Stage]) -> Stage:
        """The stage of a phase that trains; the recipe's own terms enter its key by their digest where it uses one of them."""
        own = recipe.terms.own if recipe.terms_source is not None else {}
        if recipe.terms_source is None or not any(each.term in own for each in phase.loss):
            return self._stage("phase", phase.name, settings, inputs)
        terms = {"terms": recipe.terms_source}
        return self._stage("phase", phase.name, settings | {"terms": source_digest(recipe.terms_source)}, inputs, terms)

    def _inputs(self, recipe: Recipe, phase: Phase, base: Stage, made: _Made, done: list[Stage]) -> dict[str, Stage]:
        inputs = {"trajectories": self.trajectories, "base": base}
        if not phase.trains_encoder:
            inputs["latents"] = self._embed(base, made.encoder)
        if reads_values(phase, recipe.terms):
            inputs["ingest"] = self.ingest
        optional = {
            "encoder": made.encoder,
            "target": made.target if phase.target == "ema" else None,
            "predictor": made.predictor if phase.trains_predictor else None,
            "heads": made.heads if set(phase.heads) & made.head_names else None,
        }
        inputs |= {part: stage for part, stage in optional.items() if stage is not None}
        if done and done[-1].kind == "sync":
            inputs["after"] = done[-1]
        return inputs

    def _start(self, recipe: Recipe, seed: int) -> tuple[Stage, Stage | None]:
        """(the base, the stage with its adapters); the latter is None unless SFT trained adapters of a public model."""
        if recipe.encoder_start == "run":
            if self._run is None:
                raise ConfigError(f"recipe {recipe.name} continues a finished run: set init_from.run to its folder, <storage>/runs/<name>")
            return self._run.base, self._run.encoder
        made: dict[str, object] = {"encoder": self.encoder.base.to_json(), "seed": seed}
        if recipe.encoder_start == "random":
            if self.encoder.init == "config":
                raise ConfigError(
                    f"recipe {recipe.name}: with encoder.init=config the untrained encoder has random weights already; use the recipe "
                    "untrained, or encoder.init=pretrained"
                )
            made["weights"] = "random"
        base = self._stage("base", "base model", made, {"tokenizer": self.tokenizer})
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

    def _phase_settings(self, recipe: Recipe, phase: Phase, seed: int) -> dict[str, object]:
        """All but the steps."""
        return {
            "phase": phase.to_json(),
            "seed": seed,
            "curriculum": recipe.curriculum(self.curriculum, phase).to_json(),
            "encoder": self.encoder.to_json(),
            "predictor": self.predictor.to_json(),
        }

    def _evaluations(self, embed: Stage, predictor: Stage) -> dict[str, Stage]:
        space = {"latents": embed, "ingest": self.ingest}
        found = {
            "roundtrip": self._stage("roundtrip", "round trip", result_fields(RoundtripSettings.of(self.config)), space),
            "drift": self._stage(
                "drift",
                "drift",
                result_fields(DriftSettings.of(self.config)),
                space | {"predictor": predictor} | self._other_doses(embed),
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
        if self.config.evaluation.added_value.enabled:
            settings = result_fields(AddedValueSettings.of(self.config))
            found["added_value"] = self._stage("added_value", "added value", settings, space | {"labels": self.labels})
        if self.config.evaluation.forecasts.enabled:
            found["forecasts"] = self._forecasts(space | {"labels": self.labels, "predictor": predictor})
        return found

    def _other_doses(self, embed: Stage) -> dict[str, Stage]:
        """The action texts with other doses, as the latent store's encoder reads them; empty without `evaluation.drift.dose_factor`."""
        evaluation = self.config.evaluation
        if evaluation.drift.dose_factor is None:
            return {}
        settings = {"split": evaluation.split, "dose_factor": evaluation.drift.dose_factor, "reading": embed.settings}
        return {"other_doses": self._stage("shifted_actions", "other doses", settings, embed.inputs | {"ingest": self.ingest})}

    def _forecasts(self, inputs: dict[str, Stage]) -> Stage:
        direct = result_fields(DirectForecastSettings.of(self.config))
        beside = {"direct": self._stage("direct_forecasts", "direct forecasts", direct, {"ingest": self.ingest})}
        return self._stage("forecasts", "forecasts", result_fields(ForecastSettings.of(self.config)), inputs | beside)
