"""The words of the report: titles for the names used in files, descriptions of recipes, and figures as table cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from markupsafe import Markup, escape

from clinjepa.report.charts.parts import number

TITLES = {
    "clin_jepa": "Clin-JEPA",
    "no_alignment": "without alignment",
    "no_warmup": "without warmup",
    "continued": "Clin-JEPA, continued",
    "vjepa2_ac": "V-JEPA 2-AC style",
    "sft": "SFT, frozen",
    "untrained": "untrained encoder",
    "random": "random encoder",
    "naive": "joint, without EMA target",
    "layernorm_targets": "normalised targets",
    "sigreg": "SIGReg, without EMA target",
    "chained": "chained rollout into the encoder",
    "hybrid": "1, 4 and 16 h ahead + next token",
    "token_aux": "+ next token on the encoder",
    "value_decode": "values decoded first",
    "value_aux": "+ values decoded in joint refinement",
    "lightgbm": "LightGBM, hand-made features",
    "xgboost": "XGBoost, hand-made features",
    "logistic": "logistic regression, hand-made features",
    "ridge": "ridge regression, hand-made features",
    "gru": "GRU",
    "gru_d": "GRU-D",
    "lstm": "LSTM",
    "tcn": "temporal convolutions",
    "transformer": "Transformer",
    "last_value": "the last value alone",
    "sofa": "SOFA",
    "ensemble": "mean of the tuned baselines",
    "hours_in_icu": "hours in the ICU alone",
    "linear": "linear probe",
    "mlp": "MLP probe",
    "history_only": "history only",
    "actions_carried_forward": "+ rollout, actions carried forward",
    "recorded_actions": "+ rollout, recorded future actions*",
    "in_hospital_death": "In-hospital death",
    "map": "MAP",
    "sbp": "SBP",
    "dbp": "DBP",
    "spo2": "SpO2",
    "fio2": "FiO2",
    "bun": "BUN",
    "auroc": "AUROC",
    "auprc": "AUPRC",
}
RECIPES = {
    "clin_jepa": "The five phases: warmup, joint refinement, alignment with the EMA target, hard sync, finalization.",
    "no_alignment": "As Clin-JEPA without alignment and hard sync; their steps go to finalization.",
    "no_warmup": "As Clin-JEPA without warmup.",
    "continued": "Encoder and predictor of a finished run, refined on these patients by the phases after warmup.",
    "vjepa2_ac": "Masked-JEPA refinement of the encoder, frozen, then one predictor phase.",
    "sft": "Encoder after next-token fine-tuning, frozen; the predictor gets the whole budget.",
    "untrained": "Encoder before any training, frozen; the predictor gets the whole budget.",
    "random": "Encoder with random weights, frozen; the predictor gets the whole budget.",
    "naive": "Encoder and predictor together throughout, against the online encoder's own latents; may collapse.",
    "layernorm_targets": "As Clin-JEPA; joint refinement and alignment compare latents after a LayerNorm without weights.",
    "sigreg": "Warmup, joint refinement with SIGReg in place of an EMA target, finalization.",
    "hybrid": "As Clin-JEPA; joint refinement predicts latents 1, 4 and 16 h ahead and keeps a next-token loss on the encoder.",
    "token_aux": "As Clin-JEPA, with a next-token loss on the encoder in joint refinement.",
    "value_decode": "A head that gives back the hour's values trains the encoder in half of joint refinement's steps; then as Clin-JEPA.",
    "value_aux": "As Clin-JEPA, with a head that gives back the hour's values in joint refinement.",
    "chained": "As Clin-JEPA; the rollout of joint refinement feeds the predictor its own outputs.",
}
COHORTS = {
    "sofa_2_within_24h": "SOFA + 2 within 24 h",
    "death_within_48h": "death within 48 h",
    "in_hospital_death": "death in hospital",
}

_STARTS = {
    "random": "Starts from random weights in a public model's architecture",
    "untrained": "Starts from the untrained encoder",
    "sft": "Starts from the encoder after next-token fine-tuning",
    "run": "Starts from encoder and predictor of a finished run",
}
_TRAINED = {"predictor": "predictor", "both": "encoder and predictor", "encoder": "encoder"}
_ROLLOUTS = {
    "native": "own predictions fed back",
    "teacher_forced": "teacher-forced",
    "chained": "own predictions fed back, with their gradient into the encoder",
}
_TARGETS = {"online": "the online encoder's latents", "ema": "the EMA target's latents"}


class PhaseFacts(Protocol):
    """What the page says of one phase (`clinjepa.curriculum.recipes.Phase`)."""

    @property
    def name(self) -> str: ...
    @property
    def trains(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def rollout(self) -> str: ...
    @property
    def ema_moves(self) -> bool: ...


class RecipeFacts(Protocol):
    """What the page says of a recipe (`clinjepa.curriculum.recipes.Recipe`)."""

    @property
    def encoder_start(self) -> str: ...
    @property
    def phases(self) -> Sequence[PhaseFacts]: ...


def recipe_words(recipe: RecipeFacts) -> str:
    """A recipe in a sentence or two: where its encoder starts, then each phase, what it trains and on what."""
    start = _STARTS.get(recipe.encoder_start, f"Starts from the encoder {recipe.encoder_start}")
    return f"{start}. " + "; ".join(_phase_words(phase) for phase in recipe.phases) + "."


def _phase_words(phase: PhaseFacts) -> str:
    name = phase.name.replace("_", " ")
    if phase.trains == "nothing":
        return f"{name}: the target is set to the online encoder"
    words = f"{name}: {_TRAINED[phase.trains]} on {_TARGETS[phase.target]}, {_ROLLOUTS[phase.rollout]}"
    return words + (", the target follows" if phase.ema_moves else "")


def title(name: str) -> str:
    """`hypotension_8h` becomes `Hypotension within 8 h`; a name with an entry in the table of titles gets that title; `a · b` is `a, b`."""
    if name in TITLES:
        return TITLES[name]
    if " · " in name:
        return ", ".join(TITLES.get(part, part.replace("_", " ")) for part in name.split(" · "))
    words = re.sub(r"_(\d+)_?h$", r" within \1 h", name).replace("_", " ")
    return words[:1].upper() + words[1:]


def percent(value: float) -> str:
    """A share with its sign: `-18.5 %`."""
    return f"{100 * value:+.1f} %"


def stage_title(name: str) -> str:
    """A stage's own name with a capital; recipes inside it keep the spelling of the configuration."""
    return "SFT" if name == "sft" else name[:1].upper() + name[1:]


