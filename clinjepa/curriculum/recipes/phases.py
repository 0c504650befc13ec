"""A recipe as typed values: phases, their loss terms, and the settings that a phase has for itself.

Names and the five phases follow Clin-JEPA (arXiv 2605.10840). A field with a default is left out of a phase's JSON form while it has that
value, so that a new field leaves the keys of stages as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, ClassVar, Literal, Self

from clinjepa.curriculum.settings import CurriculumSettings, Settings
from clinjepa.curriculum.terms.table import Option, Term, TermTable
from clinjepa.errors import ConfigError

EncoderStart = Literal["untrained", "random", "sft", "run"]
ROLLOUT_WEIGHT = "curriculum.rollout_weight"
"""The one setting that a recipe may name as a weight."""


@dataclass(frozen=True)
class LossTerm(Settings):
    """One term of a phase's loss."""

    SECTION: ClassVar[str] = "loss term"

    term: str
    """Name in the table of terms (`clinjepa/curriculum/terms/table.py`) or in the recipe's own file of terms."""
    weight: float | str
    """A number, or `curriculum.rollout_weight`."""
    name: str
    """Name of the term's mean in the history, and of its head; distinct in a phase."""
    options: Mapping[str, Option] = field(default_factory=dict)
    """Options of the term, all of them, defaults filled in."""


DEFAULT_LOSS = (
    LossTerm("teacher_forcing", 1.0, "teacher_forcing", {"distance": "l1", "normalise": "none"}),
    LossTerm("rollout", ROLLOUT_WEIGHT, "rollout", {"distance": "l1", "normalise": "none"}),
)
"""The loss of Clin-JEPA's phases."""


@dataclass(frozen=True)
class Phase(Settings):
    """What one step of the curriculum does."""

    SECTION: ClassVar[str] = "phase"

    name: str
    trains: Literal["predictor", "both", "encoder", "nothing"]
    """`both` is encoder and predictor; `nothing` is a hard sync."""
    target: Literal["online", "ema"]
    """Which encoder's latents are the targets."""
    rollout: Literal["native", "teacher_forced", "chained"]
    """Input of a rollout step: `native` (the predictor's previous output), `teacher_forced` (the true online latent) or `chained` (the
    predictor's previous output while the encoder trains against EMA targets, so that the rollout's gradient reaches the encoder)."""
    ema_moves: bool
    """Whether the target follows the online encoder after every optimizer step."""
    heads: tuple[str, ...] = ()
    """Names of the loss terms whose heads are trained."""
    loss: tuple[LossTerm, ...] = DEFAULT_LOSS
    target_gradient: bool = False
    """Whether gradients flow into the targets too; only where the targets are the online encoder's own latents."""
    schedule: Literal["shared", "own"] = "shared"
    """`shared`: one learning-rate curve over all phases. `own`: warmup and cosine over this phase alone."""

    @property
    def needs_target(self) -> bool:
        """True when the target encoder's state is an input of the phase."""
        return self.target == "ema" or self.ema_moves

    @property
    def trains_encoder(self) -> bool:
        return self.trains in ("both", "encoder")

    @property
    def trains_predictor(self) -> bool:
        return self.trains in ("both", "predictor")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values by field, without the optional fields that have their default value."""
        optional = {each.name: each.default for each in fields(self) if each.default is not MISSING}
        values = super().to_json()
        return {name: value for name, value in values.items() if name not in optional or getattr(self, name) != optional[name]}

    def with_weights(self, weights: Mapping[str, float]) -> Self:
        """The phase with the weights of `curriculum.term_weights`, by name of the loss term; names of other phases are skipped.

        Raises ConfigError for a weight below 0 or not finite.
        """
        if not any(each.name in weights for each in self.loss):
            return self
        for each in self.loss:
            if not 0 <= (weight := weights.get(each.name, 0.0)) < float("inf"):
                raise ConfigError(f"curriculum.term_weights: the weight of {each.name} is {weight}; give a number of at least 0")
        return replace(self, loss=tuple(replace(each, weight=weights.get(each.name, each.weight)) for each in self.loss))


@dataclass(frozen=True)
class Recipe:
    """An initialisation of the encoder and an ordered list of phases."""

    name: str
    encoder_start: EncoderStart
    """`untrained`: the base as it is. `random`: a public model's architecture with random weights. `sft`: after next-token fine-tuning.
    `run`: encoder and predictor of a finished run (`init_from`)."""
    phases: tuple[Phase, ...]
    shares: tuple[Mapping[str, float], ...]
    """For each phase its parts of shares by their names in `curriculum.shares`: {name: part of the share, 1 for all of it}. Their sum is
    its part of the budget; none for a phase that trains nothing."""
    settings: tuple[Mapping[str, float | int | bool], ...] = ()
    """For each phase its own values of settings of the section `curriculum`; empty when no phase has any."""
    terms_source: str | None = None
    """Python source of the recipe's own terms."""

    @property
    def terms(self) -> TermTable:
        """The terms that the recipe may name. Raises ConfigError when its own file of terms cannot be used."""
        return TermTable.of(self.terms_source)

    def curriculum(self, settings: CurriculumSettings, phase: Phase) -> CurriculumSettings:
        """The settings that a phase of the recipe trains with: the run's, and over them the phase's own. Raises ConfigError."""
        own = dict(zip((each.name for each in self.phases), self.settings, strict=True)).get(phase.name, {}) if self.settings else {}
        return replace(settings, **own) if own else settings  # type: ignore[arg-type]  # names and types were checked when it was read


