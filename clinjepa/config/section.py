"""How a group of settings is declared: typed, closed, frozen, and each field either changes results or only how they are computed.

Only fields that change results (the default) enter the keys of stages; the others are marked `Execution(...)`, so moving a run to more
workers or another bucket finds everything that is already done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from clinjepa.addresses import storage_address, tracker_address, written_out
from clinjepa.config.credentials import refuse_credentials
from clinjepa.errors import ConfigError

ADDRESS_FAULT = "address"
"""Type of a validation fault whose message does not repeat the value, which may contain a password."""


class Section(BaseModel):
    """A group of settings; unknown keys and credentials are errors and every field's docstring is its help text."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_credentials_and_stray_truth(cls, data: object) -> object:
        refuse_credentials(data, "")
        if isinstance(data, dict):
            for name, value in data.items():
                info = cls.model_fields.get(name)
                if isinstance(value, bool) and info is not None and not _takes_truth(info.annotation):
                    raise ValueError(f"{name}={str(value).lower()}: no truth value is taken here; write the number or the name")
        return data


def _takes_truth(annotation: Any) -> bool:
    """Whether a field of this annotation may be true or false."""
    return annotation in (bool, Any, object) or any(_takes_truth(inner) or isinstance(inner, bool) for inner in get_args(annotation))


def _checked(plain: Callable[[str], str]) -> AfterValidator:
    """A validator that puts an address into its plain form; null stays null."""

    def check(value: str | None) -> str | None:
        try:
            return None if value is None else plain(value)
        except ConfigError as error:
            raise PydanticCustomError(ADDRESS_FAULT, "{words}", {"words": str(error)}) from None

    return AfterValidator(check)


IS_ADDRESS = _checked(written_out)
"""Annotation of a setting that holds a folder or a URL of an object store."""

IS_STORAGE = _checked(storage_address)
"""Annotation of a setting that holds the address that a run writes to."""

IS_TRACKER = _checked(tracker_address)
"""Annotation of a setting that holds the address of a tracking server."""


def Execution(default: Any = ..., **kwargs: Any) -> Any:
    """A field that changes how a result is computed, never what it is: it enters no stage key."""
    return Field(default, json_schema_extra={"execution": True}, **kwargs)


def Added(default: Any, **kwargs: Any) -> Any:
    """A result field that came after stages with keys were in use: it enters a key only where it differs from its default."""
    return Field(default, json_schema_extra={"added": True}, **kwargs)


def is_execution(info: FieldInfo) -> bool:
    """Whether a field is marked `Execution(...)`."""
    extra = info.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("execution"))


def result_fields(section: BaseModel) -> dict[str, Any]:
    """The fields of `section` (nested sections included) that change results, as plain JSON values."""
    kept: dict[str, Any] = {}
    for name, info in type(section).model_fields.items():
        if is_execution(info):
            continue
        value = getattr(section, name)
        if isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("added") and value == info.default:
            continue
        kept[name] = result_fields(value) if isinstance(value, BaseModel) else section.model_dump(mode="json", include={name})[name]
    return kept


def execution_fields(section: BaseModel) -> dict[str, Any]:
    """The fields of `section` itself that change no result, with their values as they are."""
    return {name: getattr(section, name) for name, info in type(section).model_fields.items() if is_execution(info)}
