"""The configuration as a page of documentation: `python -m clinjepa.config.reference > docs/configuration.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from clinjepa.config.schema import Config

HEAD = """# Configuration

One YAML file describes one experiment; the project's files are in `configs/`. `extends: other.yaml` starts from another file,
relative to this one. On the command line every field can be set by its dotted name, with a YAML value:
`clinjepa run configs/demo.yaml curriculum.num_steps=200 evaluation.drift.contexts='[6, 12]'`. Unknown keys are errors. Every run
saves its complete configuration, defaults included.

Fields marked **execution** change how a result is computed, never the result. They enter no stage key, so a run on more workers or
in another bucket reuses every finished stage.

This page is generated: `python -m clinjepa.config.reference > docs/configuration.md`.
"""


def reference() -> str:
    """The whole page as Markdown: every section with its fields, types, defaults and help texts."""
    parts = [HEAD]
    for name, section in _sections("", Config):
        about = " ".join((section.__doc__ or "").split())
        rows = [_row(field, info) for field, info in section.model_fields.items() if _nested(info) is None]
        if rows:
            table = "\n".join(["| field | type | default | meaning |", "|---|---|---|---|", *rows])
            parts.append(f"\n## {f'`{name}`' if name else 'Top level'}\n{about}\n\n{table}\n")
    return "".join(parts)


def _sections(name: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, section
    for field, info in section.model_fields.items():
        nested = _nested(info)
        if nested is not None:
            yield from _sections(f"{name}.{field}" if name else field, nested)


def _nested(info: FieldInfo) -> type[BaseModel] | None:
    return info.annotation if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel) else None


def _row(name: str, info: FieldInfo) -> str:
    extra = info.json_schema_extra
    marked = "**execution** " if isinstance(extra, dict) and extra.get("execution") else ""
    default = yaml.safe_dump(_plain(info.default), default_flow_style=True, width=10_000).replace("\n...", "").strip()
    about = " ".join((info.description or "").split())
    cells = [f"`{name}`", _type(info.annotation), f"`{default}`", f"{marked}{about}".strip()]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is list:
        return f"list of {_type(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        key, value = (_type(part) for part in get_args(annotation))
        return f"map of {key} to {value}"
    if isinstance(annotation, type) and get_origin(annotation) is None:
        return annotation.__name__
    named = re.sub(r"(?:[a-z_]+\.)+([A-Z]\w*)", r"\1", str(annotation))  # without modules
    return named.replace("NoneType", "null").replace("None", "null")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


if __name__ == "__main__":
    sys.stdout.write(reference())
