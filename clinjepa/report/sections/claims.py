"""The paper's three claims, each `held`, `did not hold` or `cannot be told here`, by rules on intervals.

Claims of Clin-JEPA (arXiv 2605.10840): its rollout error falls with the horizon while that of the other recipes grows; its latents separate
deteriorating from stable patients most; its features predict risk best. A claim is cut into parts with one question each. A part holds
where the 95 % interval lies on the claim's side of its limit, does not hold where the interval lies on the other side, and cannot be told
where the interval includes the limit or is missing. Intervals are over patients, so the training seeds must agree as well: where one seed's
value lies on another side than the interval, the part cannot be told. Two rules differ. Drift or ratios of two recipes have no paired
interval, since stages keep their figures and not the errors of single windows: the two intervals are compared, and where they overlap, the
part cannot be told (`apart`). A difference in AUROC whose interval lies within ± MARGIN means "did not hold", since equal
is not better. A claim holds where every part does, and does not where one part does not.

Each method that is compared with has one part. A recipe of the paper that was not run has a part that cannot be told. A control (the
untrained encoder, a random one) or a baseline has a part only if it was run: what an untrained encoder does as well is no effect of the
training. So has, for drift, a curriculum without one of its phases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypedDict

from clinjepa.evaluation.comparisons import MARGIN, equivalence
from clinjepa.evaluation.figures import Figure
from clinjepa.report.charts.parts import number
from clinjepa.report.words import cohort_title, percent, title

Verdict = Literal["held", "did not hold", "cannot be told here"]
HELD: Final = "held"
NOT_HELD: Final = "did not hold"
UNKNOWN: Final = "cannot be told here"
SUBJECT = "clin_jepa"
COMPARED = ("vjepa2_ac", "sft")
"""Recipes that the paper compares with."""
CONTROLS = ("untrained", "random")
"""Recipes without a trained encoder: compared with where they were run."""
ABLATIONS = ("no_alignment", "no_warmup")
"""Clin-JEPA without a phase: drift is compared with theirs where they were run."""
UNPAIRED = "the two intervals side by side, no paired interval"
NOT_RUN = "not computed in this run"
MIN_CLAIM_PATIENTS = 30
"""A part about drift or geometry needs at least this many held-out patients, else it cannot be told."""


class Part(TypedDict):
    """One question of a claim, its answer and the figures that give it."""

    question: str
    verdict: Verdict
    measured: str


class Claim(TypedDict):
    """One claim of the paper, judged on this run's held-out patients."""

    claim: str
    verdict: Verdict
    parts: list[Part]


def judged_claims(report: Mapping[str, Any]) -> list[Claim]:
    """The three claims in the paper's order. report: the content of report.json, before its claims are added."""
    return [_claim(text, list(parts)) for text, parts in (_drift(report), _geometry(report), _risk(report))]


def _claim(text: str, parts: list[Part]) -> Claim:
    verdicts = {part["verdict"] for part in parts}
    verdict: Verdict = NOT_HELD if NOT_HELD in verdicts else UNKNOWN if UNKNOWN in verdicts else HELD
    return {"claim": text, "verdict": verdict, "parts": parts}


def side(figure: Figure | None, limit: float, *, above: bool) -> Verdict:
    """Whether a figure lies above (or below) a limit, by its 95 % interval and the value of every training seed.

    `cannot be told here` where it is None or has no interval, or where interval and seeds do not all lie on one side.
    """
    if figure is None or figure["ci95"] is None:
        return UNKNOWN
    low, high = _reach(figure, figure["ci95"])
    if not above:
        low, high, limit = -high, -low, -limit
    return HELD if low > limit else NOT_HELD if high < limit else UNKNOWN


