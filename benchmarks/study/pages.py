"""The tables of docs/study.md, made from `benchmarks/results/study.json`: `python -m benchmarks.study.pages` writes them into the page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.support.harness import RESULTS

PAGE = Path(__file__).parents[2] / "docs" / "study.md"
BEGIN, END = "<!-- made by benchmarks.study.pages -->", "<!-- end -->"
READ_BACK = ("heart_rate", "map", "spo2", "glucose")
PROBE = "linear"


def number(figure: dict[str, Any] | None, decimals: int = 3) -> str:
    """`0.731 (0.712 to 0.750)`; a dash where it could not be estimated."""
    if figure is None:
        return "–"
    value = f"{figure['value']:.{decimals}f}"
    if figure["ci95"] is None:
        return value
    low, high = figure["ci95"]
    return f"{value} ({low:.{decimals}f} to {high:.{decimals}f})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)])


def risk(part: dict[str, Any]) -> str:
    """AUROC from the history alone: every method by task."""
    tasks = list(part["auroc"])
    methods = dict.fromkeys(method for of in part["auroc"].values() for method in of)
    return table(["method", *tasks], ([method, *(number(part["auroc"][task].get(method)) for task in tasks)] for method in methods))


def from_lightgbm(part: dict[str, Any]) -> str:
    """Paired differences of the linear probes from LightGBM, with the verdict."""
    tasks = list(part["over_lightgbm"])
    words = {"not_below": "not below", "below": "below", "cannot_tell": "cannot be told"}
    methods = dict.fromkeys(method for of in part["over_lightgbm"].values() for method in of if method.endswith(PROBE))

    def cell(task: str, method: str) -> str:
        row = part["over_lightgbm"][task].get(method)
        return "–" if row is None else f"{number(row['difference'])}: {words[row['not_below']]}"

    return table(["recipe", *tasks], ([method.split(" · ")[0], *(cell(task, method) for task in tasks)] for method in methods))


def read_back(part: dict[str, Any]) -> str:
    """R² of the hour's values, read linearly from its latent, and the cost of one trial (mean over seeds)."""
    rows = []
    for recipe, values in part["roundtrip"].items():
        costs = list(part["costs"][recipe].values())
        mean = {name: sum(one[name] for one in costs) / len(costs) for name in ("seconds", "encoder_tokens")}
        cost = [f"{mean['seconds']:.0f}", f"{mean['encoder_tokens'] / 1e6:.1f}"]
        rows.append([recipe, *(f"{values[name]:.2f}" if name in values else "–" for name in READ_BACK), *cost])
    return table(["recipe", *READ_BACK, "seconds", "million encoder tokens of the phases"], rows)


def drift(part: dict[str, Any], context: str) -> str:
    """Change of the rollout's error from 1 h to the longest horizon, and the error over two controls by horizon."""
    rows = []
    for recipe, contexts in part["drift"].items():
        of = contexts[context]
        last = of["horizons"].get(str(of["h_max"]), {})
        changes = [number(of["drift"]), number(last.get("change_of_prediction")), number(of["drift_survivors"])]
        for control in ("vs_mean", "mase"):
            changes.append(", ".join(f"{hours} h {number(one.get(control), 2)}" for hours, one in of["horizons"].items() if one))
        rows.append([recipe, *changes])
    return table(
        ["recipe", "change", "of it the prediction's", "the survivors' version", "over the mean latent", "over copying the last hour"], rows
    )


def geometry(part: dict[str, Any]) -> str:
    """The headline cohort's displacement ratio, native space."""
    names = ("ratio", "mean_displacement_ratio", "farther_share")
    rows = []
    for recipe, of in part["geometry"].items():
        p = of.get("p_length")
        cells = [number(of.get(name), 2) for name in names]
        rows.append([recipe, str(of.get("cohort", "–")), str(of.get("num_pairs", "–")), *cells, "–" if p is None else f"{p:.3f}"])
    return table(["recipe", "cohort", "pairs", "ratio", "ratio of the patients' own distances", "share that moves farther", "p"], rows)


def claims(part: dict[str, Any]) -> str:
    return table(["claim", "answer"], ([one["claim"], f"**{one['verdict']}**"] for one in part["claims"]))


def coverage(part: dict[str, Any]) -> str:
    """Share of measured values inside the 90 % interval, by horizon."""
    hours = list(dict.fromkeys(hour for of in part["forecast_coverage_90"].values() for hour in of))
    rows = ([recipe, *(number(of.get(hour)) for hour in hours)] for recipe, of in part["forecast_coverage_90"].items())
    return table(["recipe", *(f"{hour} h" for hour in hours)], rows)


def added(part: dict[str, Any]) -> str:
    """AUROC of gradient boosting on features and latents minus that on features, all training patients."""
    rows = []
    for recipe, of in part["added_value"].items():
        for task, shares in of["tasks"].items():
            whole = list(shares["shares"].values())[-1]
            for estimator, inputs in whole.get("differences", {}).items():
                rows += [[recipe, task, estimator, name, number(one["auroc"])] for name, one in inputs.items()]
    return table(["recipe", "task", "estimator", "input minus features", "difference in AUROC"], rows)


def page_of(found: dict[str, Any]) -> str:
    """All tables with their headings."""
    written: list[str] = []
    for name, part in found.items():
        if "auroc" not in part:  # one set of figures for each frozen trial
            for recipe, of in part.items():
                written += [f"### {name}: {recipe}, frozen", from_lightgbm_or_risk(of)]
            continue
        written += [f"### {name}", f"{part['dataset']['num_stays']:,} stays of {part['dataset']['name']}.", claims(part)]
        written += ["AUROC from the history alone:", risk(part), "Minus LightGBM, paired:", from_lightgbm(part)]
        written += ["What the hour's latent holds (R²), and costs:", read_back(part)]
        context = "24" if all("24" in contexts for contexts in part["drift"].values()) else "6"
        written += [f"Drift after {context} h:", drift(part, context), "Geometry:", geometry(part)]
        if part["forecast_coverage_90"]:
            written += ["Coverage of 90 % intervals:", coverage(part)]
        if part["added_value"]:
            written += ["What latents add:", added(part)]
    return "\n\n".join(written)


def from_lightgbm_or_risk(part: dict[str, Any]) -> str:
    """A frozen trial has no gradient boosting of the new patients, only its own probes."""
    return from_lightgbm(part) if part["over_lightgbm"] else risk(part)


def written_page(page: str, found: dict[str, Any]) -> str:
    """The page with its made part replaced."""
    made = f"{BEGIN}\n{page_of(found)}\n{END}"
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: made, page, flags=re.DOTALL)


def main() -> None:
    found = json.loads((RESULTS / "study.json").read_text())["details"]["parts"]
    PAGE.write_text(written_page(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8")


if __name__ == "__main__":
    main()
