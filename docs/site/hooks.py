"""mkdocs hooks: pages from files outside `docs/`, and links that are right on the site as they are in the repository."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "cluster/README.md": "cluster_files.md",
}
"""Path in the repository -> page of the site, for what lies outside `docs/`."""

_SOURCES = {page: source for source, page in PAGES.items()}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside `docs/`."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Point every relative link at the page of the site. A link to a file that is no page becomes its text."""
    source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return _LINK.sub(lambda link: _on_site(link, source), markdown)


def _on_site(link: re.Match[str], source: str) -> str:
    mark, text, target = link.groups()
    if "://" in target or target.startswith(("#", "mailto:")):
        return link[0]
    path, _, anchor = target.partition("#")
    found = os.path.normpath(os.path.join(os.path.dirname(source), path)).replace(os.sep, "/")
    place = PAGES.get(found) or (found.removeprefix("docs/") if found.startswith("docs/") else None)
    if place is None:
        return text
    return f"{mark}[{text}]({place}{'#' + anchor if anchor else ''})"
