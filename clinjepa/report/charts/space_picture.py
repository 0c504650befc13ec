"""A picture of a latent space in two dimensions as a PNG that can stand inside a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

GROUP_COLOURS = {"stable": "#2f8f9d", "deteriorating": "#d9563f"}
OTHER_COLOURS = ("#8a8f98", "#a07cc5", "#b08b3e")


def group_colours(groups: Sequence[str]) -> dict[str, str]:
    """Colour of every group; readable on a light and on a dark page."""
    others = [name for name in dict.fromkeys(groups) if name not in GROUP_COLOURS]
    named = {name: colour for name, colour in GROUP_COLOURS.items() if name in set(groups)}
    return {**{name: OTHER_COLOURS[i % len(OTHER_COLOURS)] for i, name in enumerate(sorted(others))}, **named}


def scatter_data_url(
    points: Sequence[Sequence[float]], groups: Sequence[str], paths: Mapping[str, Sequence[Sequence[float]]] | None = None
) -> str:
    """Points [N, 2] coloured by their group, transparent background, as a `data:image/png` address. Groups are drawn small ones last.

    Args:
        points: Places.
        groups: Group of each point.
        paths: Group -> places of its centre in the order of the hours; drawn as a line from a ring (t0) to a diamond (the end).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: an ingest writes a page too, without a picture
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.6, 3.2), dpi=144)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    colours = group_colours(groups)
    sizes = {name: sum(group == name for group in groups) for name in colours}
    marker = max(3.0, min(16.0, 6000 / max(len(points), 1)))
    for name in sorted(colours, key=lambda group: -sizes[group]):
        chosen = [point for point, group in zip(points, groups, strict=True) if group == name]
        axes.scatter([p[0] for p in chosen], [p[1] for p in chosen], s=marker, c=colours[name], alpha=0.5, linewidths=0)
    for name, path in (paths or {}).items():
        colour = GROUP_COLOURS.get(name, OTHER_COLOURS[0])
        x, y = [p[0] for p in path], [p[1] for p in path]
        axes.plot(x, y, color="white", linewidth=4.5, solid_capstyle="round")
        axes.plot(x, y, color=colour, linewidth=2.5, solid_capstyle="round")
        axes.scatter(x[:1], y[:1], s=60, facecolors="white", edgecolors=colour, linewidths=2, zorder=3)
        axes.scatter(x[-1:], y[-1:], s=70, marker="D", facecolors=colour, edgecolors="white", linewidths=1.2, zorder=4)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", transparent=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
