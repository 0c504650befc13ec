"""The public API as a page of documentation: `python docs/site/api_page.py > docs/api.md` in the root of the repository.

Every name of `clinjepa.__all__` with its signature and docstring; of a class also its public methods and properties.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import clinjepa  # noqa: E402

HEAD = """# Public API

What a program may import from `clinjepa`. A name is loaded on first use, so `import clinjepa` loads neither torch nor pyarrow.
Everything else below `clinjepa/` may change without notice. `clinjepa.errors` has a class for each kind of fault; all of them are
subclasses of `ClinJepaError`. The fields of `Config` are in [configuration.md](configuration.md).

```python
from clinjepa import Folder, LatentReader, TextEncoder, load_config
```

Letters at the end of a name give a tensor's shape: B batch, N rows, T hours, U hours of actions, D width of a latent, H hidden width
or predicted hours, R rows and S places of a pack, L places in a row. Times are in hours, latents have no unit.

This page is generated: `python docs/site/api_page.py > docs/api.md`.
"""
_SECTION = re.compile(r"^(Args|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes|Source):\s*$")


class _Text:
    """An annotation that prints as it was written."""

    def __init__(self, text: Any) -> None:
        self.text = text if isinstance(text, str) else inspect.formatannotation(text)

    def __repr__(self) -> str:
        return self.text


def api_page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for module, names in clinjepa._PUBLIC.items():
        parts.append(f"\n## `clinjepa.{module}`\n")
        parts += [_entry(name, getattr(import_module(f"clinjepa.{module}"), name)) for name in names]
    return "".join(parts)


def _entry(name: str, value: Any) -> str:
    text = f"\n### {name}\n```python\n{_signature(name, value)}\n```\n{markdown(value)}\n"
    if not inspect.isclass(value):
        return text
    if fields := list(_fields(value)):
        text += "\n" + "\n".join(f"- `{field}`: {about}" for field, about in fields) + "\n"
    for member, what in _members(value):
        shown = f"{name}.{_signature(member, what) if inspect.isfunction(what) else member}"
        text += f"\n```python\n{shown}\n```\n{markdown(what)}\n" if "\n" in shown else f"\n**`{shown}`**\n\n{markdown(what)}\n"
    return text


def _fields(cls: type) -> Iterator[tuple[str, str]]:
    """Fields that a docstring follows, with that docstring as one paragraph; the fields of settings are on other pages."""
    if hasattr(cls, "model_fields"):
        return
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    for field, following in itertools.pairwise(tree.body):
        said = following.value.value if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant) else None
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, str):
            yield field.target.id, " ".join(said.split())


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that the class itself defines with a docstring, in the order of the file."""
    for name, raw in vars(cls).items():
        what = raw.__func__ if isinstance(raw, (classmethod, staticmethod)) else raw
        is_member = inspect.isfunction(what) or isinstance(raw, property) or type(raw).__name__ == "cached_property"
        if is_member and not (name.startswith("_") and name != "__call__") and what.__doc__ and not hasattr(what, "decorator_info"):
            yield name, what


def _signature(name: str, value: Any) -> str:
    if inspect.isclass(value) and ("__init__" not in vars(value) or issubclass(value, Exception)):
        return f"class {name}"
    given = inspect.signature(value)
    shown = [
        p if p.annotation is p.empty else p.replace(annotation=_Text(p.annotation))
        for p in given.parameters.values()
        if p.name not in ("self", "cls")
    ]
    returns = given.return_annotation
    silent = inspect.isclass(value) or returns is given.empty
    found = given.replace(parameters=shown, return_annotation=given.empty if silent else _Text(returns))
    whole = f"{name}{found}"
    if len(whole) <= 110:
        return whole
    words = [str(p) for p in shown]
    keyword_only = [i for i, p in enumerate(shown) if p.kind is p.KEYWORD_ONLY]
    if keyword_only and not any(p.kind is p.VAR_POSITIONAL for p in shown):
        words.insert(keyword_only[0], "*")
    arrow = "" if silent else f" -> {returns}"
    return "\n".join([f"{name}(", *(f"    {word}," for word in words), f"){arrow}"])


def markdown(value: Any) -> str:
    """A Google-style docstring as Markdown: its paragraphs as they are, `Args:` and the like as a bold word and a list."""
    out: list[str] = []
    in_section = False
    for line in (inspect.getdoc(value) or "").splitlines():
        if _SECTION.match(line):
            in_section = True
            out += ["", f"**{line.strip().rstrip(':')}**", ""]
        elif in_section and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = line.strip().partition(": ")
            named = colon and re.fullmatch(r"[\w*, .|\[\]]+", name) and len(name) < 60
            out.append(f"- `{name}`: {rest}" if named else f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            out.append("  " + line.strip())
        else:
            in_section = in_section and not line.strip()
            out.append(line)
    return "\n".join(out).strip()


if __name__ == "__main__":
    sys.stdout.write(api_page())
