"""Loss and collapse diagnostics of a recipe over its phases, one chart per quantity, phases as shaded stretches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clinjepa.report.charts.lines import LineStyle, Series, line_chart
from clinjepa.report.charts.parts import number

PANELS = (
    ("steps", "loss", "Training loss", "L1, latent units", None),
    ("diagnostics", "rankme", "Effective rank of state latents (RankMe)", "rank", 1.0),
    ("diagnostics", "latent_std", "Spread of state latents", "std, latent units", 0.0),
)
SHORT = {"warmup": "warmup", "joint": "joint", "alignment": "align", "finalization": "final"}


def training_charts(by_seed: Mapping[str, Sequence[Mapping[str, Any]]], slot: int) -> list[str]:
    """SVG charts of one recipe. by_seed: seed to its phases in order, each the phase's metrics.json with its `name`.

    Steps count over the whole curriculum. Quantities that no phase has logged are left out.
    """
    phases = next(iter(by_seed.values()), [])
    bands = [(edges[0], edges[1], SHORT.get(phase["name"], phase["name"])) for phase in phases if (edges := _edges(phase))]
    charts = []
    for source, field, name, unit, floor in PANELS:
        series = [_series(seed, seed_phases, source, field, slot) for seed, seed_phases in by_seed.items()]
        series = [line for line in series if len(line.x) > 0]
        if not series:
            continue
        told = "; ".join(
            f"{line.label}: {_written(line.y[0])} at step {line.x[0]}, {_written(line.y[-1])} at step {line.x[-1]}" for line in series
        )
        few = max(len(line.x) for line in series) <= 24
        charts.append(
            line_chart(
                series,
                title=name,
                x_label="optimizer step",
                y_label=unit,
                alt=told,
                style=LineStyle(log_y=field == "loss", floor=floor, bands=bands, markers=few),
            )
        )
    return charts


def _written(value: float | None) -> str:
    return "–" if value is None else number(value)


def _series(seed: str, phases: Sequence[Mapping[str, Any]], source: str, field: str, slot: int) -> Series:
    rows = [(row["step"], row[field]) for phase in phases for row in phase.get(source, []) if row.get(field) is not None]
    return Series(f"seed {seed}", slot, [step for step, _ in rows], [value for _, value in rows])


def _edges(phase: Mapping[str, Any]) -> tuple[float, float] | None:
    steps = [row["step"] for row in phase.get("steps", [])]
    return (min(steps), max(steps)) if steps else None
