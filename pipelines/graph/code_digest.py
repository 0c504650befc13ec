"""Digests of the code that makes a kind of artifact, computed from the source files without importing them.

A stage's key holds its format version, not its code. The manifest records this digest beside it, so that `plan` and the report can show
which reused stages were made by other code.

The digest of a kind covers the modules that its executor `run_<kind>_stage` uses. Imports are followed by name: a module that provides one
function brings in what that function uses, not what its neighbours use. Every module reached counts as a whole, without comments, layout
and docstrings. YAML and JSON files beside a reached module count by their content.

Not covered is code whose decisions stand in the key as values: `clinjepa.config` and `pipelines.graph` make the settings, and clinical
definitions and recipes enter keys by content. `pipelines.scheduling` decides when a stage runs, `clinjepa.errors` holds messages.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import threading
from collections.abc import Container, Iterable, Iterator
from pathlib import Path

import yaml

from clinjepa.storage.strays import is_stray

ROOT = Path(__file__).parents[2]
PACKAGES = ("clinjepa", "pipelines")
_NOT_FOLLOWED = ("clinjepa.config", "clinjepa.errors", "pipelines.graph", "pipelines.scheduling")
_DATA_IN_KEYS = ("clinjepa/clinical/", "clinjepa/curriculum/recipes/")

Target = tuple[str, str | None]
"""A module and a name in it; None stands for the whole module."""

_PARSING = threading.Lock()
"""One thread parses at a time: `ast.parse` of two threads at once may raise SystemError (Python 3.11, python/cpython#106905)."""


@functools.cache
def code_digest(kind: str, root: Path = ROOT) -> str:
    """Digest of the code that makes artifacts of a kind of stage.

    Args:
        kind: kind of stage.
        root: folder that holds the packages `clinjepa` and `pipelines`.

    Returns:
        16 hexadecimal digits.

    Raises:
        KeyError: no module of `pipelines/stages/` defines `run_<kind>_stage`.
    """
    reached = used_modules(kind, root)
    sha = hashlib.sha256()
    for name in reached:
        sha.update(name.encode() + b"\0" + _module(root, name).content)
    folders = {_files(root)[name].parent for name in reached}
    for path in sorted(path for folder in folders for path in _data_files(root, folder)):
        sha.update(path.relative_to(root).as_posix().encode() + b"\0" + _data(path))
    return sha.hexdigest()[:16]


@functools.cache
def project_digest(root: Path = ROOT) -> str:
    """Digest of the bytes of all code and data files of the project: what wrote a report or an export."""
    sha = hashlib.sha256()
    found = {path.relative_to(root).as_posix(): path for package in PACKAGES for path in (root / package).rglob("*")}
    for name in sorted(name for name, path in found.items() if path.suffix in {".py", ".yaml", ".json"} and not is_stray(name)):
        sha.update(name.encode() + b"\0" + found[name].read_bytes())
    return sha.hexdigest()[:16]


def used_modules(kind: str, root: Path = ROOT) -> list[str]:
    """Names of the modules that the digest of a kind covers, sorted."""
    executor = f"run_{kind}_stage"
    stages = [name for name in _files(root) if name.startswith("pipelines.stages.")]
    waiting: list[Target] = [(name, executor) for name in stages if executor in _module(root, name).defined]
    if not waiting:
        raise KeyError(f"no module of pipelines/stages defines {executor}")
    seen: set[Target] = set()
    while waiting:
        target = waiting.pop()
        if target in seen or target[0].startswith(_NOT_FOLLOWED):
            continue
        seen.add(target)
        waiting += _module(root, target[0]).uses(target[1])
    return sorted({module for module, _ in seen})


class _Module:
    """What a source file defines, and what each definition refers to."""

    def __init__(self, name: str, path: Path, known: Container[str]) -> None:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                node.body = [each for each in node.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]
        self.content = ast.dump(tree).encode()
        """The syntax tree without docstrings, as text."""
        self.defined: dict[str, list[ast.stmt]] = {}
        self.imported: dict[str, Target] = {}
        """Names that imports at module level bind."""
        self._name, self._known = name, known
        effects: list[ast.stmt] = []
        for statement in _statements(tree.body):
            if isinstance(statement, ast.Import | ast.ImportFrom):
                self.imported |= _targets(statement, known)
            elif names := _names(statement):
                for each in names:
                    self.defined.setdefault(each, []).append(statement)
            else:
                effects.append(statement)
        self._of_effects = self._references(effects)
        """What statements that run on import and define no name refer to."""

    def uses(self, name: str | None) -> list[Target]:
        """What a definition refers to, in this file or in others; None: all definitions."""
        if name is None:
            return [*self.imported.values(), *((self._name, each) for each in self.defined), *self._of_effects]
        if name in self.defined:
            return [*self._references(self.defined[name]), *self._of_effects]
        return [self.imported[name]] if name in self.imported else []

    def _references(self, nodes: Iterable[ast.stmt]) -> list[Target]:
        found: list[Target] = []
        for part in _without_annotations(nodes):
            if isinstance(part, ast.Import | ast.ImportFrom):
                found += _targets(part, self._known).values()
            elif isinstance(part, ast.Name):
                if part.id in self.defined:
                    found.append((self._name, part.id))
                elif part.id in self.imported:
                    found.append(self.imported[part.id])
        return found


@functools.cache
def _files(root: Path) -> dict[str, Path]:
    """Dotted name of every module of the project -> its file."""
    found = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            if is_stray(path.relative_to(root).as_posix()):
                continue
            dotted = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            found[dotted.removesuffix(".__init__")] = path
    return found


@functools.cache
def _module(root: Path, name: str) -> _Module:
    with _PARSING:
        return _Module(name, _files(root)[name], _files(root))


def _statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements at module level, those inside `if` and `try` included."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            handlers = [each for handler in getattr(node, "handlers", []) for each in handler.body]
            yield from _statements([*node.body, *handlers, *node.orelse, *getattr(node, "finalbody", [])])
        else:
            yield node


def _names(statement: ast.stmt) -> list[str]:
    """Names that a statement binds."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Assign):
        return [node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    if isinstance(statement, ast.AnnAssign | ast.AugAssign):
        return [node.id for node in ast.walk(statement.target) if isinstance(node, ast.Name)]
    return []


def _targets(statement: ast.Import | ast.ImportFrom, known: Container[str]) -> dict[str, Target]:
    """Bound name -> what it stands for, of imports from the project."""
    if isinstance(statement, ast.Import):
        return {alias.asname or alias.name: (alias.name, None) for alias in statement.names if alias.name in known}
    source, found = statement.module or "", dict[str, Target]()
    for alias in statement.names:
        if (whole := f"{source}.{alias.name}") in known:
            found[alias.asname or alias.name] = (whole, None)
        elif source in known:
            found[alias.asname or alias.name] = (source, alias.name)
    return found


def _without_annotations(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """These nodes and all below them, without the annotations of functions, which decide nothing."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        yield node
        for name in node._fields:
            if name == "returns" or (name == "annotation" and isinstance(node, ast.arg)):
                continue
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                waiting.append(value)
            elif isinstance(value, list):
                waiting += [each for each in value if isinstance(each, ast.AST)]


def _data_files(root: Path, folder: Path) -> list[Path]:
    """YAML and JSON files of a folder whose content is not in keys."""
    found = [path for path in folder.iterdir() if path.suffix in {".yaml", ".json"} and not is_stray(path.name)]
    return [path for path in found if not path.relative_to(root).as_posix().startswith(_DATA_IN_KEYS)]


@functools.cache
def _data(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    value = json.loads(text) if path.suffix == ".json" else yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return json.dumps(value, sort_keys=True, default=str).encode()
