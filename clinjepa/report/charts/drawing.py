"""The frame of every chart: a matplotlib figure in px, its title, axes, texts and tips, and the `<svg>` element that comes of it.

matplotlib is used through its objects, never through pyplot; its settings hold only while one chart is drawn. Texts stay texts, are never
read as formulas, and are escaped by the XML writer. Equal charts have equal bytes.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict

from clinjepa.report.charts.page_svg import CARD, GRID, INK, QUIET, SLOTS, inline_svg
from clinjepa.report.charts.parts import tick_label

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

CHARACTER = 7.2
"""Width of a character of the size of TEXT, px; most fonts of pages are narrower."""
_WIDE_LETTERS = frozenset("MWmw%@")
TEXT, SMALL, HEADING = 12, 11, 13
"""Sizes of texts, px."""
MARKERS = "os^D"
_HEADING_LINE = 17
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


class Margins(NamedTuple):
    """Distances of axes from the edges of the chart below its title, px."""

    left: float
    top: float
    right: float
    bottom: float


class Look(NamedTuple):
    """How words look and which of their points lies at their place."""

    size: float = TEXT
    color: str = QUIET
    ha: Literal["left", "center", "right"] = "left"
    va: Literal["bottom", "baseline", "center", "top"] = "center"
    bold: bool = False
    turned: bool = False

    def settings(self) -> _Settings:
        """As properties of a matplotlib text."""
        weight: Literal["bold", "normal"] = "bold" if self.bold else "normal"
        return {"size": self.size, "color": self.color, "ha": self.ha, "va": self.va, "weight": weight, "rotation": 90 * self.turned}


class _Settings(TypedDict):
    size: float
    color: str
    ha: Literal["left", "center", "right"]
    va: Literal["bottom", "baseline", "center", "top"]
    weight: Literal["bold", "normal"]
    rotation: float


_PLAIN = Look()
CENTRED, TURNED = Look(ha="center"), Look(ha="center", turned=True)


@contextmanager
def drawing(title: str, alt: str, width: float, height: float) -> Iterator[Chart]:
    """A chart to draw on. Call its `svg` before leaving.

    Args:
        title: Heading; broken into lines where it is long.
        alt: The chart in words, for readers who cannot see it.
        width: px.
        height: Without the title, px.
    """
    import matplotlib  # here: an ingest starts without it

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's font draws it
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.fonttype"] = "none"
        matplotlib.rcParams["svg.hashsalt"] = "clinjepa"
        matplotlib.rcParams["text.parse_math"] = False
        yield Chart(title, alt, width, height)


class Chart:
    """One chart. Lengths are px; y counts downwards from the lower edge of the title."""

    def __init__(self, title: str, alt: str, width: float, height: float) -> None:
        from matplotlib.figure import Figure

        lines = textwrap.wrap(readable(title), max(12, int(width / (1.05 * CHARACTER)))) if title else []
        self.label = f"{title}. {alt}" if title else alt
        self.width, self.body, self.head = width, height, _HEADING_LINE * len(lines)
        self.figure = Figure(figsize=(width / 72, (height + self.head) / 72), frameon=False)
        self.tips: dict[str, Sequence[str]] = {}
        for place, line in enumerate(lines):
            self.text(0, _HEADING_LINE * place + 13 - self.head, line, Look(size=HEADING, color=INK, bold=True, va="baseline"))

    def axes(self, margins: Margins, *, left: bool = False) -> Axes:
        """Axes with a line below, and one at the left where asked for."""
        height = self.body + self.head
        place = (
            margins.left / self.width,
            margins.bottom / height,
            1 - (margins.left + margins.right) / self.width,
            1 - (margins.top + self.head + margins.bottom) / height,
        )
        axes = self.figure.add_axes(place)
        axes.patch.set_visible(False)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom" or (left and side == "left"))
            spine.set_color(QUIET)
        axes.tick_params(which="both", bottom=False, left=False, labelsize=SMALL, labelcolor=QUIET, pad=4)
        axes.set_axisbelow(True)
        return axes

    def text(self, x: float, y: float, words: str, look: Look = _PLAIN) -> None:
        """Words at a place of the chart."""
        height = self.body + self.head
        self.figure.text(x / self.width, 1 - (y + self.head) / height, readable(words), parse_math=False, **look.settings())

    def tip(self, artist: Artist, told: Sequence[str]) -> None:
        """Texts shown on hovering: one per marker of a line of markers, or one for a shape."""
        name = f"tip-{len(self.tips)}"
        artist.set_gid(name)
        self.tips[name] = [readable(text) for text in told]

    def svg(self) -> str:
        """The finished element."""
        from matplotlib.backends.backend_svg import FigureCanvasSVG

        for axes in self.figure.axes:
            for artist in (*axes.lines, *axes.collections, *axes.patches, *axes.texts):
                artist.set_clip_on(False)  # all data lie inside; so the page needs no clipping paths
        stream = io.StringIO()
        FigureCanvasSVG(self.figure)
        self.figure.savefig(stream, format="svg", metadata=_NO_METADATA)
        return inline_svg(stream.getvalue(), readable(self.label), (self.width, self.body + self.head), self.tips)


def readable(words: str) -> str:
    """Words without control characters, which no XML may hold."""
    return "".join(letter if letter.isprintable() else " " for letter in words)


def width_of(words: str) -> float:
    """Room for words of the size of TEXT in any usual font, px."""
    return sum(CHARACTER * (1.4 if letter in _WIDE_LETTERS else 1.15 if letter.isupper() else 1.0) for letter in words)


def slot_colour(slot: int) -> str:
    """Colour of a series."""
    return SLOTS[slot % len(SLOTS)]


def write(
    axes: Axes,
    at: tuple[float, float],
    words: str,
    look: Look = _PLAIN,
    *,
    share: Literal["", "x", "y"] = "",
    offset: tuple[float, float] = (0, 0),
) -> None:
    """Words at a place of the axes.

    Args:
        axes: Axes of the chart.
        at: Place in data; the coordinate that `share` names is a share of the axes' length instead.
        words: One line.
        look: Size, colour, alignment.
        share: "x", "y" or "" for none.
        offset: px to the right and upwards from the place.
    """
    places = {"x": axes.get_yaxis_transform(), "y": axes.get_xaxis_transform(), "": axes.transData}
    settings = look.settings()
    axes.annotate(readable(words), at, offset, zorder=5, xycoords=places[share], textcoords="offset points", parse_math=False, **settings)


def mark_points(chart: Chart, axes: Axes, slot: int, x: Sequence[float], y: Sequence[float], told: Sequence[str]) -> None:
    """A marker of the series at every place, with its tip."""
    if x:
        shape = MARKERS[slot % len(MARKERS)]
        drawn = axes.plot(x, y, shape, color=slot_colour(slot), markersize=9 if shape == "^" else 7.5, markeredgecolor=CARD, zorder=4)
        chart.tip(drawn[0], told)


def ticks_between(low: float, high: float, count: int) -> list[float]:
    """At most `count` + 1 round numbers from `low` to `high`."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    slack = 1e-9 * max(abs(low), abs(high), 1e-9)
    return [round(float(tick), 10) for tick in found if low - slack <= tick <= high + slack]


def number_axis(axes: Axes, which: str, ticks: Sequence[float], *, grid: bool) -> None:
    """Ticks with their numbers along `x` or `y`, and lines of a grid through them."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(list(ticks), labels=[tick_label(tick) for tick in ticks], minor=False)
    axis.set_ticks([], minor=True)
    if grid:
        axis.grid(True, color=GRID, linewidth=1)
