"""What matplotlib drew as an SVG file, made into an element of a page.

The page colours it: the colours of `drawing` become the variables of `templates/style.css`, so a chart follows light and dark screens.
Texts take the page's font. No text is copied as markup: the file is read as XML and written as XML.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from xml.etree import ElementTree as ET

INK, QUIET, GRID, BAND, CARD = "#1c2430", "#5d6877", "#e8ecf1", "#f1f4f8", "#ffffff"
SLOTS = ("#1f6fc4", "#d9722b", "#23906a", "#7d8590", "#8a5cc2", "#b8860b", "#c2417c", "#3a8f9e")
"""Colours of series, as `--s0` … `--s7` of the style sheet for light screens."""
VARIABLES = {INK: "ink", QUIET: "quiet", GRID: "grid", BAND: "band", CARD: "card"} | {colour: f"s{i}" for i, colour in enumerate(SLOTS)}
"""Colour of a drawing -> name of the style sheet's variable."""

_NAMESPACE = re.compile(r"^\{[^}]*\}")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT_FAMILY = re.compile(r"font-family:[^;]*;?\s*")
_FONT = re.compile(r"font:\s*(?:(\d+|bold|normal)\s+)?([\d.]+px)[^;]*")
_NOT_ROTATED = re.compile(r"rotate\(-?0 [^)]*\)")
_NOT_DRAWN = ("metadata", "style", "title", "clipPath")


def inline_svg(drawn: str, label: str, size: tuple[float, float], tips: Mapping[str, Sequence[str]]) -> str:
    """The `<svg>` element of a chart; it takes the width of its place up to 1.15 times its own.

    Args:
        drawn: The file of matplotlib's SVG backend.
        label: The chart in words, for readers who cannot see it.
        size: Width and height in px at which the chart was drawn.
        tips: Group id -> texts shown on hovering: one per marker of the group, or one for the whole group.
    """
    root = ET.fromstring(drawn)  # noqa: S314 - written by matplotlib in this process
    prefix = "c" + hashlib.sha256(f"{label}{drawn}".encode()).hexdigest()[:10]
    width, height = size
    attributes = {"class": "chart", "role": "img", "viewBox": f"0 0 {width:g} {height:g}"}
    attributes |= {"style": f"--width:{round(width)}px;max-width:{round(1.15 * width)}px", "aria-label": label}
    page = ET.Element("svg", attributes)
    for child in root:
        page.extend(_kept(child, tips, prefix))
    return ET.tostring(page, encoding="unicode")


def _kept(node: ET.Element, tips: Mapping[str, Sequence[str]], prefix: str) -> Iterator[ET.Element]:
    """The node as it stands in the page; a group that says nothing gives its children only."""
    tag = _NAMESPACE.sub("", node.tag)
    if tag in _NOT_DRAWN:
        return
    children = [kept for child in node for kept in _kept(child, tips, prefix)]
    told = tips.get(node.get("id", "")) if tag == "g" else None
    if tag in ("g", "defs") and (told is None or not children):
        yield from ([_element("defs", {}, children)] if tag == "defs" and children else children)
        return
    attributes = _attributes(node, tag, prefix)
    shown = _element(tag, attributes, children)
    shown.text = node.text if tag == "text" else None
    if told is not None:
        _add_tips(shown, told)
    yield shown


def _add_tips(group: ET.Element, told: Sequence[str]) -> None:
    """A `<title>` for each marker of the group, or one for the group."""
    group.attrib = {"class": "tip"}
    marks = list(group.iter("use")) or [group]
    for mark, text in zip(marks, told, strict=True):
        title = ET.Element("title")
        title.text = text
        mark.insert(0, title)


def _element(tag: str, attributes: dict[str, str], children: Sequence[ET.Element]) -> ET.Element:
    made = ET.Element(tag, attributes)
    made.extend(children)
    return made


def _attributes(node: ET.Element, tag: str, prefix: str) -> dict[str, str]:
    found = {}
    for name, value in node.attrib.items():
        name = _NAMESPACE.sub("", name)
        if name == "clip-path":
            continue
        if name == "id":
            if tag != "path":
                continue
            value = prefix + value
        elif name == "href":
            value = f"#{prefix}{value[1:]}"
        elif name == "style":
            value = _style(value)
        else:
            value = _LONG_NUMBER.sub(lambda long: f"{float(long.group()):.2f}".rstrip("0").rstrip("."), value).replace("\n", "").strip()
        value = _NOT_ROTATED.sub("", value).strip() if name == "transform" else value
        if value:
            found[name] = value
    return found


def _style(style: str) -> str:
    style = _FONT_FAMILY.sub("", style)
    style = _FONT.sub(lambda font: f"font-size: {font.group(2)}" + (f"; font-weight: {font.group(1)}" if font.group(1) else ""), style)
    named = _COLOUR.sub(lambda colour: f"var(--{VARIABLES[colour.group()]})" if colour.group() in VARIABLES else colour.group(), style)
    return named.replace(": ", ":").replace("; ", ";").strip("; ")
