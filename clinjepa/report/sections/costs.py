"""What recipes cost, and when stages ran: rows and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from markupsafe import Markup

from clinjepa.report.charts.rows import Point, Row, bar_chart
from clinjepa.report.charts.timeline import StageSpan, timeline_chart
from clinjepa.report.words import duration, stage_title, title

MOST_STAGES = 40
"""Stages in the timeline; of more, the longest are drawn."""


class CostRow(NamedTuple):
    """A row of the table of costs: means over seeds. Tokens are those through the encoder and the predictor's positions."""

    name: str
    num_steps: float
    encoder_tokens: float
    sft_tokens: float
    latent_tokens: float
    predictor_tokens: float
    seconds: float
    range_seconds: tuple[float, float] | None
    """Fewest and most seconds of a seed; None with one seed."""


def cost_rows(report: Mapping[str, Any]) -> list[CostRow]:
    """What each recipe cost, in the order of the run; empty in a report without costs."""
    rows = []
    for name, by_seed in report.get("costs", {}).items():
        means = {field: sum(costs[field] for costs in by_seed.values()) / len(by_seed) for field in CostRow._fields[1:-1]}
        seconds = [costs["seconds"] for costs in by_seed.values()]
        rows.append(CostRow(name, **means, range_seconds=(min(seconds), max(seconds)) if len(seconds) > 1 else None))
    return rows


def cost_charts(rows: Sequence[CostRow], slots: Mapping[str, int]) -> list[Markup]:
    """A bar per recipe of: steps, tokens through the encoder (SFT and latent stores included), predictor tokens, seconds."""
    measures = (
        ("Optimizer steps", "steps", [row.num_steps for row in rows]),
        ("Encoder tokens, all kinds", "tokens", [row.encoder_tokens + row.sft_tokens + row.latent_tokens for row in rows]),
        ("Predictor tokens", "tokens", [row.predictor_tokens for row in rows]),
        ("Time of its stages, mean and range over seeds", "seconds", [row.seconds for row in rows]),
    )
    charts = []
    for name, unit, values in measures:
        counts = [value if unit == "seconds" else round(value) for value in values]
        ends = [(row.range_seconds or (None, None)) if unit == "seconds" else (None, None) for row in rows]
        bars = [
            Row(title(row.name), [Point("", slots.get(row.name, 0), count, *range_)])
            for row, count, range_ in zip(rows, counts, ends, strict=True)
        ]
        alt = "; ".join(f"{bar.label}: {bar.points[0].value:g}" for bar in bars)
        charts.append(Markup(bar_chart(bars, title=name, x_label=unit, alt=alt, width=380)))
    return charts


def longest_stages(report: Mapping[str, Any]) -> Markup:
    """The 15 longest stages; those that the run found finished in the second colour."""
    timed = [stage for stage in report["stages"] if stage["seconds"]]
    longest = sorted(timed, key=lambda stage: -stage["seconds"])[:15]
    rows = [Row(stage_title(stage["name"]), [Point("", 1 if stage["reused"] else 0, stage["seconds"])]) for stage in longest]
    alt = "; ".join(f"{stage_title(stage['name'])} {duration(stage['seconds'])}" for stage in longest)
    return Markup(bar_chart(rows, title="", x_label="seconds", alt=f"Longest stages. {alt}"))


def timeline(report: Mapping[str, Any]) -> Markup:
    """Stages of the invocation that finished last, from the time at which their inputs were ready; nothing where no times are known."""
    own = _of_last_invocation(report)
    if not own:
        return Markup("")
    drawn = sorted(own, key=lambda stage: -stage["seconds"])[:MOST_STAGES]
    ends = {stage["key"]: datetime.fromisoformat(stage["ended"]).timestamp() for stage in drawn}
    first = min(ends[stage["key"]] - stage["seconds"] - (stage["waited_seconds"] or 0) for stage in drawn)
    spans = []
    for stage in drawn:
        end = ends[stage["key"]] - first
        start, waited = end - stage["seconds"], stage["waited_seconds"] or 0
        said = f"computed {duration(stage['seconds'])}" + (f", waited {duration(waited)}" if stage["waited_seconds"] is not None else "")
        spans.append(StageSpan(stage_title(stage["name"]), start - waited, start, end, f"{stage_title(stage['name'])}: {said}"))
    spans.sort(key=lambda span: (span.start, span.end))
    told = "; ".join(span.tip for span in spans)
    return Markup(timeline_chart(spans, title="", alt=f"{timeline_title(report)}. {told}"))


def timeline_title(report: Mapping[str, Any]) -> str:
    """The heading of the timeline; it says where not all stages are drawn."""
    count = len(_of_last_invocation(report))
    more = f" (the {MOST_STAGES} longest of {count})" if count > MOST_STAGES else ""
    return f"Stages of the invocation that computed last{more}"


def _of_last_invocation(report: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    known = [stage for stage in report["stages"] if stage.get("ended") and stage["seconds"] is not None]
    last = max(known, key=lambda stage: str(stage["ended"])).get("invocation") if known else None
    return [stage for stage in known if stage.get("invocation") == last]
