"""How a group of settings is declared: typed, closed, frozen, and each field either changes results or only how they are computed.

Only fields that change results (the default) enter the keys of stages; the others are marked `Execution(...)`, so moving a run to more
workers or another bucket finds everything that is already done.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings; unknown keys are errors and every field's docstring is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def Execution(default: Any = ..., **kwargs: Any) -> Any:
    """A field that changes how a result is computed, never what it is: it enters no stage key."""
    return Field(default, json_schema_extra={"execution": True}, **kwargs)


def result_fields(section: BaseModel) -> dict[str, Any]:
    """The fields of `section` (nested sections included) that change results, as plain JSON values."""
    kept: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        extra = info.json_schema_extra
        if isinstance(extra, dict) and extra.get("execution"):
            continue
        value = getattr(section, name)
        kept[name] = result_fields(value) if isinstance(value, BaseModel) else section.model_dump(mode="json", include={name})[name]
    return kept
