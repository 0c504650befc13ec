"""The structure of the code as data: which room may import which, no circle between files, no Ray below `pipelines/`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

MAY_IMPORT: dict[str, set[str]] = {
    "clinjepa.redaction_forms": set(),
    "clinjepa.redaction": {"redaction_forms"},
    "clinjepa.errors": {"redaction"},
    "clinjepa.addresses": {"errors"},
    "clinjepa.storage": {"redaction", "errors", "addresses"},
    "clinjepa.clinical": {"errors"},
    "clinjepa.config": {"redaction", "errors", "addresses"},
    "clinjepa.sources": {"redaction", "errors", "addresses", "storage", "clinical", "config"},
    "clinjepa.trajectory": {"errors", "storage", "clinical", "config", "sources"},
    "clinjepa.model": {"errors", "storage"},
    "clinjepa.curriculum": {"errors", "storage", "trajectory", "model"},
    "clinjepa.capacity": {"errors", "trajectory", "model", "curriculum"},
    "clinjepa.evaluation": {"errors", "storage", "clinical", "config", "sources", "trajectory", "model"},
    "clinjepa.report": {"redaction", "errors", "clinical", "trajectory", "evaluation"},
    "clinjepa.export": {"errors", "storage", "model", "curriculum"},
    "clinjepa.serving": {"errors", "storage", "clinical", "config", "sources", "trajectory", "model", "evaluation", "export"},
}
"""Rooms of the library from the lowest floor to the highest. Every room may also read the version in `clinjepa/__init__.py`, which
names the public API, loads it on first use, and so may name modules of every room of the library."""

PIPELINES_MAY_IMPORT: dict[str, set[str]] = {
    "pipelines.graph": set(),
    "pipelines.scheduling": {"pipelines.graph"},
    "pipelines.stages": {"pipelines.graph", "pipelines.scheduling"},
    "pipelines.results": {"pipelines.graph", "pipelines.scheduling", "pipelines.stages"},
    "pipelines.trials": {"pipelines.graph", "pipelines.scheduling", "pipelines.results"},
    "pipelines.terminal": {"pipelines.scheduling"},
    "pipelines.serving": {"pipelines.scheduling"},
}
"""Rooms of `pipelines/`. Each may import all of `clinjepa`; the commands beside them may import every room and each other."""

WITHOUT: dict[str, set[str]] = {
    "clinjepa": {"ray"},
    "clinjepa.model": {"pydantic", "polars", "pandas"},
    "clinjepa.curriculum": {"pydantic", "polars", "pandas"},
}
"""Libraries that a room must not import, not even inside a function."""


def _modules(root: Path) -> dict[str, Path]:
    """Dotted name of every module of `clinjepa` and `pipelines` below `root` -> its file."""
    found = {}
    for package in ("clinjepa", "pipelines"):
        for path in sorted((root / package).rglob("*.py")):
            dotted = path.relative_to(root).with_suffix("").as_posix().replace("/", ".")
            found[dotted.removesuffix(".__init__")] = path
    return found


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """What a file imports, whole names; a module of the project where the name is one."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {name if (name := f"{node.module}.{alias.name}") in modules else node.module for alias in node.names}
    return found


def room(module: str) -> str:
    """`clinjepa.model` for `clinjepa.model.encoding.encoder`; a command of `pipelines/` is in no room: `pipelines`."""
    parts = module.split(".")
    if parts[0] == "pipelines":
        return ".".join(parts[:2]) if ".".join(parts[:2]) in PIPELINES_MAY_IMPORT else "pipelines"
    return ".".join(parts[:2])


def floor_faults(root: Path) -> list[str]:
    """Imports from a room that the importing room may not use."""
    modules = _modules(root)
    faults = []
    for module, path in modules.items():
        here = room(module)
        for name in imports(path, modules):
            there = room(name)
            if name not in modules or there == here or name == "clinjepa":
                continue
            if here == "clinjepa":
                allowed = there.startswith("clinjepa.")
            elif here.startswith("clinjepa"):
                allowed = there.startswith("clinjepa.") and there.removeprefix("clinjepa.") in MAY_IMPORT.get(here, set())
            else:
                allowed = there.startswith("clinjepa") or here == "pipelines" or there in PIPELINES_MAY_IMPORT[here]
            if not allowed:
                faults.append(f"{module} imports {name}")
    return sorted(faults)


def library_faults(root: Path) -> list[str]:
    """Imports of libraries that the importing room must do without."""
    modules = _modules(root)
    return sorted(
        f"{module} imports {name}"
        for module, path in modules.items()
        for name in imports(path, modules)
        for place, libraries in WITHOUT.items()
        if (module == place or module.startswith(place + ".")) and name.partition(".")[0] in libraries
    )


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, imports inside functions included; empty when there is none.

    Without `clinjepa/__init__.py`: it imports its names on first use only, which `test_public_api.py` holds.
    """
    modules = {module: path for module, path in _modules(root).items() if module != "clinjepa"}
    graph = {module: imports(path, modules) & modules.keys() - {module} for module, path in modules.items()}
    state: dict[str, int] = {}
    way: list[str] = []

    def visit(module: str) -> list[str]:
        state[module] = 1
        way.append(module)
        for other in sorted(graph[module]):
            if state.get(other) == 1:
                return way[way.index(other) :] + [other]
            if other not in state and (found := visit(other)):
                return found
        way.pop()
        state[module] = 2
        return []

    for module in sorted(graph):
        if module not in state and (found := visit(module)):
            return found
    return []


def test_every_room_of_the_library_has_its_floor() -> None:
    names = {room(module) for module in _modules(ROOT) if module.startswith("clinjepa.")}
    assert names == set(MAY_IMPORT)


def test_a_room_imports_only_rooms_below_it() -> None:
    assert floor_faults(ROOT) == []


def test_floors_are_an_order() -> None:
    """Each room may import only rooms that stand before it in the table, so no two rooms can import each other."""
    for table, prefix in ((MAY_IMPORT, "clinjepa."), (PIPELINES_MAY_IMPORT, "")):
        for position, (_, allowed) in enumerate(table.items()):
            assert {prefix + name for name in allowed} <= set(list(table)[:position])


def test_no_circle_between_files() -> None:
    assert circle(ROOT) == []


def test_no_room_imports_a_library_it_must_do_without() -> None:
    assert library_faults(ROOT) == []


@pytest.mark.parametrize(
    ("where", "line", "find", "said"),
    [
        ("clinjepa/model/a.py", "import clinjepa.curriculum.jobs", floor_faults, "clinjepa.model.a imports clinjepa.curriculum.jobs"),
        ("pipelines/graph/a.py", "from pipelines.stages.b import x", floor_faults, "pipelines.graph.a imports pipelines.stages.b"),
        ("clinjepa/curriculum/a.py", "def f():\n    import ray.data", library_faults, "clinjepa.curriculum.a imports ray.data"),
        ("clinjepa/model/a.py", "import polars", library_faults, "clinjepa.model.a imports polars"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, where: str, line: str, find, said: str) -> None:
    for name in (where, "clinjepa/curriculum/jobs.py", "pipelines/stages/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(line + "\n" if name == where else "")
    assert find(tmp_path) == [said]


def test_a_circle_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "clinjepa" / "model"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text("def f():\n    from clinjepa.model.b import x\n")
    (folder / "b.py").write_text("import clinjepa.model.a\n")
    assert circle(tmp_path) == ["clinjepa.model.a", "clinjepa.model.b", "clinjepa.model.a"]
