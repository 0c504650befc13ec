"""What README and docs name exists: links, anchors, files, modules, commands, configurations; the site builds without network."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import typer.main
import yaml

import clinjepa
from clinjepa.config import load_config
from pipelines.cli import app
from pipelines.graph.stage import FORMAT_VERSIONS
from tests.support.machines.cli import environment

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "cluster").glob("*.md")])
PACKAGES = ("clinjepa", "pipelines", "benchmarks", "tests", "docs", "configs", "cluster")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(rf"(?<![\w/.$:-])(?:{'|'.join(PACKAGES)})/[\w./*-]*[\w/]")
MODULE = re.compile(r"(?<![\w/.-])(?:clinjepa|pipelines|benchmarks)(?:\.\w+)+")
WRITTEN_BY_USERS = {
    "clinjepa/evaluation/baselines/tabular/neighbours.py",
    "configs/sweep.yaml",
    "direction_terms.py",
    "clinjepa/sources/ward.py",
    "clinjepa/clinical/maps/ward.yaml",
    "clinjepa/clinical/tasks/low_map_4h.yaml",
    "configs/ward.yaml",
}
"""Files that the reader of a page is asked to write."""


def prose(text: str) -> str:
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str, since: str = "", until: str = "") -> list[str]:
    """Fenced blocks of a language, of the whole page or from the line that begins with `since` to the one that begins with `until`."""
    text = page.read_text(encoding="utf-8")
    text = text[text.index("\n" + since) :].partition("\n" + until)[0] if since else text
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_anchor_leads_somewhere(page: Path) -> None:
    wrong = []
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            wrong.append(target)
    assert wrong == []


@cache
def defined(file: Path) -> set[str]:
    """Names that a module defines or imports at its top."""
    names = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            names |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    return names | (set(clinjepa.__all__) if file == ROOT / "clinjepa" / "__init__.py" else set())


def known_name(dotted: str) -> bool:
    """Whether a dotted name is a module or package, or something that one defines."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
        if file.is_file():
            return length == len(parts) or parts[length] in defined(file)
    return False


def missing(text: str) -> list[str]:
    paths = {found for found in PATH.findall(text) if not any(ROOT.glob(found.rstrip("/")))} - WRITTEN_BY_USERS
    modules = {name for name in MODULE.findall(text) if not name.endswith((".md", ".yaml", ".log")) and not known_name(name)}
    return sorted(paths | modules)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert missing(text) == []
    tracked = [str(path.relative_to(ROOT)) for name in PACKAGES for path in (ROOT / name).rglob("*.py")] + sorted(WRITTEN_BY_USERS)
    short = {name for name in re.findall(r"`([\w/]+\.py)`", text) if not any(f"/{path}".endswith(f"/{name}") for path in tracked)}
    assert sorted(short) == []


def test_a_name_that_is_gone_is_found() -> None:
    text = "`clinjepa/storage/object_store.py`, `clinjepa.model.io`, `clinjepa.model.rollout.gone`, `clinjepa.model.rollout.rollout`"
    assert missing(text) == ["clinjepa.model.io", "clinjepa.model.rollout.gone", "clinjepa/storage/object_store.py"]


def commands(page: Path, since: str = "", until: str = "") -> Iterator[list[str]]:
    """Words of every `clinjepa …` and `python -m …` line in the page's shell blocks, without comments."""
    for block in [block for language in ("sh", "console", "") for block in blocks(page, language, since, until)]:
        for line in block.replace("\\\n", " ").splitlines():
            line = line.partition(" -- ")[2] or line if "ray job submit" in line else line
            if re.match(r"(\$ )?(clinjepa|python -m|\.venv/bin/python -m) ", line):
                yield shlex.split(line.removeprefix("$ "), comments=True)


def test_pages_have_commands_to_check() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) >= 25


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_and_its_configuration_loads(page: Path) -> None:
    top = typer.main.get_command(app)
    for words in commands(page):
        if words[0] != "clinjepa":
            module = words[words.index("-m") + 1]
            assert module == "pytest" or known_name(module), module
            names = module.split(".")[1:] if module.startswith("pipelines.") else None
            rest = words[words.index("-m") + 2 :]
        else:
            names, rest = words[1:2], words[2:]
            if names == ["data"]:
                names, rest = words[1:3], words[3:]
        if names is None:
            continue
        command = top
        for name in names:
            known = getattr(command, "commands", {})
            if name in known:
                command = known[name]
            else:
                assert words[0] != "clinjepa" and (ROOT / "pipelines" / f"{name}.py").is_file(), " ".join(words)
        configs = [word for word in rest if word.startswith("configs/") and word not in WRITTEN_BY_USERS]
        for config in configs:
            load_config(ROOT / config, [word for word in rest if re.match(r"[a-z_.]+=", word)])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_and_yaml_blocks_are_python_and_yaml(page: Path) -> None:
    """docs/contracts.md and docs/api.md list signatures, which are not a program."""
    for block in blocks(page, "python") if page.name not in ("contracts.md", "api.md") else []:
        ast.parse(block)
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = list((tmp_path / "site").glob("*.html"))
    assert len(pages) >= len(PAGES) and (tmp_path / "site" / "search" / "search_index.json").is_file()
    loaded = [
        (page.name, address)
        for page in pages
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text(encoding="utf-8"))
        for address in re.findall(r'(?:src|href)="((?:https?:)?//[^"]*)"', tag)
        if 'rel="canonical"' not in tag
    ]
    assert loaded == []


def test_the_changelog_has_the_schema_versions_of_the_code() -> None:
    """A module with a `SCHEMA_VERSION` is in the table, with that number."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    listed = {
        module: int(version)
        for module, version in re.findall(r"\| `([\w/]+\.py)` \| (\d+) \|", changelog.partition("## Format versions")[0])
    }
    found = {}
    for package in ("clinjepa", "pipelines"):
        for path in sorted((ROOT / package).rglob("*.py")):
            if version := re.search(r"^SCHEMA_VERSION(?:: \w+)? = (\d+)$", path.read_text(encoding="utf-8"), re.MULTILINE):
                found[str(path.relative_to(ROOT))] = int(version[1])
    assert listed == found


def test_the_changelog_has_the_format_versions_of_the_code() -> None:
    """Only of the newest version's section, which comes first."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").split("\n## ")[1]
    listed = dict(re.findall(r"^\| (\w+) \| (\d+) \|$", changelog.partition("### Format versions")[2], re.MULTILINE))
    assert {kind: int(version) for kind, version in listed.items()} == FORMAT_VERSIONS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_table_row_is_too_long_to_read(page: Path) -> None:
    """docs/configuration.md is generated: a row holds the whole description of a setting."""
    limit = 450 if page.name == "configuration.md" else 380
    assert [row[:60] for row in page.read_text(encoding="utf-8").splitlines() if row.startswith("|") and len(row) > limit] == []