def apart(one: Figure | None, other: Figure | None, *, above: bool) -> Verdict:
    """Whether one figure lies above (or below) another: their intervals, each with its training seeds, must not overlap.

    That is stricter than a paired test. `cannot be told here` where they overlap, or where one figure is None or has no interval.
    """
    if one is None or other is None or one["ci95"] is None or other["ci95"] is None:
        return UNKNOWN
    (low, high), (other_low, other_high) = _reach(one, one["ci95"]), _reach(other, other["ci95"])
    if not above:
        low, high, other_low, other_high = -high, -low, -other_high, -other_low
    return HELD if low > other_high else NOT_HELD if high < other_low else UNKNOWN


def _reach(figure: Figure, interval: Sequence[float]) -> tuple[float, float]:
    """The smallest and the largest of the interval's ends and the seeds' values."""
    values = [*interval, *figure.get("seeds", ())]
    return min(values), max(values)


def _drift(report: Mapping[str, Any]) -> tuple[str, Iterator[Part]]:
    context = str(report.get("headline_context", ""))

    def found(recipe: str) -> Mapping[str, Any]:
        contexts: Mapping[str, Any] = report["drift"].get(recipe, {})
        # A recipe without rollouts of the headline context is judged at its longest context, or as not run where it has none.
        longest = max(contexts, key=int, default="")
        return contexts.get(context, contexts.get(longest, {}))  # type: ignore[no-any-return]

    def parts() -> Iterator[Part]:
        own = found(SUBJECT)
        h_max = own.get("h_max")
        at_h_max = own.get("horizons", {}).get(str(h_max), {})
        falls, predicts = own.get("drift"), at_h_max.get("change_of_prediction")
        reason, of_prediction = own.get("reason", NOT_RUN), at_h_max.get("reason", NOT_RUN)
        below_0 = _Limit(value=0.0, above=False, in_percent=True)
        yield _part(f"Does the rollout error fall from 1 h to {h_max or '…'} h ahead?", falls, below_0, reason)
        yield _part("Does the error still fall after the change of the latent space is divided out?", predicts, below_0, of_prediction)
        for recipe in (*COMPARED, *_that_were_run(report["drift"], (*ABLATIONS, *CONTROLS))):
            figures, why = (falls, found(recipe).get("drift")), _reason(report["drift"], recipe, found(recipe))
            yield _against(recipe, "Does it drift less than", figures, why, above=False, in_percent=True)

    return "Rollouts of Clin-JEPA get no worse over the horizon: their error falls, while that of other recipes grows.", parts()


def _geometry(report: Mapping[str, Any]) -> tuple[str, Iterator[Part]]:
    geometry = report["geometry"]

    def parts() -> Iterator[Part]:
        own = geometry.get(SUBJECT, {})
        ratio, above_1 = own.get("ratio"), _Limit(value=1.0, above=True, in_percent=False)
        cohort = f" ({cohort_title(own['cohort'])})" if own.get("cohort") else ""
        yield _part(f"Do deteriorating patients move further than stable ones{cohort}?", ratio, above_1, own.get("reason", NOT_RUN))
        for recipe in (*COMPARED, *_that_were_run(geometry, CONTROLS)):
            figures, why = (ratio, geometry.get(recipe, {}).get("ratio")), _reason(geometry, recipe, geometry.get(recipe, {}))
            yield _against(recipe, "Is the ratio above that of", figures, why, above=True, in_percent=False)

    return "Latents of deteriorating patients move further than those of stable ones, in Clin-JEPA more than in other recipes.", parts()


def _risk(report: Mapping[str, Any]) -> tuple[str, Iterator[Part]]:
    comparisons = report.get("comparisons", {})
    mean: Mapping[str, Any] = comparisons.get("mean", {})
    reference = str(comparisons.get("reference", ""))

    def parts() -> Iterator[Part]:
        if reference.partition(" · ")[0] != SUBJECT or not mean:
            yield {"question": "Is its mean AUROC above that of other methods?", "verdict": UNKNOWN, "measured": NOT_RUN}
            return
        named = {method.partition(" · ")[0]: method for method in mean}
        recipes = {method.partition(" · ")[0] for method in mean if " · " in method}
        baselines = [name for name in named if name not in recipes]
        for name in (*COMPARED, *(each for each in CONTROLS if each in named), *baselines):
            yield _mean_part(name, mean.get(named.get(name, "")))

    return (
        "Features of Clin-JEPA predict risk better than those of other methods, by mean AUROC over the tasks, from the history alone.",
        parts(),
    )


