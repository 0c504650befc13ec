"""What `clinjepa` offers: every name is there, documented and loaded on first use; docs/api.md says the same."""

from __future__ import annotations

import ast
import inspect
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import clinjepa
from tests.support.machines.cli import environment

ROOT = Path(__file__).parents[2]


def test_importing_the_package_loads_nothing_but_the_package() -> None:
    """Neither a library nor a room: what was loaded besides the standard library is `clinjepa` alone."""
    code = (
        "import sys; before = set(sys.modules); import clinjepa; dir(clinjepa)\n"
        "print(*sorted(n for n in set(sys.modules) - before if n.partition('.')[0] not in sys.stdlib_module_names))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(PYTHONPATH=str(ROOT)),
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["clinjepa"]


@pytest.mark.parametrize("name", clinjepa.__all__)
def test_public_name_is_there_and_has_a_docstring(name: str) -> None:
    value = getattr(clinjepa, name)
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    assert own and len(own.split()) >= 3
    undocumented = [
        member
        for member, what in (vars(value).items() if inspect.isclass(value) else ())
        if inspect.isfunction(what) and not member.startswith("_") and not what.__doc__ and not hasattr(value, "model_fields")
    ]
    assert undocumented == []


def test_the_lists_of_public_names_agree() -> None:
    tree = ast.parse(Path(clinjepa.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in ast.walk(block) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == clinjepa._MODULE_OF
    assert sorted(typed) == clinjepa.__all__
    assert dir(clinjepa) == sorted([*clinjepa.__all__, "__version__"])


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'load_confg'"):
        clinjepa.load_confg  # noqa: B018


def test_the_page_on_the_public_api_is_current() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "site" / "api_page.py"))["api_page"]()
    current = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert current == page, "docs/api.md is behind the code: python docs/site/api_page.py > docs/api.md"