def duration(seconds: float | None) -> str:
    """A duration in words: `42 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{round(whole / 60)} min" if whole < 7200 else f"{whole // 3600} h {whole % 3600 // 60} min"


def _basis(figure: Mapping[str, Any], in_percent: bool) -> str:
    """What a figure rests on and what its interval carries."""
    words = f"{figure['num_patients']} patients, {figure['num_seeds']} seed(s)"
    seeds = [percent(value) if in_percent else number(value) for value in figure.get("seeds", ())]
    return f"{words}: {', '.join(seeds)}; the interval is over patients alone" if seeds else words


class Footnotes:
    """The reasons of one section's missing or cut figures, numbered in the order of their first mark."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def cell(self, container: Mapping[str, Any], name: str, *, in_percent: bool = False) -> Markup:
        """A figure with its interval and, where its input was cut, the number of a footnote; or a dash with that of the reason."""
        figure = container.get(name)
        if figure is None:
            return self.dash(container.get("reason") or "not computed in this run")
        value, interval = figure["value"], figure["ci95"]
        basis = _basis(figure, in_percent)
        cut = self._mark("", container["cut"]) if container.get("cut") else ""
        shown = percent(value) if in_percent else number(value)
        if interval is None:
            why = figure.get("interval_reason") or container.get("interval_reason")
            missing = self.dash(why) if why else ""
            return Markup('<span class="together" title="{}">{} {}{}</span>').format(basis, shown, missing, cut)
        ends = [percent(end) if in_percent else number(end) for end in interval]
        value_and_mark = Markup('<span class="together">{}{}</span>').format(shown, cut) if cut else shown
        return Markup('<span title="{}">{} <span class="ci">{} to {}</span></span>').format(basis, value_and_mark, *ends)

    def dash(self, reason: str) -> Markup:
        return self._mark("–", reason)

    def _mark(self, shown: str, reason: str) -> Markup:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return Markup('<abbr title="{}">{}<sup>{}</sup></abbr>').format(reason, shown, self.reasons.index(reason) + 1)

    def listing(self) -> Markup:
        """The footnotes as HTML; nothing when every figure is there."""
        items = Markup("").join(Markup("<li>{}</li>").format(reason) for reason in self.reasons)
        return Markup('<ol class="footnotes">{}</ol>').format(items) if self.reasons else Markup("")


def plain(value: float | int | None) -> Markup:
    """A bare number in a table."""
    return escape("–" if value is None else number(value))


def cohort_title(name: str) -> str:
    """A cohort of the latent geometry in words: `onset_within_24h:hypotension_8h` becomes `onset of hypotension within 24 h`."""
    if name.startswith("onset_within_24h:"):
        return f"onset of {title(name.partition(':')[2]).partition(' within ')[0].lower()} within 24 h"
    return COHORTS.get(name, name.replace("_", " "))