def _mean_part(name: str, found: Mapping[str, Any] | None) -> Part:
    """The mean difference is another method's minus Clin-JEPA's, so the claim is that it lies below 0."""
    question = f"Is its mean AUROC above that of {title(name)}?"
    if found is None:
        return {"question": question, "verdict": UNKNOWN, "measured": f"{title(name)} was not run"}
    figure: Figure = found["difference"]
    verdict = side(figure, 0.0, above=False)
    words = f"{title(name)} minus Clin-JEPA: {_written(figure, False)}, {found['num_tasks']} tasks"
    if equivalence(figure) == "equivalent":
        return {"question": question, "verdict": NOT_HELD, "measured": f"{words}; equal within {MARGIN:g}"}
    return {"question": question, "verdict": verdict, "measured": words}


class _Limit(NamedTuple):
    """The limit of a figure, on which side of it the claim lies, and how the figure is written."""

    value: float
    above: bool
    in_percent: bool


def _reason(section: Mapping[str, Any], recipe: str, found: Mapping[str, Any]) -> str:
    """Why a recipe has no figure in a section of the report."""
    return f"{title(recipe)} was not run" if recipe not in section else f"{title(recipe)} has no figure: {found.get('reason', NOT_RUN)}"


def _against(recipe: str, question: str, figures: tuple[Figure | None, Figure | None], why: str, *, above: bool, in_percent: bool) -> Part:
    """Clin-JEPA against another recipe.

    Args:
        recipe: the other one.
        question: without the recipe's name, which ends it.
        figures: of Clin-JEPA and of the other recipe.
        why: the reason, where the other recipe has no figure.
        above: whether the claim is that Clin-JEPA's figure lies above the other one.
        in_percent: how the figures are written.

    Returns:
        The part; `cannot be told here` where a figure is missing or is of too few patients.
    """
    one, other = figures
    asked = f"{question} {title(recipe)}?"
    if other is None:
        return {"question": asked, "verdict": UNKNOWN, "measured": why}
    if one is None:
        return {"question": asked, "verdict": UNKNOWN, "measured": "Clin-JEPA has no figure"}
    words = f"{_written(one, in_percent)} against {_written(other, in_percent)}; {UNPAIRED}"
    few = min(one["num_patients"], other["num_patients"])
    if few < MIN_CLAIM_PATIENTS:
        return {"question": asked, "verdict": UNKNOWN, "measured": f"{words}; {few} patients, {MIN_CLAIM_PATIENTS} are needed"}
    return {"question": asked, "verdict": apart(one, other, above=above), "measured": words}


def _part(question: str, figure: Figure | None, limit: _Limit, reason: str) -> Part:
    """reason: why there is no figure, where there is none."""
    if figure is None:
        return {"question": question, "verdict": UNKNOWN, "measured": reason}
    words = _written(figure, limit.in_percent)
    if figure["num_patients"] < MIN_CLAIM_PATIENTS:
        few = f"{words}; {figure['num_patients']} patients, {MIN_CLAIM_PATIENTS} are needed"
        return {"question": question, "verdict": UNKNOWN, "measured": few}
    verdict = side(figure, limit.value, above=limit.above)
    return {"question": question, "verdict": verdict, "measured": f"{words}, {figure['num_patients']} patients"}


def _written(figure: Figure, in_percent: bool) -> str:
    write = percent if in_percent else number
    if figure["ci95"] is None:
        return f"{write(figure['value'])} without an interval"
    low, high = figure["ci95"]
    seeds = figure.get("seeds", ())
    by_seed = f"; seeds {', '.join(write(value) for value in seeds)}" if seeds else ""
    return f"{write(figure['value'])} (95 %: {write(low)} to {write(high)}{by_seed})"


def _that_were_run(found: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [name for name in names if name in found]