OWN_SETTINGS: Mapping[str, tuple[float, float]] = {
    "predictor_lr": (0.0, float("inf")),
    "encoder_lr": (0.0, float("inf")),
    "weight_decay": (0.0, float("inf")),
    "warmup_fraction": (0.0, 1.0),
    "encoder_warmup_steps": (0, float("inf")),
    "clip_norm": (0.0, float("inf")),
    "ema_momentum": (0.0, 1.0),
    "ema_momentum_end": (0.0, 1.0),
    "rollout_steps": (1, float("inf")),
    "shared_k": (0, 1),
}
"""Settings of the section `curriculum` that a phase may have for itself, with their limits. Batches and budget are the run's: recipes are
compared at one budget."""


def reads_values(phase: Phase, table: TermTable) -> bool:
    """Whether a term of the phase's loss reads the measured numbers of the hours. Raises ConfigError for an unknown term."""
    return any("values" in table.term(each.term, f"phase {phase.name}").reads for each in phase.loss)


def check_phase(phase: Phase, table: TermTable, may_collapse: bool, where: str) -> None:
    """Raise ConfigError, with the remedy, for a phase whose fields contradict each other. where: recipe and phase, for the message."""
    if phase.trains == "nothing":
        return
    terms = [(each, table.term(each.term, where)) for each in phase.loss]
    _check_target(phase, [term for _, term in terms], may_collapse, where)
    for each, term in terms:
        if "predictor" in term.reads and not phase.trains_predictor:
            raise ConfigError(f"{where}: term {each.term} reads the predictor, which the phase does not train; add predictor to trains")
        if "encoder" in term.reads and not phase.trains_encoder:
            raise ConfigError(f"{where}: term {each.term} trains the encoder, which is frozen here; add encoder to trains or drop the term")
        if term.head is not None and each.name not in phase.heads:
            raise ConfigError(f"{where}: term {each.term} has a head that nothing trains; add {each.name} to trains")
    with_head = {each.name for each, term in terms if term.head is not None}
    if unused := sorted(set(phase.heads) - with_head):
        known = f"; its terms with a head: {', '.join(sorted(with_head))}" if with_head else "; none of its terms has a head"
        raise ConfigError(f"{where}: trains {', '.join(unused)}, which is no head of its loss{known}")
    if phase.trains == "predictor" and not any("predictor" in term.reads for _, term in terms):
        raise ConfigError(f"{where}: no term of the loss reads the predictor, so nothing trains it; add teacher_forcing")


def _check_target(phase: Phase, terms: list[Term], may_collapse: bool, where: str) -> None:
    latent = any(term.latent_targets for term in terms)
    if phase.trains_encoder and phase.target == "online" and latent and not may_collapse and not any(term.anchors for term in terms):
        raise ConfigError(
            f"{where}: an encoder that trains against its own online latents collapses; set target: ema, add a term that prevents it "
            "(sigreg), or accept it with may_collapse: true"
        )
    if phase.target == "ema" and phase.rollout == "native" and any(term.rolls_out for term in terms):
        raise ConfigError(
            f"{where}: rollout: native needs inputs and targets in one space; with target: ema use teacher_forced, or chained where the "
            "encoder trains"
        )
    if phase.rollout == "chained" and not (phase.trains == "both" and phase.target == "ema"):
        raise ConfigError(f"{where}: rollout: chained needs trains: [encoder, predictor] and target: ema; elsewhere use native")
    if phase.target_gradient and not (phase.trains_encoder and phase.target == "online"):
        raise ConfigError(f"{where}: target_gradient needs a trained encoder and target: online; elsewhere targets carry no gradient")
